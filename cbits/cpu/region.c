/*
 * region.c - the memory a program may touch.
 *
 * Regions never overlap. A region is described by how many offsets have room for a load or store of each size, so that the interpreter decides with one
 * comparison; what needs more (elements with padding, spin locks, context fields) is in vm_region_fits(). Map regions lie at VM_REGION_MAP + map->region
 * and are shared by all programs of the CPU; cpu->map_regions says which of them the running program refers to.
 */
#include <errno.h>
#include <string.h>

#include "cpu/region.h"
#include "cpu/span.h"

enum { LOGS = 4 };

void vm_region_span(struct vm_region *region, uint64_t base, uint64_t bytes, uint32_t readable, uint32_t writable)
{
	region->base = base;
	region->bytes = bytes;
	for (uint32_t lg = 0; lg < LOGS; lg++) {
		uint64_t room = bytes >> lg ? bytes - (1u << lg) + 1 : 0;

		region->room[lg] = readable ? room : 0;
		region->room[LOGS + lg] = writable ? room : 0;
	}
}

void vm_stack_frame(struct vm_cpu *cpu, uint32_t frame)
{
	uint64_t top = (uint64_t)(uintptr_t)cpu->stack + VM_MAX_FRAMES * VM_STACK_BYTES;
	uint64_t bytes = (uint64_t)(frame + 1) * VM_STACK_BYTES;

	vm_region_span(&cpu->region[VM_REGION_STACK], top - bytes, bytes, 1, 1);
}

/* Offset in its element. The reciprocal is exact while off * stride < 2^64; larger maps divide. */
static uint64_t offset_in_element(const struct vm_region *region, uint64_t off)
{
	uint64_t quotient;

	if (off >> 40 || region->stride >> 23 || !region->reciprocal)
		return off % region->stride;
	quotient = (uint64_t)(((unsigned __int128)off * region->reciprocal) >> 64);
	return off - quotient * region->stride;
}

static int fits_element(const struct vm_region *region, uint64_t at, uint64_t size)
{
	uint64_t lock = region->spin_lock_off;

	if (at > region->elem || size > region->elem - at)
		return 0;
	return lock == MAP_NO_SPIN_LOCK || at + size <= lock || at >= lock + sizeof(struct bpf_spin_lock);
}

int vm_region_fits(const struct vm_region *region, uint64_t off, uint32_t lg, uint32_t write)
{
	if (region->allowed)
		return region->allowed[off] >> (write * LOGS + lg) & 1;
	if (!region->stride)
		return 1;
	return fits_element(region, offset_in_element(region, off), 1u << lg);
}

/* Any size, for helper arguments. A context is never a helper's buffer (Linux v6.12 kernel/bpf/verifier.c, check_helper_mem_access()). */
static int spans(const struct vm_region *region, uint64_t addr, uint64_t size, uint32_t write)
{
	uint64_t off = addr - region->base;

	if (region->allowed || !region->room[write * LOGS] || off >= region->bytes || size > region->bytes - off)
		return 0;
	return !region->stride || fits_element(region, offset_in_element(region, off), size);
}

/* The key a callback of for_each_map_elem is given: in the map, read-only, or in the CPU's scratch memory. */
static int spans_key(const struct vm_cpu *cpu, const struct map *map, uint64_t addr, uint64_t size)
{
	uint64_t off = addr - (uint64_t)(uintptr_t)map->keys, at;

	if (!cpu->in_callback || !map->keys || !map->key_stride)
		return 0;
	at = off % map->key_stride;
	return off / map->key_stride < map->elems && at < map->key_size && size <= map->key_size - at;
}

/* Another CPU's copy of a per-CPU value, as map_lookup_percpu_elem gives it. */
static int spans_other_cpu(const struct vm_region *region, uint64_t addr, uint64_t size, uint32_t write)
{
	const struct map *map = region->map;
	uint64_t off = addr - (uint64_t)(uintptr_t)map->values;

	if (!map->cpu_bytes || off >= map->cpu_bytes * map->ncpu)
		return 0;
	return spans(region, region->base + off % map->cpu_bytes, size, write);
}

static int spans_scratch(const struct vm_cpu *cpu, uint64_t addr, uint64_t size)
{
	uint64_t off = addr - (uint64_t)(uintptr_t)cpu->scratch;

	return cpu->in_callback && off < VM_SCRATCH_BYTES && size <= VM_SCRATCH_BYTES - off;
}

static const struct vm_region *reach_rarely(struct vm_cpu *cpu, uint64_t addr, uint64_t size, uint32_t write)
{
	static const struct vm_region elsewhere = { .kind = VM_REGION_MAP };

	if (spans_scratch(cpu, addr, size) || vm_span_reaches(cpu, addr, size, write))
		return &elsewhere;
	for (uint32_t i = 0; i < cpu->map_region_cnt; i++) {
		const struct vm_region *region = &cpu->region[cpu->map_regions[i]];

		if (cpu->other_cpus && spans_other_cpu(region, addr, size, write))
			return &elsewhere;
		if (!write && spans_key(cpu, region->map, addr, size))
			return &elsewhere;
	}
	return NULL;
}

const struct vm_region *vm_region_reach(struct vm_cpu *cpu, uint64_t addr, uint32_t lg, uint32_t write, uint32_t *hint)
{
	uint32_t index;

	for (index = 0; index < VM_REGION_MAP; index++)
		if (vm_region_hit(&cpu->region[index], addr, lg, write))
			goto found;
	for (uint32_t i = 0; i < cpu->map_region_cnt; i++) {
		index = cpu->map_regions[i];
		if (vm_region_hit(&cpu->region[index], addr, lg, write))
			goto found;
	}
	return reach_rarely(cpu, addr, 1u << lg, write);
found:
	*hint = index * sizeof(struct vm_region);
	return &cpu->region[index];
}

uint8_t *vm_memory(struct vm_cpu *cpu, uint64_t addr, uint64_t size, uint32_t write)
{
	write = !!write;
	for (uint32_t index = 0; index < VM_REGION_MAP; index++)
		if (spans(&cpu->region[index], addr, size, write))
			return (uint8_t *)(uintptr_t)addr;
	for (uint32_t i = 0; i < cpu->map_region_cnt; i++)
		if (spans(&cpu->region[cpu->map_regions[i]], addr, size, write))
			return (uint8_t *)(uintptr_t)addr;
	return reach_rarely(cpu, addr, size, write) ? (uint8_t *)(uintptr_t)addr : NULL;
}

/* Elements that fill their stride exactly need no look at aligned accesses; a lone element has no neighbours to run into. */
static uint16_t check_of(const struct vm_region *region, const struct map *map)
{
	if (region->spin_lock_off != MAP_NO_SPIN_LOCK)
		return VM_CHECK_FULL;
	if (region->bytes <= region->elem)
		return VM_CHECK_NONE;
	return map->value_stride == region->elem && region->elem % 8 == 0 ? VM_CHECK_ALIGNED : VM_CHECK_FULL;
}

int vm_region_add_map(struct vm_cpu *cpu, struct map *map)
{
	struct vm_region *region;
	uint64_t base = (uint64_t)(uintptr_t)map->values, bytes = map->values_bytes;

	if (map->region >= VM_MAX_MAPS)
		return -ENOSPC;
	region = &cpu->region[VM_REGION_MAP + map->region];
	if (region->map == map)
		return 0;
	memset(region, 0, sizeof(*region));
	if (map->cpu_bytes) {
		base += map->cpu_bytes * cpu->cpu;
		bytes = map->cpu_bytes;
	}
	if (!(map->ops->caps & MAP_CAP_VALUE_PTR) || (map->cpu_bytes && cpu->cpu >= map->ncpu))
		bytes = 0;
	else if (map->max_entries == 1 && (map->ops->caps & MAP_CAP_INDEXED))
		bytes = map->value_size;
	vm_region_span(region, base, bytes, !(map->flags & BPF_F_WRONLY_PROG), !(map->flags & BPF_F_RDONLY_PROG));
	region->map = map;
	region->kind = VM_REGION_MAP;
	region->stride = map->value_stride;
	region->elem = map->value_size;
	region->reciprocal = region->stride ? UINT64_MAX / region->stride + 1 : 0;
	region->spin_lock_off = map->spin_lock_off;
	region->check = check_of(region, map);
	if (cpu->region_cnt <= VM_REGION_MAP + map->region)
		cpu->region_cnt = VM_REGION_MAP + map->region + 1;
	return 0;
}
