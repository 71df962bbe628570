/*
 * lock.h - the uncontended half of a lock word, inlined into every map operation: one compare-and-swap in, one plain release store out.
 */
#ifndef SHMBPF_SHM_LOCK_H
#define SHMBPF_SHM_LOCK_H

#include "atomic.h"
#include "shmbpf/shm.h"

#define SHM_WAITERS 0x80000000u

int shm_lock_contended(struct shm_client *me, uint32_t *word, uint64_t patience_ns);
void shm_unlock_contended(struct shm_client *me, uint32_t *word);

shm_inline int shm_lock_word(struct shm_client *me, uint32_t *word)
{
	/* a client inherited over fork has owner 0 and must not "lock" by storing 0 */
	if (shm_likely(me->owner && shm_cas(word, 0, me->owner)))
		return 0;
	return shm_lock_contended(me, word, me->busy_ns);
}

shm_inline void shm_unlock_word(struct shm_client *me, uint32_t *word)
{
	/*
	 * Not an exchange: a waiter that sets its bit between the load and the store is not woken. It sleeps 1 ms at most, and that is cheaper than a locked
	 * instruction in every unlock.
	 */
	if (shm_likely(shm_load(word) == me->owner))
		shm_store_release(word, 0);
	else
		shm_unlock_contended(me, word);
}

#endif
