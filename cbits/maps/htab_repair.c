/*
 * htab_repair.c - what happens to a hash table after a death: recovery of a bucket, sweeping of lost elements, and the check that finds anything wrong.
 *
 * A dead writer held at most one bucket and one list. Its bucket is a valid chain in every case, but may hold a key twice (new in front, old behind:
 * replacement interrupted) and elements still marked OWNED. An insertion or deletion nobody was told of may be done or undone: either is true to its caller,
 * who is dead.
 */
#include "htab_core.h"

#include <stdio.h>
#include <stdlib.h>

static uint32_t *link_to(struct map *map, uint32_t b, uint32_t prev)
{
	return prev == SHM_NO_ELEM ? &htab_bucket(map, b)->head : &htab_link(map, prev)->next;
}

/* Answers of shm_owner_alive for one pass over many words: the same few owners appear again and again. */
struct owner_memo {
	uint32_t owner;
	int dead;
};

static int is_dead(struct shm_client *me, struct owner_memo *memo, uint32_t owner)
{
	if (memo->owner != owner) {
		memo->owner = owner;
		memo->dead = !shm_owner_alive(me, owner);
	}
	return memo->dead;
}

/*
 * Afterwards every free list that a dead client held has been taken over, by us or by somebody who is done with it: one that died in a replacement had its list's
 * spare in hand, and whoever puts that element into a list before the missing spare has been counted makes room for one entry more than max_entries. So this
 * waits for the living too. -EBUSY: somebody alive keeps a list; what the dead held must then stay where it is.
 */
static int settle_lists(struct map *map, struct shm_client *me)
{
	struct shm_pool pool = htab_pool(map);

	for (uint32_t list = 0; list < pool.list_cnt; list++) {
		int err = shm_load_acquire(&pool.lists[list].lock) ? shm_pool_lock(&pool, me, list) : 1;

		if (err < 0)
			return err;
		if (!err)
			shm_pool_unlock(&pool, me, list);
	}
	return 0;
}

void htab_recover_bucket(struct map *map, struct shm_client *me, uint32_t b)
{
	struct shm_pool pool = htab_pool(map);
	uint32_t steps = 0, prev = SHM_NO_ELEM, first = shm_load(&htab_bucket(map, b)->head), elem = first;
	int settled = settle_lists(map, me) == 0;

	while (elem < map->elems && steps++ < map->elems && (shm_load(&htab_link(map, elem)->hash) & map->mask) == b) {
		struct shm_link *link = htab_link(map, elem);
		uint32_t next = shm_load(&link->next);

		/* only the key of an interrupted replacement can be there twice, and its new element is the first */
		if (elem != first && htab_same_key(map, first, elem)) {
			htab_chain_out(map, me, b, prev, elem);
			if (settled)
				shm_pool_give(&pool, me, elem);
		} else {
			shm_store(&link->seq, (shm_load(&link->seq) + 1) & ~1u);
			shm_store_release(&link->state, SHM_ELEM_LINKED);
			prev = elem;
		}
		SHM_POINT(htab_recover_linked);
		elem = next;
	}
	/* a chain that does not end as it must was scribbled over: what lies behind is lost, what is in front stays usable */
	if (elem != (HTAB_END | b))
		shm_store_release(link_to(map, b, prev), HTAB_END | b);
	__atomic_fetch_add(&map->ctl->recovered, 1, __ATOMIC_RELAXED);
}

static uint32_t sweep_locks(struct map *map, struct shm_client *me, struct owner_memo *memo)
{
	uint32_t repairs = 0;
	uint64_t steals;

	for (uint32_t b = 0; b <= map->mask; b++) {
		uint32_t word = shm_load(&htab_bucket(map, b)->lock);

		if (word == 0 || !is_dead(me, memo, word & ~SHM_WAITERS) || htab_lock(map, me, b) != 0)
			continue;
		htab_unlock(map, me, b);
		repairs++;
	}
	steals = me->steals;
	settle_lists(map, me);
	return repairs + (uint32_t)(me->steals - steals);
}

/* An element OWNED by somebody dead (or by us, who hold none now): free, unless its bucket's recovery has found it reachable. */
static uint32_t sweep_element(struct map *map, struct shm_client *me, uint32_t elem, uint32_t owner)
{
	struct shm_pool pool = htab_pool(map);
	struct shm_link *link = htab_link(map, elem);
	uint32_t b = shm_load(&link->hash) & map->mask;
	int ours;

	if (htab_lock(map, me, b) != 0)
		return 0;
	ours = shm_cas(&link->state, owner, me->owner);
	htab_unlock(map, me, b);
	if (!ours)
		return 0;
	SHM_POINT(pool_sweep_owned);
	/* its owner may have died after the lists were looked at last */
	if (settle_lists(map, me) != 0 || shm_pool_give(&pool, me, elem) != 0)
		return 0;
	__atomic_fetch_add(&map->ctl->swept, 1, __ATOMIC_RELAXED);
	return 1;
}

uint32_t htab_sweep(struct map *map, struct shm_client *me)
{
	struct shm_pool pool = htab_pool(map);
	struct owner_memo memo = { 0, 1 };
	uint32_t repairs;

	if (!me->owner)
		return 0;
	repairs = sweep_locks(map, me, &memo);
	for (uint32_t elem = 0; elem < map->elems; elem++) {
		uint32_t state = shm_load(&htab_link(map, elem)->state);

		if (state >= SHM_ELEM_LIMIT && (state == me->owner || is_dead(me, &memo, state)))
			repairs += sweep_element(map, me, elem, state);
	}
	if (shm_pool_is_spareless(&pool) && shm_pool_refill_spares(&pool, me) == 0)
		repairs++;
	return repairs;
}

int htab_recover(struct map *map, struct shm_client *me)
{
	int repairs = (int)htab_sweep(map, me);

	for (uint32_t elem = 0; elem < map->elems && map_has_spin_lock(map); elem++)
		if (shm_load(&htab_link(map, elem)->state) == SHM_ELEM_LINKED)
			repairs += map_value_unlock_dead(map, me, htab_value(map, elem));
	return repairs;
}

static int twice_in_chain(const struct map *map, uint32_t b, uint32_t elem)
{
	uint32_t before = shm_load(&htab_bucket(map, b)->head);

	/* 64 in one bucket are unheard of: there, looking at a few is enough and keeps this linear */
	for (uint32_t i = 0; i < 64 && before < map->elems && before != elem; i++) {
		if (htab_same_key(map, before, elem))
			return 1;
		before = shm_load(&htab_link(map, before)->next);
	}
	return 0;
}

/* Why an element does not belong into bucket b, or NULL. */
static const char *element_fault(const struct map *map, uint32_t b, uint32_t elem)
{
	const struct shm_link *link = htab_link(map, elem);
	uint32_t hash = shm_load(&link->hash);

	if (shm_load(&link->state) != SHM_ELEM_LINKED)
		return "is reachable but not LINKED";
	if ((hash & map->mask) != b)
		return "is in another bucket's chain";
	if (hash != shm_hash(htab_key(map, elem), map->key_size, map->seed))
		return "has a hash that is not its key's";
	if (shm_load(&link->seq) & 1)
		return "is half-written";
	return twice_in_chain(map, b, elem) ? "has a key that is there twice" : NULL;
}

static int check_bucket(struct map *map, uint32_t b, uint32_t *seen, char *why, uint32_t why_bytes)
{
	uint32_t steps = 0, elem = shm_load(&htab_bucket(map, b)->head);

	for (; elem < map->elems; elem = shm_load(&htab_link(map, elem)->next)) {
		const char *fault = steps++ < map->elems ? element_fault(map, b, elem) : "is in a chain without end";

		if (fault) {
			snprintf(why, why_bytes, "bucket %u: element %u %s", b, elem, fault);
			return -EUCLEAN;
		}
		seen[elem] = 1;
	}
	if (elem == (HTAB_END | b))
		return 0;
	snprintf(why, why_bytes, "bucket %u: its chain ends with %#x, not with %#x", b, elem, HTAB_END | b);
	return -EUCLEAN;
}

/* An element met nowhere is in somebody's hands, has moved while we looked, or is lost. */
static int check_unseen(struct map *map, struct shm_client *me, uint32_t elem, char *why, uint32_t why_bytes)
{
	struct shm_pool pool = htab_pool(map);
	uint32_t state = shm_load_acquire(&htab_link(map, elem)->state), found, prev;
	uint32_t b = shm_load(&htab_link(map, elem)->hash) & map->mask;
	uint32_t one = 0;

	if (state >= SHM_ELEM_LIMIT && shm_owner_alive(me, state))
		return 0;
	if (state == SHM_ELEM_LINKED && htab_lock(map, me, b) == 0) {
		found = htab_find_locked(map, htab_key(map, elem), b, map->key_size, &prev);
		one = found == elem || shm_load(&htab_link(map, elem)->state) != state;
		htab_unlock(map, me, b);
	} else if (state >= SHM_ELEM_FREE && state < SHM_ELEM_SPARE + pool.list_cnt) {
		uint32_t list = (state - SHM_ELEM_FREE) % (SHM_ELEM_SPARE - SHM_ELEM_FREE);
		uint32_t *seen = list < pool.list_cnt ? calloc(map->elems, sizeof(*seen)) : NULL;

		if (seen && shm_pool_check(&pool, me, list, seen, why, why_bytes) == 0)
			one = seen[elem] || shm_load(&htab_link(map, elem)->state) != state;
		free(seen);
	}
	if (one)
		return 0;
	snprintf(why, why_bytes, "element %u is lost: state %#x, but neither reachable nor free", elem, state);
	return -EUCLEAN;
}

static int check_everything(struct map *map, struct shm_client *me, uint32_t *seen, char *why, uint32_t why_bytes)
{
	struct shm_pool pool = htab_pool(map);
	int err = 0;

	for (uint32_t b = 0; b <= map->mask && !err; b++) {
		err = htab_lock(map, me, b);
		if (err)
			break;
		err = check_bucket(map, b, seen, why, why_bytes);
		htab_unlock(map, me, b);
	}
	for (uint32_t list = 0; list < pool.list_cnt && !err; list++)
		err = shm_pool_check(&pool, me, list, seen, why, why_bytes);
	for (uint32_t elem = 0; elem < map->elems && !err; elem++)
		if (!seen[elem])
			err = check_unseen(map, me, elem, why, why_bytes);
	return err;
}

int htab_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	uint32_t *seen = calloc(map->elems, sizeof(*seen));
	int err;

	if (!seen)
		return -ENOMEM;
	err = check_everything(map, me, seen, why, why_bytes);
	free(seen);
	return err;
}
