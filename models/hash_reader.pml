/*
 * hash_reader.pml - a reader of a hash table that takes no lock (htab_find(), try_find(), snapshot_value() in cbits/maps/htab_core.{h,c}).
 *
 * Two buckets, one writer at a time that holds locks throughout (writers among themselves: hash.pml), elements used again at once. Key 0 lives in bucket 0 and is
 * there all the time, only replaced; keys 1 and 3 (bucket 0) and 2 (bucket 1) come and go, so elements move between the chains. The writer may die after every store;
 * its successor recovers first. The reader looks for key 0 and must find it, by htab_find() or, if that says "cannot be trusted", by another try; a copied
 * value must be whole and never older than what was committed before the look began.
 *
 * Switches: NOHEAD (no second look at head and its seq), NOSEQ (second look at head only), NOEND (any END will do), TORN (copy without seq), OLDFIRST (replacement takes the old one out first).
 */
#ifndef NOPS
#define NOPS 2
#endif
#ifndef LIVES
#define LIVES 2
#endif
#define NE 5
#define NIL 15
#define END(b) (16 + (b))
#define FREE 0
#define OWNED 1
#define LINKED 2

byte state[NE], next[NE], key[NE], lo[NE], hi[NE], seq[NE];
byte head[2];
byte lives = 1, ops, version = 1, promised = 1;

#define DIE if :: skip :: atomic { lives < LIVES -> lives++; goto life } fi

/* fill() and htab_chain_in() */
inline chain_in(b, e, k, v) {
	state[e] = OWNED;
	seq[e] = (seq[e] + 1) | 1; DIE;
	key[e] = k; DIE;
	lo[e] = v; DIE;
	hi[e] = v; DIE;
	next[e] = head[b]; DIE;
	seq[e] = seq[e] + 1; DIE;
	head[b] = e; DIE;
	state[e] = LINKED; DIE
}

inline chain_out(b, p, e) {
	state[e] = OWNED; DIE;
	if
	:: p == NIL -> head[b] = next[e]
	:: else -> next[p] = next[e]
	fi;
	DIE
}

inline find(b, k) {
	d_step {
		p = NIL; c = head[b];
		do
		:: c < NIL && key[c] != k -> p = c; c = next[c]
		:: else -> break
		od
	}
}

proctype Writer() {
	byte p, c, e, n, k, b;

life:	/* htab_recover_bucket(), then the sweep; a death in here is modelled in hash.pml */
	b = 0;
	do
	:: b < 2 ->
		p = NIL; c = head[b];
		do
		:: c < NIL ->
			n = next[c];
			if
			:: c != head[b] && key[c] == key[head[b]] ->
				state[c] = OWNED;
				if :: p == NIL -> head[b] = n :: else -> next[p] = n fi;
				state[c] = FREE
			:: else -> state[c] = LINKED; p = c
			fi;
			c = n
		:: else -> break
		od;
		b++
	:: else -> break
	od;
	atomic {
		e = 0;
		do :: e < NE -> if :: state[e] == OWNED -> state[e] = FREE :: else fi; e++ :: else -> break od;
		e = 0; p = 0; c = 0; n = 0; b = 0
	}
	do
	:: ops == NOPS -> break
	:: ops < NOPS ->
		atomic { ops++; select(k : 0 .. 3); b = (k == 2 -> 1 : 0) }
		find(b, k);
		/* any free element */
		if
		:: state[0] == FREE -> e = 0
		:: state[1] == FREE -> e = 1
		:: state[2] == FREE -> e = 2
		:: state[3] == FREE -> e = 3
		:: state[4] == FREE -> e = 4
		fi;
		if
		:: k == 0 ->
			version++;
#ifdef OLDFIRST
			chain_out(b, p, c);
			chain_in(b, e, k, version);
#else
			chain_in(b, e, k, version);
			if :: p == NIL -> p = e :: else fi;
			chain_out(b, p, c);
#endif
			promised = version;
			state[c] = FREE; DIE
		:: k != 0 && c < NIL -> chain_out(b, p, c); state[c] = FREE; DIE
		:: k != 0 && c >= NIL -> chain_in(b, e, k, 0)
		fi;
		k = 0; b = 0; e = 0; p = 0; c = 0
	od
}

proctype Reader() {
	byte first, c, s, s2, v, w, tries, old;
	old = promised;
again:	first = head[0];
	c = first;
	s = 0;
	if
	:: first < NIL -> s = seq[first]
	:: else
	fi;
	do
	:: c < NIL ->
		if
		:: key[c] == 0 -> goto found
		:: else
		fi;
		c = next[c]
	:: else -> break
	od;
#ifdef NOEND
	if
	:: head[0] == first && !(s & 1) && seq[first] == s -> assert(false)
#else
	if
#ifdef NOHEAD
	:: c == END(0) -> assert(false)
#else
#ifdef NOSEQ
	:: c == END(0) && head[0] == first -> assert(false)
#else
	:: c == END(0) && !(s & 1) && head[0] == first ->
		assert(!(first < NIL && seq[first] == s))                   /* would say: no such key */
#endif
#endif
#endif
	:: else
	fi;
	goto retry;
found:	s2 = seq[c];
	if
	:: s2 & 1 -> goto retry
	:: state[c] != LINKED -> goto retry
	:: key[c] != 0 -> goto retry
	:: else
	fi;
	v = lo[c];
	w = hi[c];
#ifndef TORN
	if
	:: seq[c] != s2 -> goto retry
	:: else
	fi;
#endif
	assert(v == w && v >= old);
	goto end;
retry:	tries++;
	if
	:: tries < 3 -> goto again
	:: else                            /* takes the lock */
	fi;
end:	skip
}

init {
	atomic {
		/* bucket 0: keys 3, 1, 0; bucket 1: nothing */
		head[0] = 2; key[2] = 3; next[2] = 1; key[1] = 1; next[1] = 0; lo[0] = 1; hi[0] = 1; next[0] = END(0); head[1] = END(1);
		state[0] = LINKED; state[1] = LINKED; state[2] = LINKED;
		key[3] = 9; key[4] = 9; next[3] = END(0); next[4] = END(0);
		run Writer(); run Reader()
	}
}
