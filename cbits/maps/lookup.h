/*
 * lookup.h - the program-side lookup, for callers on hot paths: arrays are indexed in place, every other type goes through its row.
 *
 * What Linux's JIT does with array maps (v6.12 kernel/bpf/arraymap.c, array_map_gen_lookup()). A map has `flat_entries` when its open() says so: key = index of an
 * element `value_stride` apart in `values` (`percpu_entries`: in the caller's own block of values). The same answer as map->ops->lookup, without the call.
 */
#ifndef SHMBPF_MAPS_LOOKUP_H
#define SHMBPF_MAPS_LOOKUP_H

#include "../shm/atomic.h"
#include "shmbpf/map.h"

/*
 * One comparison decides both whether the map is flat and whether the index exists: other types have no flat entries. It costs a look at the key's first 4 bytes, of keys
 * that may be shorter: behind the memory a program may name as a key there always are as many more that can be read (cpu/cpu.c). The value is never NULL by
 * arithmetic, so callers that have been inlined need not ask again.
 */
shm_inline void *map_prog_lookup(struct map *map, struct shm_client *me, const void *key)
{
	uint8_t *value;
	uint32_t index;

	memcpy(&index, key, sizeof(index));
	if (shm_likely(index < map->flat_entries))
		value = map->values + (uint64_t)index * map->value_stride;
	else if (index < map->percpu_entries && me->cpu < map->ncpu)
		value = map->values + me->cpu * map->cpu_bytes + (uint64_t)index * map->value_stride;
	else
		return map->ops->lookup(map, me, key);
	if (!value)
		__builtin_unreachable();
	return value;
}

#endif
