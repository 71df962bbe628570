/*
 * queue.h - the ring protocol between a producer and the one consumer of a queue. Private to cbits/net.
 *
 *            tail                    head
 *   ---------|#######################|------------   positions count bytes for ever; position % NET_QUEUE_BYTES is the place in the ring
 *            consumer moves it       producer moves it, under the queue's lock, only over complete entries
 *
 * Nobody who dies can leave a half-made entry visible: the store of `head` is the last step, and whoever takes the lock next starts from `head` again.
 * Sleeping is Dekker's scheme: "I sleep" is stored, a full fence passes, then the other side's position is read again; the other side stores its position,
 * fences, and reads the flag. The futex word is read before the last look at the position, so a wake-up between that look and the wait is not lost.
 * Positions and entries are untrusted: each is read once into a local and checked.
 */
#ifndef SHMBPF_NET_QUEUE_H
#define SHMBPF_NET_QUEUE_H

#include <limits.h>

#include "shmbpf/net.h"

enum queue_mask { QUEUE_MASK = NET_QUEUE_BYTES - 1 };

static inline uint32_t queue_entry_bytes(uint32_t inline_bytes)
{
	return ((uint32_t)sizeof(struct net_entry) + inline_bytes + 7) & ~7u;
}

static inline uint64_t queue_head(const struct net_queue *queue)
{
	return __atomic_load_n(&queue->head, __ATOMIC_ACQUIRE);
}

static inline uint64_t queue_tail(const struct net_queue *queue)
{
	return __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE);
}

/* Adds to a statistics word that only we write: plain arithmetic, but no reader sees a torn value. */
static inline void queue_count(uint64_t *counter, uint64_t add)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + add, __ATOMIC_RELAXED);
}

/* Wakes whoever sleeps on `word`, if `sleeps` says that somebody does. Follows the store of a position. */
static inline void queue_wake(uint32_t *word, uint32_t *sleeps)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__builtin_expect(!__atomic_load_n(sleeps, __ATOMIC_RELAXED), 1))
		return;
	__atomic_store_n(sleeps, 0, __ATOMIC_RELAXED);
	__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
	shm_wake(word, INT_MAX);
}

/* First half of going to sleep: gives the futex value to wait for. The caller then looks once more, and waits only when there is still nothing. */
static inline uint32_t queue_announce(const uint32_t *word, uint32_t *sleeps)
{
	uint32_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);

	__atomic_store_n(sleeps, 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return seen;
}

#endif
