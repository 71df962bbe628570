/*
 * freelist.c - the seldom-taken half of the element pool: other CPUs' lists, lists whose owner died, lost spares, checking.
 *
 * Exactness. A pool has max_entries + lists elements, of which each list keeps one as spare, so no more than max_entries can be live. A death may take a
 * spare with it: who takes the list over counts it in `missed`, and insertions are kept back until free elements have filled the gaps and `filled` says so. The
 * order is what counts (models/hash.pml has a mutant for each way to get it wrong): `missed` is raised before anything the dead one held is put into a list,
 * looked at under a list's lock, and matched by `filled` only when every list has its spare.
 */
#include "freelist.h"

#include <errno.h>
#include <stdio.h>

void shm_pool_init(const struct shm_pool *pool)
{
	uint32_t elem = 0, plain = pool->elems - pool->list_cnt;

	for (uint32_t list = 0; list < pool->list_cnt; list++) {
		uint32_t share = plain / pool->list_cnt + (list < plain % pool->list_cnt);
		struct shm_freelist *to = &pool->lists[list];

		to->head = share ? elem : SHM_NO_ELEM;
		for (uint32_t i = 0; i < share; i++, elem++) {
			pool->links[elem].state = SHM_ELEM_FREE + list;
			pool->links[elem].hash = i + 1 < share ? elem + 1 : SHM_NO_ELEM;
		}
		pool->links[elem].state = SHM_ELEM_SPARE + list;
		to->spare = elem++;
		to->hint = list;
	}
}

void shm_pool_rebuild(const struct shm_pool *pool, uint32_t list)
{
	struct shm_freelist *to = &pool->lists[list];
	uint32_t head = SHM_NO_ELEM, spare = SHM_NO_ELEM;

	shm_store(&to->head, SHM_NO_ELEM);
	shm_store(&to->spare, SHM_NO_ELEM);
	for (uint32_t elem = 0; elem < pool->elems; elem++) {
		uint32_t state = shm_load(&pool->links[elem].state);

		if (state == SHM_ELEM_SPARE + list && spare == SHM_NO_ELEM) {
			spare = elem;
		} else if (state == SHM_ELEM_SPARE + list || state == SHM_ELEM_FREE + list) {
			shm_store(&pool->links[elem].hash, head);
			shm_store(&pool->links[elem].state, SHM_ELEM_FREE + list);
			head = elem;
			SHM_POINT(pool_rebuild);
		}
	}
	if (spare == SHM_NO_ELEM && head != SHM_NO_ELEM) {
		spare = head;
		head = shm_load(&pool->links[spare].hash);
		shm_store(&pool->links[spare].state, SHM_ELEM_SPARE + list);
	}
	shm_store(&to->spare, spare);
	shm_store(&to->head, head);
	shm_store(&to->puts, shm_load(&to->puts) + 1);
	if (spare == SHM_NO_ELEM)
		__atomic_fetch_add(pool->missed, 1, __ATOMIC_ACQ_REL);
	SHM_POINT(pool_rebuilt);
	__atomic_fetch_add(pool->recovered, 1, __ATOMIC_RELAXED);
}

static uint32_t count_puts(const struct shm_pool *pool)
{
	uint32_t sum = 0;

	for (uint32_t list = 0; list < pool->list_cnt; list++)
		sum += shm_load_acquire(&pool->lists[list].puts);
	return sum;
}

enum purpose { TO_INSERT, TO_REFILL };

/* One round over all lists, beginning where elements were found last. Nothing is taken to insert while a spare is missing. */
static uint32_t scan_lists(const struct shm_pool *pool, struct shm_client *me, uint32_t own, enum purpose purpose)
{
	uint32_t list = shm_load(&pool->lists[own].hint) % pool->list_cnt;

	for (uint32_t i = 0; i < pool->list_cnt; i++, list = list + 1 == pool->list_cnt ? 0 : list + 1) {
		uint32_t elem;

		/* the lock word is looked at too: a dead holder may have left its list empty for the time being */
		if (shm_load(&pool->lists[list].head) == SHM_NO_ELEM && shm_load(&pool->lists[list].lock) == 0)
			continue;
		if (shm_pool_lock(pool, me, list) != 0)
			continue;
		elem = purpose == TO_INSERT && shm_pool_is_spareless(pool) ? SHM_NO_ELEM : shm_pool_pop_locked(pool, me, list);
		shm_pool_unlock(pool, me, list);
		if (elem != SHM_NO_ELEM) {
			shm_store(&pool->lists[own].hint, list);
			return elem;
		}
	}
	return SHM_NO_ELEM;
}

uint32_t shm_pool_take_any(const struct shm_pool *pool, struct shm_client *me, uint32_t own)
{
	if (!me->owner)
		return SHM_NO_ELEM;
	/* an element put behind the scan's back was free all the time: look again. Bounded, should others put and take for ever */
	for (uint32_t round = 0; round < 64; round++) {
		uint32_t puts, elem;

		if (shm_pool_is_spareless(pool) && shm_pool_refill_spares(pool, me) != 0)
			return SHM_NO_ELEM;
		puts = count_puts(pool);
		elem = scan_lists(pool, me, own, TO_INSERT);
		if (elem != SHM_NO_ELEM || (puts == count_puts(pool) && !shm_pool_is_spareless(pool)))
			return elem;
	}
	return SHM_NO_ELEM;
}

int shm_pool_give_any(const struct shm_pool *pool, struct shm_client *me, uint32_t elem, uint32_t own)
{
	for (uint32_t i = 1; i < pool->list_cnt; i++) {
		uint32_t list = (own + i) % pool->list_cnt;
		int got = shm_trylock(me, &pool->lists[list].lock);

		if (got < 0)
			continue;
		if (got == 1)
			shm_pool_rebuild(pool, list);
		shm_pool_put_locked(pool, elem, list);
		shm_pool_unlock(pool, me, list);
		return 0;
	}
	return -EBUSY;
}

int shm_pool_refill_spares(const struct shm_pool *pool, struct shm_client *me)
{
	uint32_t missing = 0, missed = shm_load_acquire(pool->missed);

	for (uint32_t list = 0; list < pool->list_cnt; list++) {
		uint32_t elem;

		if (shm_load(&pool->lists[list].spare) != SHM_NO_ELEM)
			continue;
		elem = scan_lists(pool, me, list, TO_REFILL);
		if (elem == SHM_NO_ELEM) {
			missing++;
			continue;
		}
		if (shm_pool_lock(pool, me, list) != 0) {
			shm_pool_give_any(pool, me, elem, list);
			missing++;
			continue;
		}
		shm_pool_put_locked(pool, elem, list);
		shm_pool_unlock(pool, me, list);
	}
	if (missing)
		return -EAGAIN;
	SHM_POINT(pool_refilled);
	shm_store_release(pool->filled, missed);
	return 0;
}

static int check_locked(const struct shm_pool *pool, uint32_t list, uint32_t *seen, char *why, uint32_t why_bytes)
{
	uint32_t steps = 0, elem = shm_load(&pool->lists[list].head);
	uint32_t spare = shm_load(&pool->lists[list].spare);

	for (; elem != SHM_NO_ELEM; elem = shm_load(&pool->links[elem].hash)) {
		if (!shm_elem_is(pool, elem, SHM_ELEM_FREE + list) || steps++ >= pool->elems) {
			snprintf(why, why_bytes, "free list %u: element %u is not a free element of it", list, elem);
			return -EUCLEAN;
		}
		seen[elem] = 1;
	}
	if (spare == SHM_NO_ELEM && shm_pool_is_spareless(pool))
		return 0;
	if (!shm_elem_is(pool, spare, SHM_ELEM_SPARE + list)) {
		snprintf(why, why_bytes, "free list %u: its spare %u is not a spare element of it", list, spare);
		return -EUCLEAN;
	}
	seen[spare] = 1;
	return 0;
}

int shm_pool_check(const struct shm_pool *pool, struct shm_client *me, uint32_t list, uint32_t *seen, char *why, uint32_t why_bytes)
{
	int err = shm_pool_lock(pool, me, list);

	if (err)
		return err;
	err = check_locked(pool, list, seen, why, why_bytes);
	shm_pool_unlock(pool, me, list);
	return err;
}
