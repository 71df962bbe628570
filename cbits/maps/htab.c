/*
 * htab.c - BPF_MAP_TYPE_HASH: program-side lookup and update. htab_core.h is the structure's description.
 *
 * Area 0 holds {value, key} side by side for each element, so a hit costs one cache line; programs are given the value's bytes only. An update never writes
 * into a reachable element (BPF_F_LOCK aside): it fills another one, puts it in front and takes the old one out, so readers see the old or the new value.
 */
#include "htab_core.h"

static int hash_layout(const struct map_attr *attr, struct map_layout *out)
{
	uint64_t stride = map_round8(attr->value_size) + map_round8(attr->key_size);

	out->bytes[0] = stride * htab_elems(attr);
	return htab_layout_links(attr, out);
}

static int hash_open(struct map *map)
{
	map->key_stride = map->value_stride = (uint32_t)(map_round8(map->value_size) + map_round8(map->key_size));
	map->keys = map->values + map_round8(map->value_size);
	htab_open_links(map);
	return 0;
}

shm_inline void *lookup(struct map *map, struct shm_client *me, const void *key, uint32_t hash, uint32_t bytes)
{
	uint32_t elem = htab_find(map, me, key, hash, bytes);

	return elem == SHM_NO_ELEM ? NULL : htab_value(map, elem);
}

static void *hash_lookup(struct map *map, struct shm_client *me, const void *key)
{
	if (map->key_size == 4)
		return lookup(map, me, key, shm_hash4(key, map->seed), 4);
	if (map->key_size == 8)
		return lookup(map, me, key, shm_hash8(key, map->seed), 8);
	if (map->key_size == 16)
		return lookup(map, me, key, shm_hash_words(key, 16, map->seed), 16);
	return lookup(map, me, key, shm_hash(key, map->key_size, map->seed), map->key_size);
}

shm_inline void fill(const struct map *map, uint32_t elem, const void *key, const void *value, uint32_t hash, uint32_t bytes)
{
	uint8_t *to = htab_value(map, elem);

	htab_begin_fill(map, elem, key, hash, bytes);
	if (shm_unlikely(map_has_spin_lock(map)))
		shm_store((uint32_t *)(to + map->spin_lock_off), 0);
	map_value_write(map, to, value);
	SHM_POINT(htab_insert_written);
}

/* The key is not there; the bucket's lock is ours. -ENOSPC: no free element anywhere. */
shm_inline int insert(const struct map *map, struct shm_client *me, const void *key, const void *value, uint32_t hash, uint32_t bytes)
{
	struct shm_pool pool = htab_pool(map);
	uint32_t elem = shm_pool_take(&pool, me);

	if (shm_unlikely(elem == SHM_NO_ELEM))
		return -ENOSPC;
	SHM_POINT(htab_insert_taken);
	fill(map, elem, key, value, hash, bytes);
	htab_chain_in(map, hash & map->mask, elem);
	return 0;
}

/*
 * Puts a filled spare in front and makes the old element the list's next spare; bucket's and list's locks are held throughout, so the number of free
 * elements never changes and a full map can be updated. -EAGAIN: the spare died with somebody.
 */
shm_inline int replace(const struct map *map, struct shm_client *me, const void *key, const void *value, uint32_t hash, uint32_t bytes, uint32_t prev, uint32_t old)
{
	struct shm_pool pool = htab_pool(map);
	uint32_t b = hash & map->mask, list = shm_pool_own_list(&pool, me), elem;
	int err = shm_pool_lock(&pool, me, list);

	if (shm_unlikely(err))
		return err;
	elem = shm_pool_spare_locked(&pool, me, list);
	if (shm_unlikely(elem == SHM_NO_ELEM)) {
		shm_pool_rebuild(&pool, list);
		elem = shm_pool_spare_locked(&pool, me, list);
	}
	if (shm_likely(elem != SHM_NO_ELEM)) {
		SHM_POINT(htab_replace_spare);
		fill(map, elem, key, value, hash, bytes);
		htab_chain_in(map, b, elem);
		SHM_POINT(htab_replace_linked);
		htab_chain_out(map, me, b, prev == SHM_NO_ELEM ? elem : prev, old);
		shm_pool_make_spare_locked(&pool, old, list);
	}
	shm_pool_unlock(&pool, me, list);
	return elem == SHM_NO_ELEM ? -EAGAIN : 0;
}

shm_inline int update_once(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags, uint32_t hash, uint32_t bytes)
{
	uint32_t b = hash & map->mask, prev, old;
	int err = htab_lock(map, me, b);

	if (shm_unlikely(err))
		return err;
	SHM_POINT(htab_insert_locked);
	old = htab_find_locked(map, key, hash, bytes, &prev);
	err = htab_check_flags(old, flags);
	if (shm_unlikely(err))
		;
	else if (old == SHM_NO_ELEM)
		err = insert(map, me, key, value, hash, bytes);
	else if (shm_unlikely(flags & BPF_F_LOCK))
		err = map_value_write_locked(map, me, htab_value(map, old), value);
	else
		err = replace(map, me, key, value, hash, bytes, prev, old);
	htab_unlock(map, me, b);
	return err;
}

/* The pool has nothing left: what the dead hold is swept before the map is called full. */
static __attribute__((noinline)) int update_full(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags, uint32_t hash, int err)
{
	for (int round = 0; round < 4 && (err == -ENOSPC || err == -EAGAIN); round++) {
		uint32_t swept = htab_sweep(map, me);

		if (!swept && err == -ENOSPC)
			return -E2BIG;
		err = update_once(map, me, key, value, flags, hash, map->key_size);
	}
	return err == -ENOSPC ? -E2BIG : err == -EAGAIN ? -EBUSY : err;
}

shm_inline int update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags, uint32_t hash, uint32_t bytes)
{
	int err = update_once(map, me, key, value, flags, hash, bytes);

	return shm_likely(err != -ENOSPC && err != -EAGAIN) ? err : update_full(map, me, key, value, flags, hash, err);
}

/* Linux v6.12 kernel/bpf/hashtab.c, htab_map_update_elem(). */
static int hash_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	if (shm_unlikely(map_bad_update_flags(flags) || (flags & BPF_F_LOCK && !map_has_spin_lock(map))))
		return -EINVAL;
	if (map->key_size == 4)
		return update(map, me, key, value, flags, shm_hash4(key, map->seed), 4);
	if (map->key_size == 8)
		return update(map, me, key, value, flags, shm_hash8(key, map->seed), 8);
	return update(map, me, key, value, flags, shm_hash(key, map->key_size, map->seed), map->key_size);
}

const struct map_ops htab_map_ops = {
	.name = "hash",
	.type = BPF_MAP_TYPE_HASH,
	.caps = MAP_CAPS_HASH,
	.alloc_check = htab_alloc_check,
	.layout = hash_layout,
	.init = htab_init,
	.open = hash_open,
	.lookup = hash_lookup,
	.update = hash_update,
	.remove = htab_delete,
	.copy = htab_copy,
	.store = hash_update,
	.take = htab_take,
	.next_key = htab_next_key,
	.batch = htab_batch,
	.add = htab_add,
	.each = htab_each,
	.check = htab_check,
	.recover = htab_recover,
};
