/*
 * wake.pml - no wake-up is lost (cbits/rings/wake.c; shmbpf/events/wake.py is the consumer).
 *
 * One producer publishes RECORDS records and calls wake_up() after each; one consumer reads what there is, arms itself, looks again and sleeps. Stores go through
 * a buffer of their process and reach memory later, in order, as on x86: a fence or an atomic read-modify-write waits until the buffer is empty. The consumer
 * never sleeps by the clock here, so a lost wake-up is a deadlock.
 *
 * Switches: NOFENCE (producer without its fence), LOOKFIRST (consumer looks, then arms), NOTICE (producer looks at `armed`, then publishes), PLAINARM (arms with a plain store),
 * TAKELATE (the arming is taken back after the wake-up).
 */
#ifndef RECORDS
#define RECORDS 3
#endif

byte head;                         /* published, in memory */
bool armed, pipe;                  /* pipe: readable */
byte buf; bool buffered;           /* the producer's buffer: a value for head */
bool armbuf;                       /* the consumer's: armed = 1 */

#define PUBLISH(v) atomic { !buffered -> buf = v; buffered = true }
#define PRODUCER_FENCE !buffered

proctype Flush() { end: do :: atomic { buffered -> head = buf; buffered = false; buf = 0 } :: atomic { armbuf -> armed = true; armbuf = false } od }

proctype Producer() {
	byte n;
	bool kinds;
	do
	:: n == RECORDS -> break
	:: n < RECORDS ->
		n++;
#ifdef NOTICE
		kinds = armed;
		PUBLISH(n);
		PRODUCER_FENCE;
#else
		PUBLISH(n);
#ifndef NOFENCE
		PRODUCER_FENCE;
#endif
		kinds = armed;
#endif
		if
		:: kinds ->
#ifdef TAKELATE
			pipe = true;
			atomic { PRODUCER_FENCE; armed = false }
#else
			atomic { PRODUCER_FENCE; kinds = armed; armed = false }
			if
			:: kinds -> pipe = true
			:: else
			fi
#endif
		:: else
		fi;
		kinds = false
	od
}

proctype Consumer() {
	byte got, seen;
	do
	:: got == RECORDS -> break
	:: got < RECORDS ->
#ifdef LOOKFIRST
		seen = head;
		armed = true;
#else
#ifdef PLAINARM
		armbuf = true;
#else
		armed = true;                      /* atomic or: nothing of ours is behind it */
#endif
		seen = head;
#endif
		if
		:: seen > got -> got = seen        /* reads without sleeping; stays armed */
		:: else -> pipe; pipe = false; got = head     /* poll(), then the pipe is emptied before the look */
		fi;
		seen = 0
	od
}

init { atomic { run Flush(); run Producer(); run Consumer() } }
