/*
 * ringbuf.pml - a BPF ring buffer: reserve under the lock, commit without it, repair of what the dead left open (cbits/maps/ringbuf.c, ringbuf_read.c).
 *
 * NP producers reserve and commit NR records each (one unit; a ring of R units takes R - 1) and may die after every store; one consumer. What holds: a
 * committed record arrives exactly once; one whose producer died is passed over; nobody waits for the dead; `sent` and `aborted`, counted when `pending` passes, are
 * exact. A commit of a live producer finds its record untouched, whatever the others do.
 *
 * Headers change as one word. pending, sent, aborted, prod are one state that is replaced by one store (state_now).
 *
 * Switches: NOSTEAL, NOREPAIR (consumer repairs nothing), NOPRODREPAIR (producers do not), NAIVE (repairs records of the living), NOPENDING (room is counted from consumer_pos
 * only; with LIE), LIE (consumer writes any position), ONESTATE (state is written in place), COUNT_AT_COMMIT, UNLOCKFIRST (publishes after the unlock).
 */
#ifndef NP
#define NP 2
#endif
#ifndef NR
#define NR 2
#endif
#ifndef R
#define R 3
#endif
#define BUSY 1
#define DONE 2
#define GONE 3                     /* discarded, RINGBUF_ABORTED */
#define OTHER (1 - now)

byte lock;                         /* 0, or 1 .. NP */
bool dead[NP + 1];
byte busy[R], owner[R], val[R];     /* val: not in the code: which record */
byte s_prod[2], s_pending[2], s_sent[2], s_aborted[2], now;
byte producer_pos, consumer_pos;
byte done, committed, delivered, passed;
bool com[NP * NR + 1], got[NP * NR + 1];

#define DIE if :: skip :: atomic { dead[me] = true; done++; goto end } fi

/* ringbuf_repair(): compare-and-swap of the whole header */
#ifdef NAIVE
#define BROKEN(at) (busy[(at) % R] == BUSY)
#else
#define BROKEN(at) (busy[(at) % R] == BUSY && dead[owner[(at) % R]])
#endif

/* replace_state() */
inline replace_state() {
#ifdef ONESTATE
	s_prod[now] = prod; DIE; s_pending[now] = pending; DIE; s_sent[now] = sent; DIE; s_aborted[now] = aborted; DIE;
#else
	atomic { s_prod[OTHER] = prod; s_pending[OTHER] = pending; s_sent[OTHER] = sent; s_aborted[OTHER] = aborted; DIE; now = OTHER }
	DIE;
#endif
#ifndef UNLOCKFIRST
	producer_pos = prod
#endif
}

proctype P(byte me) {
	byte n, at, prod, pending, sent, aborted, cons;
	bool stolen, fits, moved;

	do
	:: n == NR -> break
	:: n < NR ->
		/* ringbuf_lock() */
#ifdef NOSTEAL
		atomic { lock == 0 -> lock = me }
#else
		atomic { lock == 0 || dead[lock] -> stolen = lock != 0; lock = me }
#endif
		DIE;
		if
		:: stolen -> producer_pos = s_prod[now]; DIE
		:: else
		fi;
		atomic { stolen = false; prod = s_prod[now]; pending = s_pending[now]; sent = s_sent[now]; aborted = s_aborted[now]; at = prod }
		/* make_room() */
		cons = consumer_pos;
		do
		:: atomic { pending != prod && busy[pending % R] != BUSY ->
				if
				:: busy[pending % R] == DONE -> sent++
				:: else -> aborted++
				fi;
				pending++; moved = true }
		:: atomic { else ->
#ifdef NOPENDING
				fits = (prod + 1 - cons < R && prod + 1 >= cons);
#else
				fits = (prod + 1 - cons < R && prod + 1 >= cons && prod + 1 - pending < R);
#endif
				if
#ifndef NOPRODREPAIR
				:: !fits && pending != prod && BROKEN(pending) -> busy[pending % R] = GONE
#endif
				:: else -> break
				fi }
			DIE
		od;
		if
		:: fits ->
			atomic { busy[prod % R] = BUSY; owner[prod % R] = me; val[prod % R] = (me - 1) * NR + n + 1 }
			DIE;
			prod++;
			replace_state();
			DIE
		:: else ->
			if
			:: moved -> replace_state(); DIE
			:: else
			fi
		fi;
		atomic { moved = false; lock = 0 }
#ifdef UNLOCKFIRST
		producer_pos = prod;
#endif
		DIE;
		atomic { prod = 0; pending = 0; sent = 0; aborted = 0; cons = 0 }
		if
		:: fits ->
			/* ringbuf_commit() */
			atomic { assert(busy[at % R] == BUSY && owner[at % R] == me && val[at % R] == (me - 1) * NR + n + 1);
				busy[at % R] = DONE; owner[at % R] = 0; committed++; com[val[at % R]] = true }
#ifdef COUNT_AT_COMMIT
			DIE; s_sent[0]++; s_sent[1]++;
#endif
			DIE;
			n++
		:: else ->
			/* lost; tried again as soon as that makes sense */
#ifdef LIE
			n++
#else
			!(s_prod[now] - consumer_pos >= R - 1 && producer_pos == s_prod[now] && !BROKEN(consumer_pos))
#endif
		fi;
		atomic { fits = false; at = 0 }
	od;
	done++;
end:	skip
}

#ifdef LIE
proctype C() { do :: consumer_pos = producer_pos :: consumer_pos < producer_pos -> consumer_pos++ :: consumer_pos = 0 :: done == NP -> break od }
#else
proctype C() {
	do
	:: consumer_pos != producer_pos ->
		assert(consumer_pos < producer_pos);
		if
		:: atomic { busy[consumer_pos % R] == DONE -> assert(com[val[consumer_pos % R]] && !got[val[consumer_pos % R]]); got[val[consumer_pos % R]] = true; delivered++ }
			consumer_pos++
		:: busy[consumer_pos % R] == GONE -> passed++; consumer_pos++
#ifdef NOREPAIR
		:: false
#else
		:: atomic { BROKEN(consumer_pos) -> busy[consumer_pos % R] = GONE }
#endif
		fi
	:: done == NP && consumer_pos == producer_pos ->
		/* ringbuf_recover(): whoever comes takes the lock over and publishes */
		if
		:: lock != 0 && dead[lock] -> producer_pos = s_prod[now]; lock = 0
		:: else -> break
		fi
	od;
	/* ringbuf_count() */
	atomic {
		assert(lock == 0);
		do
		:: s_pending[now] != s_prod[now] ->
			assert(busy[s_pending[now] % R] != BUSY);
			if
			:: busy[s_pending[now] % R] == DONE -> s_sent[now]++
			:: else -> s_aborted[now]++
			fi;
			s_pending[now]++
		:: else -> break
		od;
		assert(producer_pos == s_prod[now]);
		assert(delivered == committed && s_sent[now] == committed);
		assert(s_aborted[now] == passed && delivered + passed == producer_pos)
	}
}
#endif

init { byte i; atomic { for (i : 1 .. NP) { run P(i) } run C() } }
