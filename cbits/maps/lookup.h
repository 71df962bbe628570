/*
 * lookup.h - the program-side lookup, for callers on hot paths: arrays are indexed in place, every other type goes through its row.
 *
 * What Linux's JIT does with array maps (v6.12 kernel/bpf/arraymap.c, array_map_gen_lookup()). A map is `flat` when its open() says so: key = index of an
 * element `value_stride` apart in `values`; `flat_percpu`: in the caller's own block of values. The same answer as map->ops->lookup, without the call.
 */
#ifndef SHMBPF_MAPS_LOOKUP_H
#define SHMBPF_MAPS_LOOKUP_H

#include "../shm/atomic.h"
#include "shmbpf/map.h"

/* `values` is where index 0 is. Never NULL by arithmetic, so callers that have been inlined need not ask again. */
shm_inline void *map_flat_value(const struct map *map, uint8_t *values, const void *key)
{
	uint32_t index;

	memcpy(&index, key, sizeof(index));
	if (shm_unlikely(index >= map->max_entries))
		return NULL;
	values += (uint64_t)index * map->value_stride;
	if (!values)
		__builtin_unreachable();
	return values;
}

shm_inline void *map_prog_lookup(struct map *map, struct shm_client *me, const void *key)
{
	if (shm_likely(map->flat))
		return map_flat_value(map, map->values, key);
	if (map->flat_percpu && me->cpu < map->ncpu)
		return map_flat_value(map, map->values + me->cpu * map->cpu_bytes, key);
	return map->ops->lookup(map, me, key);
}

#endif
