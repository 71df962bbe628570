/*
 * rows.h - what maps.def says about a type, as constants, for the type's own map_ops row.
 */
#ifndef SHMBPF_MAPS_ROWS_H
#define SHMBPF_MAPS_ROWS_H

#include "../shm/atomic.h"
#include "../shm/lock.h"
#include "../shm/point.h"
#include "shmbpf/bpf.h"
#include "shmbpf/map.h"

#include <errno.h>

enum map_row_caps {
#define MAP(NAME, number, ops, caps) MAP_CAPS_##NAME = caps,
#define MAP_KNOWN(NAME, number)
#include "shmbpf/maps.def"
#undef MAP
#undef MAP_KNOWN
};

/* The kernel-internal ENOTSUPP, which bpf(2) lets out to user space. */
#define MAP_ENOTSUPP 524

/* Flags every type takes: Linux's BPF_F_NUMA_NODE and BPF_F_ACCESS_MASK. */
#define MAP_F_ACCESS (BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)

shm_inline uint64_t map_round8(uint64_t n)
{
	return (n + 7) & ~7ull;
}

shm_inline uint64_t map_round_page(uint64_t n)
{
	return (n + SHM_PAGE - 1) & ~(uint64_t)(SHM_PAGE - 1);
}

/* Flags of an update, F_LOCK aside, as array and hash check them first (Linux v6.12 kernel/bpf/hashtab.c, htab_map_update_elem()). */
shm_inline int map_bad_update_flags(uint64_t flags)
{
	return (flags & ~(uint64_t)BPF_F_LOCK) > BPF_EXIST;
}

shm_inline int map_has_spin_lock(const struct map *map)
{
	return map->spin_lock_off != MAP_NO_SPIN_LOCK;
}

/* value.c: whole values of a map, the bpf_spin_lock in them left out (it reads back as 0). `shared` is 8-byte aligned. */
void map_value_write(const struct map *map, uint8_t *shared, const void *value);
void map_value_read(const struct map *map, void *value, const uint8_t *shared);
/* The same under the value's own spin lock (BPF_F_LOCK): nobody else who uses the lock sees half a value. 0 or -EBUSY, -EDEADLK. */
int map_value_write_locked(struct map *map, struct shm_client *me, uint8_t *shared, const void *value);
int map_value_read_locked(struct map *map, struct shm_client *me, void *value, const uint8_t *shared);
/* Frees the value's spin lock when its holder is dead; 1 = done. */
int map_value_unlock_dead(struct map *map, struct shm_client *me, uint8_t *shared);
/* Atomic add at a naturally aligned shared address; the new value. */
uint64_t map_value_add(uint8_t *shared, uint32_t width, uint64_t delta);
/* One value of each CPU, from and to the buffer of bpf(2): round_up(value_size, 8) bytes a CPU, all of them kept. */
void map_percpu_write(const struct map *map, uint64_t elem_off, const void *values);
void map_percpu_read(const struct map *map, uint64_t elem_off, void *values);

/* array.c: what all types with u32 index keys share. */
int array_alloc_check(const struct map_attr *attr);
int array_next_key(struct map *map, struct shm_client *me, const void *key, void *next);
int array_no_delete(struct map *map, struct shm_client *me, const void *key);
int array_no_take(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
int array_batch(struct map *map, struct shm_client *me, uint32_t start, uint64_t *position, void *keys, void *values, uint32_t *count, uint64_t elem_flags, uint32_t and_delete);

/* UINT32_MAX or more: no such index. */
shm_inline uint32_t array_index(const void *key)
{
	uint32_t index;

	memcpy(&index, key, 4);
	return index;
}

#endif
