/*
 * map.c - the map helpers: the program side of struct map_ops, with the running CPU's client as the owner of any lock taken.
 */
#include "maps/lookup.h"
#include "helpers.h"

uint64_t bpf_map_lookup_elem(struct vm_cpu *cpu, uint64_t map_handle, uint64_t key, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct map *map = host(map_handle);

	return (uint64_t)(uintptr_t)map_prog_lookup(map, cpu->client, host(key));
}

uint64_t bpf_map_update_elem(struct vm_cpu *cpu, uint64_t map_handle, uint64_t key, uint64_t value, uint64_t flags, uint64_t r5)
{
	struct map *map = host(map_handle);

	return result(map->ops->update(map, cpu->client, host(key), host(value), flags));
}

uint64_t bpf_map_delete_elem(struct vm_cpu *cpu, uint64_t map_handle, uint64_t key, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct map *map = host(map_handle);

	return result(map->ops->remove(map, cpu->client, host(key)));
}

/* Linux v6.12 kernel/bpf/arraymap.c, percpu_array_map_lookup_percpu_elem(), and its twin in hashtab.c: NULL for a CPU that is not possible. */
uint64_t bpf_map_lookup_percpu_elem(struct vm_cpu *cpu, uint64_t map_handle, uint64_t key, uint64_t cpu_number, uint64_t r4, uint64_t r5)
{
	struct map *map = host(map_handle);
	uint32_t number = (uint32_t)cpu_number;

	if (number >= map->ncpu || !map->ops->lookup_cpu)
		return 0;
	return (uint64_t)(uintptr_t)map->ops->lookup_cpu(map, cpu->client, host(key), number);
}
