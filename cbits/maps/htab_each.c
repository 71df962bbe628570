/*
 * htab_each.c - the walk of bpf_for_each_map_elem() over a hash table, which goes on while its callbacks change the table.
 *
 * Position: low 32 bits the bucket, high 32 bits the element to visit next plus one, 0 = the bucket's first. As on Linux the successor is noted before the
 * callback runs, so a callback may delete or replace its own element: the replacement goes in at the head of the chain, behind the walk. An element that
 * was deleted before its turn is left out; it still leads on, unless it has been recycled into another chain, where the walk turns to the next bucket.
 */
#include "htab_core.h"

static uint64_t bucket_start(uint64_t b)
{
	return b;
}

static uint64_t element_in(uint64_t b, uint32_t elem)
{
	return ((uint64_t)elem + 1) << 32 | b;
}

static int is_linked(const struct map *map, uint32_t elem, uint32_t b)
{
	const struct shm_link *link = htab_link(map, elem);

	return shm_load_acquire(&link->state) == SHM_ELEM_LINKED && (shm_load(&link->hash) & map->mask) == b;
}

/* Linux v6.12 kernel/bpf/hashtab.c, bpf_for_each_hash_elem(). */
int htab_each(struct map *map, struct shm_client *me, uint64_t *position, const void **key, void **value)
{
	uint64_t cpu_off = map->cpu_bytes * me->cpu;
	uint32_t steps = 0;

	if (map->cpu_bytes && me->cpu >= map->ncpu)
		return -ENODEV;
	while ((uint32_t)*position <= map->mask) {
		uint32_t b = (uint32_t)*position, noted = (uint32_t)(*position >> 32), next;
		uint32_t elem = noted ? noted - 1 : shm_load_acquire(&htab_bucket(map, b)->head);

		if (elem >= map->elems || steps++ > map->elems) {
			*position = bucket_start((uint64_t)b + 1);
			steps = 0;
			continue;
		}
		next = shm_load_acquire(&htab_link(map, elem)->next);
		*position = next < map->elems ? element_in(b, next) : bucket_start((uint64_t)b + 1);
		if (!is_linked(map, elem, b))
			continue;
		*key = htab_key(map, elem);
		*value = htab_value(map, elem) + cpu_off;
		return 0;
	}
	return -ENOENT;
}
