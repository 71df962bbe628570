/*
 * percpu_htab.c - BPF_MAP_TYPE_PERCPU_HASH: one key, one value for each possible CPU.
 *
 * Area 0 is one block of values for each CPU, page-aligned; keys have an area of their own (4), since no CPU's block is theirs. Existing elements are updated
 * in place, under the bucket's lock (Linux v6.12 kernel/bpf/hashtab.c, __htab_percpu_map_update_elem()): a death in the middle leaves some CPUs' values new.
 */
#include "htab_core.h"

static int percpu_hash_layout(const struct map_attr *attr, struct map_layout *out)
{
	uint64_t elems = htab_elems(attr);

	out->bytes[0] = map_round_page(elems * map_round8(attr->value_size)) * attr->ncpu;
	out->bytes[4] = elems * map_round8(attr->key_size);
	return htab_layout_links(attr, out);
}

static int percpu_hash_open(struct map *map)
{
	map->value_stride = (uint32_t)map_round8(map->value_size);
	map->key_stride = (uint32_t)map_round8(map->key_size);
	map->cpu_bytes = map->layout.bytes[0] / map->ncpu;
	map->keys = map->base + map->layout.off[4];
	htab_open_links(map);
	return 0;
}

static void *percpu_hash_lookup_cpu(struct map *map, struct shm_client *me, const void *key, uint32_t cpu)
{
	uint32_t elem;

	if (shm_unlikely(cpu >= map->ncpu))
		return NULL;
	if (map->key_size == 4)
		elem = htab_find(map, me, key, shm_hash4(key, map->seed), 4);
	else
		elem = htab_find(map, me, key, shm_hash(key, map->key_size, map->seed), map->key_size);
	return elem == SHM_NO_ELEM ? NULL : htab_value(map, elem) + cpu * map->cpu_bytes;
}

static void *percpu_hash_lookup(struct map *map, struct shm_client *me, const void *key)
{
	return percpu_hash_lookup_cpu(map, me, key, me->cpu);
}

/* The values of an element: all CPUs' from bpf(2), the running CPU's from a program. */
static void write_values(const struct map *map, const struct shm_client *me, uint32_t elem, const void *value, int all)
{
	uint64_t off = (uint64_t)elem * map->value_stride;

	if (all)
		map_percpu_write(map, off, value);
	else
		shm_copy_in(map->values + me->cpu * map->cpu_bytes + off, value, map->value_size);
}

/* Linux v6.12 kernel/bpf/hashtab.c, pcpu_init_value(): a program's new element is zero on the other CPUs. */
static int insert(const struct map *map, struct shm_client *me, const void *key, const void *value, uint32_t hash, int all)
{
	struct shm_pool pool = htab_pool(map);
	uint32_t elem = shm_pool_take(&pool, me);

	if (elem == SHM_NO_ELEM)
		return -ENOSPC;
	SHM_POINT(htab_insert_taken);
	htab_begin_fill(map, elem, key, hash, map->key_size);
	for (uint32_t cpu = 0; cpu < map->ncpu && !all; cpu++)
		shm_zero(htab_value(map, elem) + cpu * map->cpu_bytes, map->value_stride);
	write_values(map, me, elem, value, all);
	SHM_POINT(htab_insert_written);
	htab_chain_in(map, hash & map->mask, elem);
	return 0;
}

static int update_once(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags, uint32_t hash, int all)
{
	uint32_t b = hash & map->mask, prev, old;
	int err = htab_lock(map, me, b);

	if (err)
		return err;
	SHM_POINT(htab_insert_locked);
	old = htab_find_locked(map, key, hash, map->key_size, &prev);
	err = htab_check_flags(old, flags);
	if (!err && old != SHM_NO_ELEM)
		write_values(map, me, old, value, all);
	else if (!err)
		err = insert(map, me, key, value, hash, all);
	htab_unlock(map, me, b);
	return err;
}

static int update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags, int all)
{
	uint32_t hash = shm_hash(key, map->key_size, map->seed);
	int err;

	if (flags > BPF_EXIST)
		return -EINVAL;
	err = update_once(map, me, key, value, flags, hash, all);
	/* what the dead hold is swept before the map is called full */
	for (int round = 0; round < 4 && err == -ENOSPC && htab_sweep(map, me); round++)
		err = update_once(map, me, key, value, flags, hash, all);
	return err == -ENOSPC ? -E2BIG : err;
}

static int percpu_hash_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	return me->cpu < map->ncpu ? update(map, me, key, value, flags, 0) : -ENODEV;
}

static int percpu_hash_store(struct map *map, struct shm_client *me, const void *key, const void *values, uint64_t flags)
{
	return update(map, me, key, values, flags, 1);
}

const struct map_ops percpu_htab_map_ops = {
	.name = "percpu_hash",
	.type = BPF_MAP_TYPE_PERCPU_HASH,
	.caps = MAP_CAPS_PERCPU_HASH,
	.alloc_check = htab_alloc_check,
	.layout = percpu_hash_layout,
	.init = htab_init,
	.open = percpu_hash_open,
	.lookup = percpu_hash_lookup,
	.lookup_cpu = percpu_hash_lookup_cpu,
	.update = percpu_hash_update,
	.remove = htab_delete,
	.copy = htab_copy,
	.store = percpu_hash_store,
	.take = htab_take,
	.next_key = htab_next_key,
	.batch = htab_batch,
	.add = htab_add,
	.each = htab_each,
	.check = htab_check,
	.recover = htab_recover,
};
