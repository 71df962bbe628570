/*
 * freelist.h - the pool of elements of a hash: states, free lists and spares (struct shm_link, struct shm_freelist).
 *
 * Lock order: a bucket's lock, then one list's lock; never two lists at once. Everything read from the segment is checked before it is used as an index, so a
 * scribbled pool loses elements, never its footing.
 */
#ifndef SHMBPF_SHM_FREELIST_H
#define SHMBPF_SHM_FREELIST_H

#include "lock.h"
#include "point.h"

#define SHM_NO_ELEM 0xffffffffu

/* A process's view of a pool; `recovered` counts in the segment. */
struct shm_pool {
	struct shm_link *links;
	struct shm_freelist *lists;
	uint32_t *missed;             /* spares ever found missing */
	uint32_t *filled;             /* of these, made good; differs from *missed while a list may lack its spare */
	uint64_t *recovered;
	uint32_t elems;
	uint32_t list_cnt;
};

void shm_pool_init(const struct shm_pool *pool);
/* Any free element, OWNED by us; SHM_NO_ELEM when there is none in any list. */
uint32_t shm_pool_take_any(const struct shm_pool *pool, struct shm_client *me, uint32_t own);
/* Puts an element OWNED by us into some list, when ours is not to be had. */
int shm_pool_give_any(const struct shm_pool *pool, struct shm_client *me, uint32_t elem, uint32_t own);
/* Rebuilds a list from the states of its elements; its lock is held. */
void shm_pool_rebuild(const struct shm_pool *pool, uint32_t list);
/* Gives every list its spare again. 0 when all have one. */
int shm_pool_refill_spares(const struct shm_pool *pool, struct shm_client *me);
/* Checks the list's chain and spare, marking each element in `seen`. 0 or -EUCLEAN with a reason. */
int shm_pool_check(const struct shm_pool *pool, struct shm_client *me, uint32_t list, uint32_t *seen, char *why, uint32_t why_bytes);

shm_inline uint32_t shm_pool_own_list(const struct shm_pool *pool, const struct shm_client *me)
{
	return me->cpu < pool->list_cnt - 1 ? me->cpu : pool->list_cnt - 1;
}

/* 0, or -errno. Pairs with shm_pool_unlock. */
shm_inline int shm_pool_lock(const struct shm_pool *pool, struct shm_client *me, uint32_t list)
{
	int got = shm_lock_word(me, &pool->lists[list].lock);

	if (shm_unlikely(got == 1)) {
		shm_pool_rebuild(pool, list);
		return 0;
	}
	return got;
}

shm_inline void shm_pool_unlock(const struct shm_pool *pool, struct shm_client *me, uint32_t list)
{
	shm_unlock_word(me, &pool->lists[list].lock);
}

shm_inline int shm_elem_is(const struct shm_pool *pool, uint32_t elem, uint32_t state)
{
	return elem < pool->elems && shm_load(&pool->links[elem].state) == state;
}

/*
 * 1 while a list may lack its spare: elements that look free then are not room. Asked under the list's lock, because who finds a spare missing says so before
 * anything that the dead one held is put into any list.
 */
shm_inline int shm_pool_is_spareless(const struct shm_pool *pool)
{
	return shm_load_acquire(pool->missed) != shm_load_acquire(pool->filled);
}

/* First element of the list, now OWNED by us. A head that is no free element of this list was scribbled: rebuild. */
shm_inline uint32_t shm_pool_pop_locked(const struct shm_pool *pool, struct shm_client *me, uint32_t list)
{
	struct shm_freelist *from = &pool->lists[list];
	uint32_t elem = shm_load(&from->head);

	if (elem == SHM_NO_ELEM)
		return elem;
	if (shm_unlikely(!shm_elem_is(pool, elem, SHM_ELEM_FREE + list))) {
		shm_pool_rebuild(pool, list);
		elem = shm_load(&from->head);
		if (!shm_elem_is(pool, elem, SHM_ELEM_FREE + list))
			return SHM_NO_ELEM;
	}
	shm_store(&from->head, shm_load(&pool->links[elem].hash));
	SHM_POINT(pool_pop_unlinked);
	shm_store_release(&pool->links[elem].state, me->owner);
	SHM_POINT(pool_pop_owned);
	return elem;
}

/* The list's spare, now OWNED by us, or SHM_NO_ELEM. */
shm_inline uint32_t shm_pool_spare_locked(const struct shm_pool *pool, struct shm_client *me, uint32_t list)
{
	uint32_t elem = shm_load(&pool->lists[list].spare);

	if (shm_unlikely(!shm_elem_is(pool, elem, SHM_ELEM_SPARE + list)))
		return SHM_NO_ELEM;
	shm_store_release(&pool->links[elem].state, me->owner);
	return elem;
}

/* An element OWNED by us becomes the list's spare (which is out or lost). */
shm_inline void shm_pool_make_spare_locked(const struct shm_pool *pool, uint32_t elem, uint32_t list)
{
	shm_store_release(&pool->links[elem].state, SHM_ELEM_SPARE + list);
	SHM_POINT(pool_spare_put);
	shm_store(&pool->lists[list].spare, elem);
}

shm_inline void shm_pool_put_locked(const struct shm_pool *pool, uint32_t elem, uint32_t list)
{
	struct shm_freelist *to = &pool->lists[list];

	if (shm_unlikely(shm_load(&to->spare) == SHM_NO_ELEM)) {
		shm_pool_make_spare_locked(pool, elem, list);
		return;
	}
	shm_store(&pool->links[elem].hash, shm_load(&to->head));
	SHM_POINT(pool_put_next);
	shm_store_release(&pool->links[elem].state, SHM_ELEM_FREE + list);
	SHM_POINT(pool_put_free);
	shm_store(&to->head, elem);
	shm_store(&to->puts, shm_load(&to->puts) + 1);
	SHM_POINT(pool_put_linked);
}

shm_inline uint32_t shm_pool_take(const struct shm_pool *pool, struct shm_client *me)
{
	uint32_t elem, own = shm_pool_own_list(pool, me);

	if (shm_likely(shm_load(&pool->lists[own].head) != SHM_NO_ELEM && shm_pool_lock(pool, me, own) == 0)) {
		elem = shm_unlikely(shm_pool_is_spareless(pool)) ? SHM_NO_ELEM : shm_pool_pop_locked(pool, me, own);
		shm_pool_unlock(pool, me, own);
		if (shm_likely(elem != SHM_NO_ELEM))
			return elem;
	}
	return shm_pool_take_any(pool, me, own);
}

/* An element that is OWNED by us goes back. On error (every list is held by a stopped process) it stays ours until we die and somebody sweeps. */
shm_inline int shm_pool_give(const struct shm_pool *pool, struct shm_client *me, uint32_t elem)
{
	uint32_t own = shm_pool_own_list(pool, me);

	if (shm_unlikely(shm_pool_lock(pool, me, own) != 0))
		return shm_pool_give_any(pool, me, elem, own);
	shm_pool_put_locked(pool, elem, own);
	shm_pool_unlock(pool, me, own);
	return 0;
}

#endif
