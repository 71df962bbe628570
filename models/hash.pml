/*
 * hash.pml - a hash table's writers: buckets, free lists, spares, `spareless`, recovery and sweep (cbits/maps/htab*.{c,h}, cbits/shm/freelist.{c,h}).
 *
 * NP processes do NOPS operations each on K keys and may die after every store; whoever comes next takes the locks over, repairs and goes on, and may die in that
 * too. In the end one more sweeps and looks at everything, as htab_check() does. Readers: hash_reader.pml.
 *
 * `hash` is one field with two uses, as in struct shm_link: the bucket while the element is in hands or in a chain, the next one while it is free. What only the
 * holder of a lock (or its heir) can see happens in atomic steps with deaths inside; what others see without the lock (the lock words, fh, sp, spareless,
 * states of the dead) is a step of its own. Lists whose live holder takes too long (-EBUSY) do not occur here.
 *
 * Switches: NP NOPS MAX NL NB K ACTIONS(bits: 1 update, 2 delete, 4 sweep). CLEAR_FIRST, CHECK_BEFORE_LOCK, SWEEP_ONCE, SKIP_LIVE: see refill(), take(), sweep(), recover_lists(). LATEOWN, NORECOVER, NOREBUILD,
 * SPAREFIRST, KEEPNEW, NOLISTS: mutants.
 */
#ifndef NP
#define NP 2
#endif
#ifndef NOPS
#define NOPS 1
#endif
#ifndef MAX
#define MAX 1            /* max_entries */
#endif
#ifndef NL
#define NL 1             /* lists, each with one spare */
#endif
#ifndef NB
#define NB 1
#endif
#ifndef K
#define K 2
#endif
#ifndef ACTIONS
#define ACTIONS 3
#endif
#define NE (MAX + NL)
#define NIL 15
#define END(b) (16 + (b))
#define FREE(l) (l)
#define SPARE(l) (4 + (l))
#define LINKED 8
#define ME1 9            /* owner words: from here on */
#define OWN ((me - ME1) % NL)
#define UNKNOWN 2

byte state[NE]; byte next[NE]; byte hash[NE]; byte key[NE];
byte lb[NB]; byte head[NB];                        /* struct shm_bucket */
byte ll[NL]; byte fh[NL]; byte sp[NL];             /* struct shm_freelist */
bool spareless;
#ifndef CLEAR_FIRST
byte missed, filled;                               /* spareless is: missed != filled */
#endif
bool dead[ME1 + NP + 1]; byte done;
byte linked, unused, present[K];                    /* check()'s */
byte want[K];                                      /* not in the code: 0 absent, 1 present, UNKNOWN: somebody is at it, or died at it */

#define DIE atomic { if :: skip :: (me < ME1 + NP) -> dead[me] = true; done++; goto end fi }

#ifdef CLEAR_FIRST
#define SPARELESS spareless
#define SET_SPARELESS spareless = 1
#else
#define SPARELESS (missed != filled)
#define SET_SPARELESS missed++
#endif

/* ---- free lists ---- */

/* shm_pool_rebuild() */
inline rebuild(l) {
	atomic { fh[l] = NIL; sp[l] = NIL; DIE }
	atomic {
		h = NIL; s = NIL; i = 0;
		do
		:: i < NE ->
			if
			:: state[i] == SPARE(l) && s == NIL -> s = i
			:: else ->
				if
				:: state[i] == SPARE(l) || state[i] == FREE(l) -> hash[i] = h; state[i] = FREE(l); h = i; DIE
				:: else
				fi
			fi;
			i++
		:: else -> break
		od;
		if
		:: s == NIL && h != NIL -> s = h; h = hash[s]; state[s] = SPARE(l); DIE
		:: else
		fi;
		sp[l] = s; DIE; fh[l] = h; DIE;
		if
		:: s == NIL -> SET_SPARELESS; DIE
		:: else
		fi;
		i = 0; h = 0; s = 0
	}
}

/* shm_pool_lock(): waits; from the dead with recovery */
inline lock_list(l) {
	atomic { ll[l] == 0 || dead[ll[l]] -> stolen = ll[l] != 0; ll[l] = me; DIE }
	if
#ifndef NOREBUILD
	:: stolen -> stolen = 0; rebuild(l)
#endif
	:: else -> stolen = 0
	fi
}

inline unlock_list(l) { atomic { ll[l] = 0; DIE } }

/* shm_pool_pop_locked() */
inline pop(l, e) {
	atomic {
		e = fh[l];
		if
		:: e != NIL -> assert(state[e] == FREE(l)); fh[l] = hash[e]; DIE; state[e] = me; DIE
		:: else
		fi
	}
}

/* shm_pool_put_locked(), shm_pool_make_spare_locked() */
inline make_spare(e, l) { state[e] = SPARE(l); DIE; sp[l] = e; DIE }
inline put(e, l) {
	atomic {
		if
		:: sp[l] == NIL -> make_spare(e, l)
		:: else -> hash[e] = fh[l]; DIE; state[e] = FREE(l); DIE; fh[l] = e; DIE
		fi
	}
}

/* shm_pool_give() */
inline give(e) { lock_list(OWN); put(e, OWN); unlock_list(OWN) }

/* scan_lists(); UNLESS: what must not be so once the list is locked */
inline scan(e, UNLESS) {
	e = NIL; l = 0;
	do
	:: l < NL && e == NIL ->
		if
		:: fh[l] == NIL && ll[l] == 0
		:: else ->
			lock_list(l);
			if
			:: UNLESS
			:: else -> pop(l, e)
			fi;
			unlock_list(l)
		fi;
		l++
	:: else -> break
	od;
	l = 0
}

/* shm_pool_refill_spares() */
inline refill() {
	missing = 0; r = 0;
#ifdef CLEAR_FIRST
	atomic { spareless = 0; DIE }
#else
	m = missed;
#endif
	do
	:: r < NL ->
		if
		:: sp[r] != NIL
		:: else ->
			scan(e, false);
			if
			:: e == NIL -> missing = 1
			:: else -> lock_list(r); put(e, r); unlock_list(r); e = NIL
			fi
		fi;
		r++
	:: else -> break
	od;
	r = 0;
#ifdef CLEAR_FIRST
	if
	:: missing -> atomic { spareless = 1; DIE }
	:: else
	fi
#else
	if
	:: !missing -> atomic { filled = m; DIE }
	:: else
	fi;
	m = 0
#endif
}

#ifdef CHECK_BEFORE_LOCK
#define STOP false
#else
#define STOP SPARELESS
#endif

/* shm_pool_take(), shm_pool_take_any() without its second look */
inline take(e) {
	e = NIL;
	if
	:: !SPARELESS && fh[OWN] != NIL ->
		lock_list(OWN);
		if
		:: STOP
		:: else -> pop(OWN, e)
		fi;
		unlock_list(OWN)
	:: else
	fi;
	if
	:: e == NIL ->
		missing = 0;
		if
		:: SPARELESS -> refill()
		:: else
		fi;
		if
		:: !missing -> scan(e, STOP)
		:: else -> missing = 0
		fi
	:: else
	fi
}

/* ---- buckets ---- */

/* htab_chain_in() after fill() */
inline chain_in(b, e, k) {
	hash[e] = b; key[e] = k; DIE; next[e] = head[b]; DIE;
	head[b] = e; DIE; state[e] = LINKED; DIE
}

/* htab_chain_out(); the mutant marks the element too late */
inline chain_out(b, p, e) {
#ifndef LATEOWN
	state[e] = me; DIE;
#endif
	if
	:: p == NIL -> head[b] = next[e]
	:: else -> next[p] = next[e]
	fi;
	DIE;
#ifdef LATEOWN
	state[e] = me; DIE;
#endif
}

/* recover_lists() */
inline recover_lists() {
	l = 0;
	do
	:: l < NL ->
		if
#ifdef SKIP_LIVE
		:: ll[l] != 0 && dead[ll[l]] -> lock_list(l); unlock_list(l)
#else
		:: ll[l] != 0 -> lock_list(l); unlock_list(l)      /* a live holder may be just finding out that the spare is gone */
#endif
		:: else
		fi;
		l++
	:: else -> break
	od;
	l = 0
}

/* htab_recover_bucket(): of a key that is there twice, the first one is the new one */
inline recover_bucket(b) {
#ifndef NOLISTS
	recover_lists();
#endif
	p = NIL; c = head[b]; f = c;
	do
	:: c < NIL ->
		atomic {
			assert(hash[c] % NB == b);
			n = next[c];
			if
			:: c != f && key[c] == key[f] ->
				chain_out(b, p, c);
				twice = true
			:: else -> state[c] = LINKED; DIE; p = c
			fi
		}
		if
		:: twice -> twice = false; give(c)
		:: else
		fi;
		c = n
	:: else -> break
	od;
	assert(c == END(b));
	p = 0; c = 0; f = 0; n = 0
}

inline lock_bucket(b) {
	atomic { lb[b] == 0 || dead[lb[b]] -> stolen = lb[b] != 0; lb[b] = me; DIE }
	if
#ifndef NORECOVER
	:: stolen -> stolen = 0; recover_bucket(b)
#endif
	:: else -> stolen = 0
	fi
}

inline unlock_bucket(b) { atomic { lb[b] = 0; DIE } }

/* htab_find_locked(): c, and p before it */
inline find(b, k) {
	p = NIL; c = head[b];
	i = 0;
	do
	:: c < NIL && key[c] != k -> assert(i < NE); i++; p = c; c = next[c]
	:: else -> break
	od;
	i = 0
}

/* No more than max_entries different keys: freelist.c, "Exactness". */
inline count_live() {
	d_step {
		i = 0; h = 0;
		do
		:: i < NB ->
			s = head[i];
			do
			:: s < NIL && h <= NE -> if :: s == head[i] || key[s] != key[head[i]] -> h++ :: else fi; s = next[s]
			:: else -> break
			od;
			i++
		:: else -> break
		od;
#ifndef INEXACT
		assert(h <= MAX);
#endif
		i = 0; h = 0; s = 0
	}
}

/* replace(): the list's lock is taken under the bucket's; -EAGAIN (nospace): the spare died with somebody */
inline replace(b, k) {
	lock_list(OWN);
	if
	:: sp[OWN] == NIL || state[sp[OWN]] != SPARE(OWN) -> rebuild(OWN)
	:: else
	fi;
	atomic {
		e = sp[OWN];
		if
		:: e == NIL -> nospace = true
		:: else ->
			assert(state[e] == SPARE(OWN));
			state[e] = me; DIE;
			chain_in(b, e, k);
			if
			:: p == NIL -> p = e
			:: else
			fi;
#ifdef SPAREFIRST
			make_spare(c, OWN);
			if :: p == NIL -> head[b] = next[c] :: else -> next[p] = next[c] fi; DIE
#else
			chain_out(b, p, c);
			make_spare(c, OWN)
#endif
		fi;
		e = 0; p = 0; c = 0
	}
	unlock_list(OWN)
}

/* update_once() */
inline update(k) {
	lock_bucket(k % NB);
	atomic { was = want[k]; want[k] = UNKNOWN; find(k % NB, k) }
	if
	:: c < NIL -> replace(k % NB, k); was = 1
	:: else ->
		p = 0; c = 0;
		take(e);
		atomic {
			if
			:: e == NIL -> nospace = true
			:: else -> chain_in(k % NB, e, k); was = 1; count_live()
			fi;
			e = 0
		}
	fi;
	atomic { want[k] = was; was = 0 }
	unlock_bucket(k % NB)
}

/* remove_key() */
inline remove(k) {
	lock_bucket(k % NB);
	atomic {
		want[k] = UNKNOWN;
		find(k % NB, k);
		e = c;
		if
		:: c < NIL -> chain_out(k % NB, p, c)
		:: else
		fi;
		p = 0; c = 0;
		want[k] = 0
	}
	unlock_bucket(k % NB);
	if
	:: e < NIL -> give(e)
	:: else
	fi;
	e = 0
}

/* htab_sweep() */
inline sweep() {
	j = 0;
	do
	:: j < NB ->
		if
		:: lb[j] != 0 && dead[lb[j]] -> lock_bucket(j); unlock_bucket(j)
		:: else
		fi;
		j++
	:: else -> break
	od;
	recover_lists();
	j = 0;
	do
	:: j < NE ->
		w = state[j];
		if
		:: w >= ME1 && (w == me || dead[w]) ->
			was = hash[j] % NB;
			lock_bucket(was);
			atomic {
				if
				:: state[j] == w -> state[j] = me; DIE
				:: else -> w = 0
				fi
			}
			unlock_bucket(was);
			was = 0;
			if
			:: w != 0 ->
#ifndef SWEEP_ONCE
				recover_lists();                           /* whoever died since may have had a list's spare in hand */
#endif
				give(j); swept = true
			:: else
			fi
		:: else
		fi;
		w = 0;
		j++
	:: else -> break
	od;
	j = 0;
	if
	:: SPARELESS -> refill(); missing = 0
	:: else
	fi;
	e = 0
}

/* htab_check(), and what nobody may have lost */
inline check() {
	atomic {
		for (j : 0 .. NB - 1) {
			assert(lb[j] == 0);
			c = head[j]; i = 0;
			do
			:: c < NIL ->
				assert(i < NE && state[c] == LINKED && hash[c] % NB == j && key[c] % NB == j);
				linked++; present[key[c]]++; c = next[c]; i++
			:: else -> break
			od;
			assert(c == END(j))
		}
		for (j : 0 .. K - 1) { assert(present[j] <= 1 && (want[j] == UNKNOWN || present[j] == want[j])) }
		for (j : 0 .. NL - 1) {
			assert(ll[j] == 0);
			c = fh[j]; i = 0;
			do
			:: c != NIL -> assert(i < NE && state[c] == FREE(j)); unused++; c = hash[c]; i++
			:: else -> break
			od;
			/* check_locked() of freelist.c: a list without a spare must be known */
			if
			:: sp[j] == NIL -> assert(SPARELESS)
			:: else -> assert(state[sp[j]] == SPARE(j)); unused++
			fi
		}
		assert(linked + unused == NE);                               /* nothing leaked */
#ifndef INEXACT
		assert(linked <= MAX);
		assert(!SPARELESS)                                         /* so there was enough for every list */
#endif
	}
}

/* The last one only sweeps and checks, when all others are done. */
proctype P(byte me) {
	byte left = NOPS, what, e, k, p, c, f, n, l, i, h, s, j, w, r, m, was;
	bool stolen, twice, nospace, swept, missing;

	if
	:: me == ME1 + NP -> done == NP; what = 4; left = 0
	:: else
	fi;
	do
	:: left == 0 && what == 0 -> break
	:: left > 0 && what == 0 ->
		atomic {
			left--;
			if
			:: ACTIONS & 1 -> what = 1
			:: ACTIONS & 2 -> what = 2
			:: ACTIONS & 4 -> what = 4
			fi;
			if
			:: what != 4 -> select(k : 0 .. K - 1)
			:: else
			fi
		}
	/* update(), update_full() with one round */
	:: what == 1 ->
		update(k);
		atomic {
			if
			:: nospace && !swept -> what = 5
			:: else -> what = 0; k = 0; swept = false
			fi;
			nospace = false
		}
	:: what == 2 -> remove(k); what = 0; k = 0
	:: what == 4 || what == 5 -> sweep();
		atomic {
			if
			:: what == 5 && swept -> what = 1
			:: else -> what = 0; k = 0; swept = false
			fi
		}
	od;
	if
	:: me == ME1 + NP -> check()
	:: else -> done++
	fi;
end:	skip
}

init {
	byte e, i;
	atomic {
		for (i : 0 .. NB - 1) { head[i] = END(i) }
		/* key 0 is there from the start: its element would else be the first free one of list 0 */
		for (i : 0 .. NE - 1) { next[i] = END(0); hash[i] = NIL }
		head[0] = 0; state[0] = LINKED; hash[0] = 0; want[0] = 1;
		for (i : 0 .. NL - 1) { fh[i] = NIL; sp[i] = 1 + i; state[1 + i] = SPARE(i) }
		for (i : 1 + NL .. NE - 1) { e = i % NL; state[i] = FREE(e); hash[i] = fh[e]; fh[e] = i }
		for (i : 0 .. NP - 1) { run P(ME1 + i) }
		run P(ME1 + NP)
	}
}
