/*
 * lock.pml - lock words, owner ids, stealing from the dead, slots used again (cbits/shm/lock.c, cbits/shm/client.c).
 *
 * LIVES lives of processes, SLOTS of them at a time: each takes a slot, counts its generation up, enters the critical section once or twice and may die after any
 * store; a later life gets its slot. The lease (an OFD lock) goes with the process, before anybody can take the slot again. The protected structure has two words
 * that are equal outside the critical section; recovery makes them equal again.
 *
 * Switches: NOGEN (an owner word is the slot only), LATERECOVER (releases the taken-over lock before it recovers), TIMEOUT (steals from the living), NOSTEAL.
 */
#ifndef LIVES
#define LIVES 4
#endif
#define SLOTS 2
#define GENS 8
#ifndef TURNS
#define TURNS 2
#endif

byte word;                         /* 0, or owner */
bool leased[SLOTS];
byte gen[SLOTS];
byte a, b;                         /* what the lock protects */
byte inside, ended;

#ifdef NOGEN
#define OWNER(slot, g) ((slot) + 1)
#define ALIVE(o) (leased[(o) - 1])
#else
#define OWNER(slot, g) (((slot) + 1) * GENS + (g))
/* shm_owner_alive(): generation, then lease */
#define ALIVE(o) (gen[(o) / GENS - 1] == (o) % GENS && leased[(o) / GENS - 1])
#endif

#define DIE if :: skip :: atomic { inside = inside - in; leased[slot] = false; ended++; goto end } fi

proctype P() {
	byte slot, me, seen, turn;
	bool in, stolen;

	/* take_slot(), name_slot() */
	atomic {
		if
		:: !leased[0] -> slot = 0
		:: leased[0] && !leased[1] -> slot = 1
		fi;
		leased[slot] = true
	}
	DIE;
	atomic { gen[slot]++; me = OWNER(slot, gen[slot]) }
	DIE;
	do
	:: turn == TURNS -> break
	:: turn < TURNS ->
		turn++;
		/* shm_lock_contended(): what is seen, whether its owner lives, and the exchange are three steps */
		do
		:: atomic { word == 0 -> word = me; in = 1; inside++; assert(inside == 1) } break
		:: atomic { word != 0 -> seen = word }
			assert(seen != me);                         /* a word left by an earlier life must not look like our own */
#ifdef NOSTEAL
			word != seen
#else
#ifdef TIMEOUT
			if
			:: true
#else
			if
			:: !ALIVE(seen)
#endif
				-> atomic {
					if
					:: word == seen -> word = me; stolen = true; in = 1; inside++; assert(inside == 1); seen = 0; break
					:: else
					fi
				}
			:: word != seen                             /* sleeps until then, or until the owner has died */
			fi
#endif
		od;
		seen = 0;
		DIE;
		if
		:: stolen ->
#ifdef LATERECOVER
			atomic { word = 0; in = 0; inside-- }
			DIE;
#endif
			b = a;
			DIE;
#ifdef LATERECOVER
			stolen = false;
			goto next
#endif
		:: else
		fi;
		stolen = false;
		assert(a == b);
		a = 1 - a; DIE;
		b = a; DIE;
		atomic { word = 0; in = 0; inside-- }
		DIE;
next:		skip
	od;
	atomic { leased[slot] = false; ended++ }
end:	skip
}

init { byte i; atomic { for (i : 1 .. LIVES) { run P() } } }
