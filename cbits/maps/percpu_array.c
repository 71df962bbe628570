/*
 * percpu_array.c - BPF_MAP_TYPE_PERCPU_ARRAY: one array for each possible CPU, each in its own pages, so CPUs share no cache line.
 *
 * A program reaches its own CPU's array only; bpf(2) reads and writes all of them. Only the holder of CPU n's lease writes block n from programs, with plain
 * stores, so a copy made meanwhile may mix two of its values, as on Linux.
 */
#include "rows.h"

#define PCPU_MIN_UNIT_BYTES 32768u

/* Linux v6.12 kernel/bpf/arraymap.c, array_map_alloc_check(). */
static int percpu_array_alloc_check(const struct map_attr *attr)
{
	int err = array_alloc_check(attr);

	if (err)
		return err;
	return map_round8(attr->value_size) > PCPU_MIN_UNIT_BYTES ? -E2BIG : 0;
}

static int percpu_array_layout(const struct map_attr *attr, struct map_layout *out)
{
	uint64_t block = map_round_page(map_round8(attr->value_size) * attr->max_entries);

	return __builtin_mul_overflow(block, (uint64_t)attr->ncpu, &out->bytes[0]) ? -ENOMEM : 0;
}

static int percpu_array_open(struct map *map)
{
	map->value_stride = (uint32_t)map_round8(map->value_size);
	map->cpu_bytes = map->layout.bytes[0] / map->ncpu;
	map->percpu_entries = map->max_entries;
	return 0;
}

static void percpu_array_init(struct map *map)
{
	(void)map;
}

static void *percpu_array_lookup_cpu(struct map *map, struct shm_client *me, const void *key, uint32_t cpu)
{
	uint32_t index = array_index(key);

	(void)me;
	if (shm_unlikely(index >= map->max_entries || cpu >= map->ncpu))
		return NULL;
	return map->values + cpu * map->cpu_bytes + (uint64_t)index * map->value_stride;
}

static void *percpu_array_lookup(struct map *map, struct shm_client *me, const void *key)
{
	return percpu_array_lookup_cpu(map, me, key, me->cpu);
}

/* Linux v6.12 kernel/bpf/arraymap.c, bpf_percpu_array_update(). */
static int check_update(const struct map *map, uint32_t index, uint64_t flags)
{
	if (flags > BPF_EXIST)
		return -EINVAL;
	if (index >= map->max_entries)
		return -E2BIG;
	return flags == BPF_NOEXIST ? -EEXIST : 0;
}

static int percpu_array_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	int err = check_update(map, array_index(key), flags);
	uint8_t *to;

	if (err)
		return err;
	to = percpu_array_lookup(map, me, key);
	if (!to)
		return -ENODEV;
	shm_copy_in(to, value, map->value_size);
	return 0;
}

static int percpu_array_store(struct map *map, struct shm_client *me, const void *key, const void *values, uint64_t flags)
{
	uint32_t index = array_index(key);
	int err = check_update(map, index, flags);

	(void)me;
	if (!err)
		map_percpu_write(map, (uint64_t)index * map->value_stride, values);
	return err;
}

static int percpu_array_copy(struct map *map, struct shm_client *me, const void *key, void *values, uint64_t flags)
{
	uint32_t index = array_index(key);

	(void)me, (void)flags;
	if (index >= map->max_entries)
		return -ENOENT;
	map_percpu_read(map, (uint64_t)index * map->value_stride, values);
	return 0;
}

static int percpu_array_add(struct map *map, struct shm_client *me, const void *key, uint32_t cpu, uint32_t offset, uint32_t width, uint64_t delta, uint64_t *result)
{
	uint8_t *value = percpu_array_lookup_cpu(map, me, key, cpu);

	if (!value)
		return -ENOENT;
	*result = map_value_add(value + offset, width, delta);
	return 0;
}

static int percpu_array_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	(void)map, (void)me, (void)why, (void)why_bytes;
	return 0;
}

static int percpu_array_recover(struct map *map, struct shm_client *me)
{
	(void)map, (void)me;
	return 0;
}

const struct map_ops percpu_array_map_ops = {
	.name = "percpu_array",
	.type = BPF_MAP_TYPE_PERCPU_ARRAY,
	.caps = MAP_CAPS_PERCPU_ARRAY,
	.alloc_check = percpu_array_alloc_check,
	.layout = percpu_array_layout,
	.init = percpu_array_init,
	.open = percpu_array_open,
	.lookup = percpu_array_lookup,
	.lookup_cpu = percpu_array_lookup_cpu,
	.update = percpu_array_update,
	.remove = array_no_delete,
	.copy = percpu_array_copy,
	.store = percpu_array_store,
	.take = array_no_take,
	.next_key = array_next_key,
	.batch = array_batch,
	.add = percpu_array_add,
	.check = percpu_array_check,
	.recover = percpu_array_recover,
};
