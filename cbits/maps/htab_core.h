/*
 * htab_core.h - the hash table under HASH and PERCPU_HASH: buckets of singly linked elements from a fixed pool.
 *
 *   buckets[hash & mask] { lock, head } --> links[e] { state, next, hash, seq } --> ... --> END | bucket number
 *                                                |
 *                                     keys[e], values[e]   (same index, other pages: a program that runs wild spoils values, never structure)
 *
 * Writers hold the bucket's lock (then, if need be, one free list's). Readers hold nothing:
 *  - an element removed under a reader keeps its `next`, so the reader finds its way; recycled into another chain, it leads to another END mark: start again;
 *  - a replacement goes in at the head, before the old element goes out, so a reader that reached the end without a hit looks whether the head is still the
 *    one it began with (same element, same fill): only then has it seen the whole chain, and "no such key" is true of one moment of its walk;
 *  - `seq` is odd while key and value are written and even before the element becomes reachable: copies for bpf(2) are taken between two equal even values
 *    of a LINKED element, so they are never torn. A program gets a pointer, and with it what Linux gives: the element may be reused under its hands.
 *
 * A dead writer: every state between two stores is a valid chain (shm.h says what OWNED brackets); whoever takes the dead one's lock over runs
 * htab_recover_bucket(); elements that are in nobody's chain are found by htab_sweep(). tests/crash/test_hash_kill.py dies at every point.
 */
#ifndef SHMBPF_MAPS_HTAB_CORE_H
#define SHMBPF_MAPS_HTAB_CORE_H

#include "../shm/freelist.h"
#include "../shm/hash.h"
#include "rows.h"

#define HTAB_END 0x80000000u
#define HTAB_TRIES 8

/* map.c's rows */
int htab_alloc_check(const struct map_attr *attr);
/* Areas 1 to 3: links, buckets, lists. */
int htab_layout_links(const struct map_attr *attr, struct map_layout *out);
void htab_open_links(struct map *map);
void htab_init(struct map *map);
int htab_delete(struct map *map, struct shm_client *me, const void *key);
int htab_copy(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
int htab_take(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
int htab_next_key(struct map *map, struct shm_client *me, const void *key, void *next);
int htab_batch(struct map *map, struct shm_client *me, uint32_t start, uint64_t *position, void *keys, void *values, uint32_t *count, uint64_t elem_flags, uint32_t and_delete);
int htab_add(struct map *map, struct shm_client *me, const void *key, uint32_t cpu, uint32_t offset, uint32_t width, uint64_t delta, uint64_t *result);
int htab_each(struct map *map, struct shm_client *me, uint64_t *position, const void **key, void **value);
int htab_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes);
int htab_recover(struct map *map, struct shm_client *me);

/* Elements the pool of such a map has: spares included. */
uint32_t htab_elems(const struct map_attr *attr);
/* The bucket's lock is ours, taken over from the dead: makes its chain true again. */
void htab_recover_bucket(struct map *map, struct shm_client *me, uint32_t b);
/* Takes back what dead clients held; the number of repairs. No lock is held. */
uint32_t htab_sweep(struct map *map, struct shm_client *me);
/* After a walk that could not be trusted: again, at last under the lock. */
uint32_t htab_find_again(struct map *map, struct shm_client *me, const void *key, uint32_t hash);

shm_inline struct shm_link *htab_link(const struct map *map, uint32_t elem)
{
	return (struct shm_link *)map->links + elem;
}

shm_inline struct shm_bucket *htab_bucket(const struct map *map, uint32_t b)
{
	return (struct shm_bucket *)map->buckets + b;
}

shm_inline struct shm_pool htab_pool(const struct map *map)
{
	return (struct shm_pool){
		.links = (struct shm_link *)map->links,
		.lists = (struct shm_freelist *)map->lists,
		.missed = &map->ctl->spares_missed,
		.filled = &map->ctl->spares_filled,
		.recovered = &map->ctl->recovered,
		.elems = map->elems,
		.list_cnt = map->ncpu + 1,
	};
}

shm_inline uint8_t *htab_key(const struct map *map, uint32_t elem)
{
	return map->keys + (uint64_t)elem * map->key_stride;
}

shm_inline uint8_t *htab_value(const struct map *map, uint32_t elem)
{
	return map->values + (uint64_t)elem * map->value_stride;
}

/* `bytes` is map->key_size, or a constant equal to it. */
shm_inline int htab_key_is(const struct map *map, uint32_t elem, const void *key, uint32_t bytes)
{
	const uint8_t *mine = htab_key(map, elem), *theirs = key;
	uint64_t word = 0;

	if (bytes == 4) {
		uint32_t half;

		memcpy(&half, theirs, 4);
		return shm_load((const uint32_t *)mine) == half;
	}
	for (; bytes >= 8; bytes -= 8, mine += 8, theirs += 8) {
		memcpy(&word, theirs, 8);
		if (shm_load((const uint64_t *)mine) != word)
			return 0;
	}
	if (!bytes)
		return 1;
	word = 0;                     /* keys are padded with zeros to whole words */
	memcpy(&word, theirs, bytes);
	return shm_load((const uint64_t *)mine) == word;
}

shm_inline int htab_same_key(const struct map *map, uint32_t one, uint32_t other)
{
	const uint64_t *a = (const uint64_t *)htab_key(map, one), *b = (const uint64_t *)htab_key(map, other);

	for (uint32_t i = 0; i < map_round8(map->key_size) / 8; i++)
		if (shm_load(a + i) != shm_load(b + i))
			return 0;
	return 1;
}

shm_inline void htab_key_write(const struct map *map, uint32_t elem, const void *key, uint32_t bytes)
{
	uint8_t *mine = htab_key(map, elem);
	const uint8_t *theirs = key;
	uint64_t word = 0;

	for (; bytes >= 8; bytes -= 8, mine += 8, theirs += 8) {
		memcpy(&word, theirs, 8);
		shm_store((uint64_t *)mine, word);
	}
	if (bytes) {
		word = 0;
		memcpy(&word, theirs, bytes);
		shm_store((uint64_t *)mine, word);
	}
}

/*
 * 1 when the element holds the key. Up to 8 bytes are read in one piece; a longer key might be seen half-written, so the element must not have been
 * refilled meanwhile.
 */
shm_inline int htab_matches(const struct map *map, uint32_t elem, const void *key, uint32_t bytes)
{
	uint32_t seq;

	if (bytes <= 8)
		return htab_key_is(map, elem, key, bytes);
	seq = shm_load_acquire(&htab_link(map, elem)->seq);
	if (!htab_key_is(map, elem, key, bytes))
		return 0;
	shm_fence_acquire();
	return !(seq & 1) && shm_load(&htab_link(map, elem)->seq) == seq;
}

/* The element of a key without taking a lock, or SHM_NO_ELEM. `bytes` as in htab_key_is. */
shm_inline uint32_t htab_find(struct map *map, struct shm_client *me, const void *key, uint32_t hash, uint32_t bytes)
{
	uint32_t b = hash & map->mask, elems = map->elems, steps = 0, seq, elem;
	uint32_t first = shm_load_acquire(&htab_bucket(map, b)->head);

	if (shm_unlikely(first >= elems))
		return first == (HTAB_END | b) ? SHM_NO_ELEM : htab_find_again(map, me, key, hash);
	if (shm_likely(htab_matches(map, first, key, bytes)))
		return first;
	seq = shm_load_acquire(&htab_link(map, first)->seq);
	elem = shm_load_acquire(&htab_link(map, first)->next);
	while (elem < elems && steps++ < elems) {
		if (htab_matches(map, elem, key, bytes))
			return elem;
		elem = shm_load_acquire(&htab_link(map, elem)->next);
	}
	if (shm_likely(elem == (HTAB_END | b) && !(seq & 1) && shm_load_acquire(&htab_bucket(map, b)->head) == first && shm_load(&htab_link(map, first)->seq) == seq))
		return SHM_NO_ELEM;
	return htab_find_again(map, me, key, hash);
}

/* Under the bucket's lock; *prev = the element before it, SHM_NO_ELEM when it is the first. */
shm_inline uint32_t htab_find_locked(const struct map *map, const void *key, uint32_t hash, uint32_t bytes, uint32_t *prev)
{
	uint32_t steps = 0, elem = shm_load(&htab_bucket(map, hash & map->mask)->head);

	*prev = SHM_NO_ELEM;
	while (elem < map->elems && steps++ < map->elems) {
		if (htab_key_is(map, elem, key, bytes))
			return elem;
		*prev = elem;
		elem = shm_load(&htab_link(map, elem)->next);
	}
	return SHM_NO_ELEM;
}

/* 0 or -errno. Pairs with htab_unlock. */
shm_inline int htab_lock(struct map *map, struct shm_client *me, uint32_t b)
{
	int got = shm_lock_word(me, &htab_bucket(map, b)->lock);

	if (shm_unlikely(got == 1)) {
		htab_recover_bucket(map, me, b);
		return 0;
	}
	return got;
}

shm_inline void htab_unlock(struct map *map, struct shm_client *me, uint32_t b)
{
	shm_unlock_word(me, &htab_bucket(map, b)->lock);
}

/* Opens an element that is OWNED by us for writing: readers that still hold it notice. Closed by htab_chain_in. */
shm_inline void htab_begin_fill(const struct map *map, uint32_t elem, const void *key, uint32_t hash, uint32_t bytes)
{
	struct shm_link *link = htab_link(map, elem);

	shm_store(&link->seq, (shm_load(&link->seq) + 1) | 1);
	shm_fence_release();
	shm_store(&link->hash, hash);
	htab_key_write(map, elem, key, bytes);
}

/* A filled element becomes the first of its bucket, whose lock is ours. */
shm_inline void htab_chain_in(const struct map *map, uint32_t b, uint32_t elem)
{
	struct shm_link *link = htab_link(map, elem);
	struct shm_bucket *bucket = htab_bucket(map, b);

	shm_store(&link->next, shm_load(&bucket->head));
	SHM_POINT(htab_link_next);
	shm_store_release(&link->seq, shm_load(&link->seq) + 1);
	shm_store_release(&bucket->head, elem);
	SHM_POINT(htab_link_head);
	shm_store_release(&link->state, SHM_ELEM_LINKED);
	SHM_POINT(htab_link_done);
}

/* An element leaves its bucket, whose lock is ours, and is OWNED by us. Its own `next` stays for late readers. */
shm_inline void htab_chain_out(const struct map *map, const struct shm_client *me, uint32_t b, uint32_t prev, uint32_t elem)
{
	struct shm_link *link = htab_link(map, elem);

	shm_store(&link->state, me->owner);
	SHM_POINT(htab_unlink_owned);
	shm_store_release(prev == SHM_NO_ELEM ? &htab_bucket(map, b)->head : &htab_link(map, prev)->next, shm_load(&link->next));
	SHM_POINT(htab_unlink_done);
}

/* Linux v6.12 kernel/bpf/hashtab.c, check_flags(). */
shm_inline int htab_check_flags(uint32_t old, uint64_t flags)
{
	flags &= ~(uint64_t)BPF_F_LOCK;
	if (old != SHM_NO_ELEM && flags == BPF_NOEXIST)
		return -EEXIST;
	if (old == SHM_NO_ELEM && flags == BPF_EXIST)
		return -ENOENT;
	return 0;
}

#endif
