/*
 * lookup.h - the program-side lookup, for callers on hot paths: arrays are indexed in place, every other type goes through its row.
 *
 * What Linux's JIT does with array maps (v6.12 kernel/bpf/arraymap.c, array_map_gen_lookup()). A map is `flat` when its open() says so: key = index of an
 * element `value_stride` apart in `values` (of the caller's own block, for per-CPU types). The same answer as map->ops->lookup, without the call.
 */
#ifndef SHMBPF_MAPS_LOOKUP_H
#define SHMBPF_MAPS_LOOKUP_H

#include "../shm/atomic.h"
#include "shmbpf/map.h"

shm_inline void *map_prog_lookup(struct map *map, struct shm_client *me, const void *key)
{
	uint8_t *values = map->values;
	uint32_t index;

	if (!map->flat)
		return map->ops->lookup(map, me, key);
	if (map->cpu_bytes) {
		if (me->cpu >= map->ncpu)
			return NULL;
		values += me->cpu * map->cpu_bytes;
	}
	memcpy(&index, key, sizeof(index));
	return index < map->max_entries ? values + (uint64_t)index * map->value_stride : NULL;
}

#endif
