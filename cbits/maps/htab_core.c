/*
 * htab_core.c - everything of the hash table that bpf(2) does: layout, copies, deletion, walks, batches. Description in htab_core.h; repair in htab_repair.c.
 */
#include "htab_core.h"

#define HTAB_FLAGS (BPF_F_NO_PREALLOC | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE | BPF_F_ZERO_SEED | MAP_F_ACCESS)
#define KMALLOC_MAX_BYTES (4u << 20)      /* x86-64, 4 KiB pages */
#define KERNEL_ELEM_BYTES 48u             /* sizeof(struct htab_elem) */
#define KERNEL_MAX_BUCKETS (1u << 27)     /* largest power of two of 16-byte buckets below 4 GiB */
#define PCPU_MIN_UNIT_BYTES 32768u

/* Linux v6.12 kernel/bpf/hashtab.c, htab_map_alloc_check() and the limits of htab_map_alloc(). */
int htab_alloc_check(const struct map_attr *attr)
{
	int percpu = attr->type == BPF_MAP_TYPE_PERCPU_HASH;

	if (attr->flags & ~HTAB_FLAGS || (attr->flags & BPF_F_RDONLY_PROG && attr->flags & BPF_F_WRONLY_PROG))
		return -EINVAL;
	if (attr->flags & BPF_F_NO_COMMON_LRU || (percpu && attr->flags & BPF_F_NUMA_NODE))
		return -EINVAL;
	if (attr->max_entries == 0 || attr->key_size == 0 || attr->value_size == 0)
		return -EINVAL;
	if ((uint64_t)attr->key_size + attr->value_size >= KMALLOC_MAX_BYTES - KERNEL_ELEM_BYTES)
		return -E2BIG;
	if (percpu && map_round8(attr->value_size) > PCPU_MIN_UNIT_BYTES)
		return -E2BIG;
	return attr->max_entries > KERNEL_MAX_BUCKETS ? -E2BIG : 0;
}

uint32_t htab_elems(const struct map_attr *attr)
{
	return attr->max_entries + attr->ncpu + 1;
}

/* Twice as many as Linux has: half as many second steps, for 8 bytes. */
static uint64_t bucket_cnt(uint32_t max_entries)
{
	uint64_t n = 1;

	while (n < max_entries)
		n <<= 1;
	return n * 2;
}

int htab_layout_links(const struct map_attr *attr, struct map_layout *out)
{
	out->bytes[1] = (uint64_t)htab_elems(attr) * sizeof(struct shm_link);
	out->bytes[2] = bucket_cnt(attr->max_entries) * sizeof(struct shm_bucket);
	out->bytes[3] = (attr->ncpu + 1ull) * sizeof(struct shm_freelist);
	return 0;
}

void htab_open_links(struct map *map)
{
	map->mask = (uint32_t)(bucket_cnt(map->max_entries) - 1);
	map->elems = map->max_entries + map->ncpu + 1;
	map->links = map->base + map->layout.off[1];
	map->buckets = map->base + map->layout.off[2];
	map->lists = map->base + map->layout.off[3];
}

void htab_init(struct map *map)
{
	struct shm_pool pool = htab_pool(map);

	for (uint32_t b = 0; b <= map->mask; b++)
		htab_bucket(map, b)->head = HTAB_END | b;
	for (uint32_t elem = 0; elem < map->elems; elem++)
		htab_link(map, elem)->next = HTAB_END;
	shm_pool_init(&pool);
}

static uint32_t hash_of(const struct map *map, const void *key)
{
	return shm_hash(key, map->key_size, map->seed);
}

/* One lock-free walk with room for failure, as htab_find, but saying so: 0 done, -EAGAIN not to be trusted. */
static int try_find(const struct map *map, const void *key, uint32_t b, uint32_t *found)
{
	uint32_t steps = 0, first = shm_load_acquire(&htab_bucket(map, b)->head), elem = first;
	uint32_t seq = first < map->elems ? shm_load_acquire(&htab_link(map, first)->seq) : 0;

	while (elem < map->elems && steps++ < map->elems) {
		if (htab_matches(map, elem, key, map->key_size)) {
			*found = elem;
			return 0;
		}
		elem = shm_load_acquire(&htab_link(map, elem)->next);
	}
	*found = SHM_NO_ELEM;
	if (elem != (HTAB_END | b) || seq & 1 || shm_load_acquire(&htab_bucket(map, b)->head) != first)
		return -EAGAIN;
	return first < map->elems && shm_load(&htab_link(map, first)->seq) != seq ? -EAGAIN : 0;
}

uint32_t htab_find_again(struct map *map, struct shm_client *me, const void *key, uint32_t hash)
{
	uint32_t b = hash & map->mask, elem, prev;

	for (int i = 0; i < HTAB_TRIES; i++)
		if (try_find(map, key, b, &elem) == 0)
			return elem;
	if (htab_lock(map, me, b) != 0)
		return SHM_NO_ELEM;
	elem = htab_find_locked(map, key, hash, map->key_size, &prev);
	htab_unlock(map, me, b);
	return elem;
}

static void read_value(const struct map *map, uint32_t elem, void *value)
{
	if (map->cpu_bytes)
		map_percpu_read(map, (uint64_t)elem * map->value_stride, value);
	else
		map_value_read(map, value, htab_value(map, elem));
}

static int read_value_flags(struct map *map, struct shm_client *me, uint32_t elem, void *value, uint64_t flags)
{
	if (flags & BPF_F_LOCK)
		return map_value_read_locked(map, me, value, htab_value(map, elem));
	read_value(map, elem, value);
	return 0;
}

/* Copies the value if the element is and stays the key's; 1 = done. */
static int snapshot_value(const struct map *map, uint32_t elem, const void *key, void *value)
{
	const struct shm_link *link = htab_link(map, elem);
	uint32_t seq = shm_load_acquire(&link->seq);

	if (seq & 1 || shm_load_acquire(&link->state) != SHM_ELEM_LINKED || !htab_key_is(map, elem, key, map->key_size))
		return 0;
	read_value(map, elem, value);
	shm_fence_acquire();
	return shm_load(&link->seq) == seq;
}

static int copy_locked(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	uint32_t prev, elem, hash = hash_of(map, key), b = hash & map->mask;
	int err = htab_lock(map, me, b);

	if (err)
		return err;
	elem = htab_find_locked(map, key, hash, map->key_size, &prev);
	err = elem == SHM_NO_ELEM ? -ENOENT : read_value_flags(map, me, elem, value, flags);
	htab_unlock(map, me, b);
	return err;
}

int htab_copy(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	uint32_t hash = hash_of(map, key);

	for (int i = 0; i < HTAB_TRIES && !(flags & BPF_F_LOCK); i++) {
		uint32_t elem = htab_find(map, me, key, hash, map->key_size);

		if (elem == SHM_NO_ELEM)
			return -ENOENT;
		if (snapshot_value(map, elem, key, value))
			return 0;
	}
	return copy_locked(map, me, key, value, flags);
}

/* Removes the key; its value goes to `value` unless NULL. */
static int remove_key(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	struct shm_pool pool = htab_pool(map);
	uint32_t prev, elem, hash = hash_of(map, key), b = hash & map->mask;
	int err = htab_lock(map, me, b);

	if (shm_unlikely(err))
		return err;
	elem = htab_find_locked(map, key, hash, map->key_size, &prev);
	if (elem == SHM_NO_ELEM)
		err = -ENOENT;
	else if (value)
		err = read_value_flags(map, me, elem, value, flags);
	if (!err)
		htab_chain_out(map, me, b, prev, elem);
	htab_unlock(map, me, b);
	if (err)
		return err;
	SHM_POINT(htab_delete_unlocked);
	shm_pool_give(&pool, me, elem);
	return 0;
}

int htab_delete(struct map *map, struct shm_client *me, const void *key)
{
	return remove_key(map, me, key, NULL, 0);
}

int htab_take(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	return remove_key(map, me, key, value, flags);
}

int htab_add(struct map *map, struct shm_client *me, const void *key, uint32_t cpu, uint32_t offset, uint32_t width, uint64_t delta, uint64_t *result)
{
	uint32_t prev, elem, hash = hash_of(map, key), b = hash & map->mask;
	int err = htab_lock(map, me, b);

	if (err)
		return err;
	/* under the lock nobody replaces the element, so the sum is not lost with it */
	elem = htab_find_locked(map, key, hash, map->key_size, &prev);
	if (elem != SHM_NO_ELEM)
		*result = map_value_add(htab_value(map, elem) + (map->cpu_bytes ? cpu * map->cpu_bytes : 0) + offset, width, delta);
	htab_unlock(map, me, b);
	return elem == SHM_NO_ELEM ? -ENOENT : 0;
}

/* Copies the key of an element of bucket b if it is and stays one; 1 = done. */
static int snapshot_key(const struct map *map, uint32_t elem, uint32_t b, void *key)
{
	const struct shm_link *link = htab_link(map, elem);
	uint32_t seq = shm_load_acquire(&link->seq);

	if (seq & 1 || shm_load_acquire(&link->state) != SHM_ELEM_LINKED || (shm_load(&link->hash) & map->mask) != b)
		return 0;
	shm_copy_out(key, htab_key(map, elem), map->key_size);
	shm_fence_acquire();
	return shm_load(&link->seq) == seq;
}

/*
 * While a replacement is under way, or was when its writer died, the old element still follows the new one, which is the first. It must not be given out
 * again: a walk that asks for the key after it would find the new one and never end.
 */
static uint32_t skip_replaced(const struct map *map, uint32_t first, uint32_t elem)
{
	if (elem < map->elems && elem != first && htab_same_key(map, first, elem))
		return shm_load_acquire(&htab_link(map, elem)->next);
	return elem;
}

/* First key of bucket b, or the one after `key`. 0, -ENOENT (no more in b), -ESRCH (`key` is not there), -EAGAIN. */
static int next_in_bucket(const struct map *map, uint32_t b, const void *key, void *next)
{
	uint32_t steps = 0, first = shm_load_acquire(&htab_bucket(map, b)->head), elem = first;

	while (key) {
		if (elem >= map->elems)
			return elem == (HTAB_END | b) ? -ESRCH : -EAGAIN;
		if (steps++ >= map->elems)
			return -EAGAIN;
		if (htab_matches(map, elem, key, map->key_size))
			key = NULL;
		elem = shm_load_acquire(&htab_link(map, elem)->next);
	}
	elem = skip_replaced(map, first, elem);
	if (elem >= map->elems)
		return elem == (HTAB_END | b) ? -ENOENT : -EAGAIN;
	return snapshot_key(map, elem, b, next) ? 0 : -EAGAIN;
}

/* As next_in_bucket, but insists. */
static int next_in_bucket_surely(struct map *map, struct shm_client *me, uint32_t b, const void *key, void *next)
{
	int err = -EAGAIN;

	for (int i = 0; i < HTAB_TRIES && err == -EAGAIN; i++)
		err = next_in_bucket(map, b, key, next);
	if (err != -EAGAIN)
		return err;
	err = htab_lock(map, me, b);
	if (err)
		return err;
	err = next_in_bucket(map, b, key, next);
	htab_unlock(map, me, b);
	return err == -EAGAIN ? -ENOENT : err;
}

/* Linux v6.12 kernel/bpf/hashtab.c, htab_map_get_next_key(): bucket by bucket; a key that is gone restarts at the first. */
int htab_next_key(struct map *map, struct shm_client *me, const void *key, void *next)
{
	uint32_t b = 0;
	int err;

	if (key) {
		b = hash_of(map, key) & map->mask;
		err = next_in_bucket_surely(map, me, b, key, next);
		if (err != -ENOENT && err != -ESRCH)
			return err;
		b = err == -ESRCH ? 0 : b + 1;
	}
	for (; b <= map->mask; b++) {
		if (shm_load(&htab_bucket(map, b)->head) == (HTAB_END | b))
			continue;
		err = next_in_bucket_surely(map, me, b, NULL, next);
		if (err != -ENOENT)
			return err;
	}
	return -ENOENT;
}

static uint32_t chain_length(const struct map *map, uint32_t b)
{
	uint32_t n = 0, elem = shm_load(&htab_bucket(map, b)->head);

	for (; elem < map->elems && n < map->elems; n++)
		elem = shm_load(&htab_link(map, elem)->next);
	return n;
}

/* Copies (and removes) the first `n` elements of bucket b, whose lock is ours. */
static int batch_bucket(struct map *map, struct shm_client *me, uint32_t b, uint32_t n, uint8_t *keys, uint8_t *values, uint64_t elem_flags, uint32_t and_delete)
{
	struct shm_pool pool = htab_pool(map);
	uint64_t bytes = map_value_bytes(map);
	uint32_t elem = shm_load(&htab_bucket(map, b)->head);

	for (; n && elem < map->elems; n--, keys += map->key_size, values += bytes) {
		uint32_t next = shm_load(&htab_link(map, elem)->next);
		int err = read_value_flags(map, me, elem, values, elem_flags);

		if (err)
			return err;
		shm_copy_out(keys, htab_key(map, elem), map->key_size);
		if (and_delete) {
			htab_chain_out(map, me, b, SHM_NO_ELEM, elem);
			shm_pool_give(&pool, me, elem);
		}
		elem = next;
	}
	return 0;
}

/* Linux v6.12 kernel/bpf/hashtab.c, __htab_map_lookup_and_delete_batch(): whole buckets only; -ENOSPC: not even the first one fits. */
int htab_batch(struct map *map, struct shm_client *me, uint32_t start, uint64_t *position, void *keys, void *values, uint32_t *count, uint64_t elem_flags, uint32_t and_delete)
{
	uint32_t room = *count, done = 0, b = start ? 0 : (uint32_t)*position;
	uint64_t bytes = map_value_bytes(map);
	int err = 0;

	for (; b <= map->mask && !err; b++) {
		uint32_t n;

		if (shm_load(&htab_bucket(map, b)->head) == (HTAB_END | b))
			continue;
		err = htab_lock(map, me, b);
		if (err)
			break;
		n = chain_length(map, b);
		if (n > room - done)
			err = -ENOSPC;
		else
			err = batch_bucket(map, me, b, n, (uint8_t *)keys + done * (uint64_t)map->key_size, (uint8_t *)values + done * bytes, elem_flags, and_delete);
		htab_unlock(map, me, b);
		if (err)
			break;
		done += n;
	}
	*count = done;
	*position = b;
	if (err == -ENOSPC && done)
		return 0;
	return !err && b > map->mask ? -ENOENT : err;
}
