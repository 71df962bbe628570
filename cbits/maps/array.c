/*
 * array.c - BPF_MAP_TYPE_ARRAY: max_entries values side by side, each 8-byte aligned. Every index exists from the start and is updated in place.
 *
 * Nothing here can be left half-done but a value itself, so there is nothing to recover but spin locks in values. File offset 0 is index 0: what mmap of a
 * BPF_F_MMAPABLE array shows on Linux.
 */
#include "rows.h"

#include <limits.h>

#define ARRAY_FLAGS (BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_PRESERVE_ELEMS | BPF_F_INNER_MAP | MAP_F_ACCESS)

/* Linux v6.12 kernel/bpf/arraymap.c, array_map_alloc_check(). */
int array_alloc_check(const struct map_attr *attr)
{
	uint32_t percpu = attr->type == BPF_MAP_TYPE_PERCPU_ARRAY;

	if (attr->max_entries == 0 || attr->key_size != 4 || attr->value_size == 0 || attr->flags & ~ARRAY_FLAGS)
		return -EINVAL;
	if ((attr->flags & BPF_F_RDONLY_PROG && attr->flags & BPF_F_WRONLY_PROG) || (percpu && attr->flags & BPF_F_NUMA_NODE))
		return -EINVAL;
	if (attr->type != BPF_MAP_TYPE_ARRAY && attr->flags & (BPF_F_MMAPABLE | BPF_F_INNER_MAP))
		return -EINVAL;
	if (attr->flags & BPF_F_PRESERVE_ELEMS)
		return -EINVAL;
	if (attr->value_size > INT_MAX)
		return -E2BIG;
	return 0;
}

static int array_layout(const struct map_attr *attr, struct map_layout *out)
{
	return __builtin_mul_overflow(map_round8(attr->value_size), (uint64_t)attr->max_entries, &out->bytes[0]) ? -ENOMEM : 0;
}

static int array_open(struct map *map)
{
	map->value_stride = (uint32_t)map_round8(map->value_size);
	map->flat_entries = map->max_entries;
	return 0;
}

static void array_init(struct map *map)
{
	(void)map;
}

static uint8_t *array_value(const struct map *map, uint32_t index)
{
	return map->values + (uint64_t)index * map->value_stride;
}

static void *array_lookup(struct map *map, struct shm_client *me, const void *key)
{
	uint32_t index = array_index(key);

	(void)me;
	return shm_likely(index < map->max_entries) ? array_value(map, index) : NULL;
}

/* Linux v6.12 kernel/bpf/arraymap.c, array_map_update_elem(): an index is never new, so BPF_NOEXIST always fails. */
static int array_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	uint32_t index = array_index(key);

	if (map_bad_update_flags(flags))
		return -EINVAL;
	if (index >= map->max_entries)
		return -E2BIG;
	if (flags & BPF_NOEXIST)
		return -EEXIST;
	if (shm_unlikely(flags & BPF_F_LOCK)) {
		if (!map_has_spin_lock(map))
			return -EINVAL;
		return map_value_write_locked(map, me, array_value(map, index), value);
	}
	map_value_write(map, array_value(map, index), value);
	return 0;
}

int array_no_delete(struct map *map, struct shm_client *me, const void *key)
{
	(void)map, (void)me, (void)key;
	return -EINVAL;
}

int array_no_take(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	(void)map, (void)me, (void)key, (void)value, (void)flags;
	return -MAP_ENOTSUPP;
}

static int array_copy(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	uint32_t index = array_index(key);

	if (index >= map->max_entries)
		return -ENOENT;
	if (flags & BPF_F_LOCK)
		return map_value_read_locked(map, me, value, array_value(map, index));
	map_value_read(map, value, array_value(map, index));
	return 0;
}

/* Linux v6.12 kernel/bpf/arraymap.c, array_map_get_next_key(): an index out of range restarts at 0. */
int array_next_key(struct map *map, struct shm_client *me, const void *key, void *next)
{
	uint32_t index = key ? array_index(key) : UINT32_MAX;

	(void)me;
	if (index == map->max_entries - 1)
		return -ENOENT;
	index = index >= map->max_entries ? 0 : index + 1;
	memcpy(next, &index, 4);
	return 0;
}

/* Linux v6.12 kernel/bpf/syscall.c, generic_map_lookup_batch(): the position is the last key given out; -ENOENT says the end was reached. */
int array_batch(struct map *map, struct shm_client *me, uint32_t start, uint64_t *position, void *keys, void *values, uint32_t *count, uint64_t elem_flags, uint32_t and_delete)
{
	uint32_t last = (uint32_t)*position, room = *count, done = 0;
	uint64_t bytes = map_value_bytes(map);
	int err = 0;

	if (and_delete)
		return -MAP_ENOTSUPP;
	while (done < room) {
		uint32_t index;

		err = array_next_key(map, me, start ? NULL : &last, &index);
		if (!err)
			err = map->ops->copy(map, me, &index, (uint8_t *)values + done * bytes, elem_flags);
		if (err)
			break;
		memcpy((uint8_t *)keys + done * 4ull, &index, 4);
		last = index;
		start = 0;
		done++;
	}
	*count = done;
	*position = last;
	return err;
}

static int array_add(struct map *map, struct shm_client *me, const void *key, uint32_t cpu, uint32_t offset, uint32_t width, uint64_t delta, uint64_t *result)
{
	uint32_t index = array_index(key);

	(void)me, (void)cpu;
	if (index >= map->max_entries)
		return -ENOENT;
	*result = map_value_add(array_value(map, index) + offset, width, delta);
	return 0;
}

static int array_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	(void)map, (void)me, (void)why, (void)why_bytes;
	return 0;
}

static int array_recover(struct map *map, struct shm_client *me)
{
	int repairs = 0;

	if (!map_has_spin_lock(map))
		return 0;
	for (uint32_t index = 0; index < map->max_entries; index++)
		repairs += map_value_unlock_dead(map, me, array_value(map, index));
	return repairs;
}

const struct map_ops array_map_ops = {
	.name = "array",
	.type = BPF_MAP_TYPE_ARRAY,
	.caps = MAP_CAPS_ARRAY,
	.alloc_check = array_alloc_check,
	.layout = array_layout,
	.init = array_init,
	.open = array_open,
	.lookup = array_lookup,
	.update = array_update,
	.remove = array_no_delete,
	.copy = array_copy,
	.store = array_update,
	.take = array_no_take,
	.next_key = array_next_key,
	.batch = array_batch,
	.add = array_add,
	.check = array_check,
	.recover = array_recover,
};
