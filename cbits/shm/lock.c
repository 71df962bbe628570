/*
 * lock.c - lock words under contention: spin a little, sleep in the kernel, take over from the dead.
 *
 * A word is 0 or the owner id of its holder, plus SHM_WAITERS when somebody sleeps on it. Only a dead holder loses it; a live one that takes long costs
 * the waiter -EBUSY. Waiters wake every millisecond by themselves, so a holder that dies without waking anybody delays them by no more than that.
 */
#define _GNU_SOURCE
#include "lock.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NS 2000u
#define SLEEP_NS 1000000u

uint64_t shm_clock_ns(int32_t clock_id)
{
	struct timespec now;

	clock_gettime(clock_id, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int shm_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	struct timespec timeout = { .tv_sec = (time_t)(timeout_ns / 1000000000u), .tv_nsec = (long)(timeout_ns % 1000000000u) };

	return syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0) == 0 ? 0 : -errno;
}

int shm_wake(uint32_t *word, int32_t count)
{
	long woken = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);

	return woken < 0 ? -errno : (int)woken;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* 1: locked, 0: still taken, < 0: error. Holders usually leave within nanoseconds. */
static int spin(struct shm_client *me, uint32_t *word)
{
	uint64_t end = shm_clock_ns(CLOCK_MONOTONIC) + SPIN_NS;

	do {
		for (int i = 0; i < 16; i++) {
			uint32_t now = shm_load(word);

			if (now == 0 && shm_cas(word, 0, me->owner))
				return 1;
			if ((now & ~SHM_WAITERS) == me->owner)
				return -EDEADLK;
			relax();
		}
	} while (shm_clock_ns(CLOCK_MONOTONIC) < end);
	return 0;
}

/* Takes the word over when its owner is dead: 1 done, 0 not. */
static int steal(struct shm_client *me, uint32_t *word, uint32_t seen)
{
	if (shm_owner_alive(me, seen & ~SHM_WAITERS) || !shm_cas(word, seen, me->owner))
		return 0;
	me->steals++;
	__atomic_fetch_add(&me->ctl->deaths, 1, __ATOMIC_RELAXED);
	return 1;
}

int shm_lock_contended(struct shm_client *me, uint32_t *word, uint64_t patience_ns)
{
	uint64_t deadline;
	int got;

	if (!me->owner)
		return -ECHILD;
	got = patience_ns ? spin(me, word) : 0;
	if (got)
		return got < 0 ? got : 0;
	deadline = shm_clock_ns(CLOCK_MONOTONIC) + patience_ns;
	for (;;) {
		uint32_t seen = shm_load(word);

		if (seen == 0) {
			if (shm_cas(word, 0, me->owner))
				return 0;
			continue;
		}
		if ((seen & ~SHM_WAITERS) == me->owner)
			return -EDEADLK;
		if (steal(me, word, seen))
			return 1;
		if (shm_clock_ns(CLOCK_MONOTONIC) >= deadline) {
			me->blocker = seen & ~SHM_WAITERS;
			return -EBUSY;
		}
		if (!(seen & SHM_WAITERS) && !shm_cas(word, seen, seen | SHM_WAITERS))
			continue;
		shm_wait(word, seen | SHM_WAITERS, SLEEP_NS);
	}
}

void shm_unlock_contended(struct shm_client *me, uint32_t *word)
{
	uint32_t old;

	if (!me->owner)
		return;
	old = __atomic_exchange_n(word, 0, __ATOMIC_RELEASE);
	if (old & SHM_WAITERS)
		shm_wake(word, 1);
}

int shm_lock(struct shm_client *me, uint32_t *word)
{
	return shm_lock_word(me, word);
}

int shm_trylock(struct shm_client *me, uint32_t *word)
{
	if (me->owner && shm_cas(word, 0, me->owner))
		return 0;
	return shm_lock_contended(me, word, 0);
}

void shm_unlock(struct shm_client *me, uint32_t *word)
{
	shm_unlock_word(me, word);
}
