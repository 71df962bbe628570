/*
 * perf.pml - a perf ring (cbits/rings/write.c, read.c, ring_recover() in ring.c).
 *
 * A producer that may die after every store and is followed by a successor (LIVES in all), one consumer. CALLS outputs are tried in all. Records are 1 unit, a record
 * of LOST 1 more; one unit stays free, so the ring takes UNITS - 1. Counters of the ring (sent, lost) must be what the consumer finds, to the last one: every
 * committed sample arrives once and in order, and the losses told of plus those not yet told of are the losses there were.
 *
 * Switches: SPLIT (sent and lost_told are stored beside head, not with it), PUBLISHFIRST (data_head before the commit), ONESTATE (the state that holds is
 * written in place), NORECOVER (the successor does not publish), LIE (consumer writes any data_tail: only the producer's footing is checked).
 */
#ifndef CALLS
#define CALLS 6
#endif
#ifndef LIVES
#define LIVES 3
#endif
#define UNITS 4
#define OTHER (1 - now)

byte s_head[2], s_sent[2], s_told[2], now;         /* struct ring_state state[2], state_now */
byte lost, data_head, data_tail;
byte kind[UNITS], val[UNITS];                      /* kind 1: sample, 2: LOST with a count */
byte lives = 1, calls;
byte got, told; bool quiet;

#define DIE if :: skip :: atomic { lives < LIVES -> lives++; goto life } fi

proctype Producer() {
	byte head, untold, need, c;
	bool room;

life:	atomic { head = 0; untold = 0; need = 0; room = 0; c = now }
	/* ring_recover() */
#ifndef NORECOVER
	if
	:: data_head != s_head[c] -> data_head = s_head[c]; DIE
	:: else
	fi;
#endif
	do
	:: calls == CALLS -> break
	:: calls < CALLS ->
		calls++;
		c = now;
		atomic { head = s_head[c]; untold = lost - s_told[c]; need = (untold > 0 -> 2 : 1) }
		room = ((UNITS + data_tail - head - 1) % UNITS + UNITS) % UNITS >= need;   /* (tail - head - 1) & mask, with head and tail below 2^8 */
		if
		:: !room -> lost++; DIE
		:: else ->
			if
			:: untold > 0 ->
				atomic { kind[head % UNITS] = 2; val[head % UNITS] = untold }
				DIE;
				head++
			:: else
			fi;
			atomic { kind[head % UNITS] = 1; val[head % UNITS] = s_sent[c] + 1 }
			DIE;
			head++;
#ifdef PUBLISHFIRST
			data_head = head; DIE;
#endif
#ifdef ONESTATE
			s_head[c] = head; DIE;
			s_sent[c]++; DIE;
			s_told[c] = s_told[c] + untold; DIE;
#else
#ifdef SPLIT
			s_sent[0]++; s_sent[1] = s_sent[0]; DIE;
			s_told[0] = s_told[0] + untold; s_told[1] = s_told[0]; DIE;
			s_head[OTHER] = head; DIE;
#else
			s_head[OTHER] = head; DIE;
			s_sent[OTHER] = s_sent[c] + 1; DIE;
			s_told[OTHER] = s_told[c] + untold; DIE;
#endif
			now = OTHER; DIE;
#endif
			data_head = head; DIE
		fi;
		untold = 0; need = 0; room = 0; head = 0
	od;
	/* a last life publishes what the one before it committed, and is done */
	quiet = true
}

#ifdef LIE
proctype Consumer() { do :: data_tail = 0 :: data_tail = 1 :: data_tail = 3 :: data_tail = data_head :: quiet -> break od;
	assert(s_sent[now] + lost <= CALLS && data_head == s_head[now]) }
#else
proctype Consumer() {
	byte at, end_;
	do
	:: data_head != data_tail ->
		atomic { end_ = data_head; at = data_tail; assert(end_ - at < UNITS) }
		do
		:: at == end_ -> break
		:: at != end_ ->
			atomic {
				if
				:: kind[at % UNITS] == 1 -> got++; assert(val[at % UNITS] == got)         /* each once, in order, not overwritten */
				:: kind[at % UNITS] == 2 -> told = told + val[at % UNITS]
				fi;
				at++
			}
		od;
		data_tail = at;
		at = 0; end_ = 0
	:: atomic { quiet && data_head == data_tail -> break }
	od;
	assert(got == s_sent[now]);
	assert(told == s_told[now]);
	assert(told <= lost);
	/* an output that died before its commit is neither */
	assert(got + lost <= CALLS && got + lost + (LIVES - 1) >= CALLS)
}
#endif

init { atomic { run Producer(); run Consumer() } }
