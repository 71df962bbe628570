/*
 * map.c - the generic map: planning, making and opening of segments, and the bpf(2) side of every operation with Linux's checks in Linux's order.
 */
#include "rows.h"

#include <pthread.h>
#include <stdio.h>

#define MAP_TYPES 64
/* More than any machine here can map; keeps every sum of sizes far from 2^64. */
#define MAP_MAX_BYTES (1ull << 46)

#define MAP(NAME, number, ops, caps) extern const struct map_ops ops##_map_ops;
#define MAP_KNOWN(NAME, number)
#include "shmbpf/maps.def"
#undef MAP
#undef MAP_KNOWN

static const struct {
	const char *name;
	const struct map_ops *ops;
} rows[MAP_TYPES] = {
#define MAP(NAME, number, row, caps) [number] = { #NAME, &row##_map_ops },
#define MAP_KNOWN(NAME, number) [number] = { #NAME, NULL },
#include "shmbpf/maps.def"
#undef MAP
#undef MAP_KNOWN
};

static char type_names[MAP_TYPES][32];
static pthread_once_t names_once = PTHREAD_ONCE_INIT;

/* bpftool's words are Linux's names in lower case. */
static void lower_names(void)
{
	for (uint32_t type = 0; type < MAP_TYPES; type++)
		for (uint32_t i = 0; rows[type].name && rows[type].name[i] && i < 31; i++) {
			char c = rows[type].name[i];

			type_names[type][i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
		}
}

const struct map_ops *map_ops_of(uint32_t type)
{
	return type < MAP_TYPES ? rows[type].ops : NULL;
}

const char *map_type_name(uint32_t type)
{
	if (type >= MAP_TYPES || !rows[type].name)
		return NULL;
	pthread_once(&names_once, lower_names);
	return type_names[type];
}

/* Linux v6.12 kernel/bpf/syscall.c, map_check_btf(): which maps may hold a bpf_spin_lock. */
static int check_spin_lock(const struct map_attr *attr, const struct map_ops *ops)
{
	if (attr->spin_lock_off == MAP_NO_SPIN_LOCK)
		return 0;
	if (attr->flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG))
		return -EACCES;
	if (!(ops->caps & MAP_CAP_SPIN_LOCK))
		return -EOPNOTSUPP;
	if (attr->spin_lock_off % 4 || attr->value_size < 4 || attr->spin_lock_off > attr->value_size - 4)
		return -EINVAL;
	return 0;
}

/* Puts the areas behind each other: area 0 is all a program may write, so everything else starts on a page of its own. */
static int place_areas(const struct map_attr *attr, struct map_layout *out)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < MAP_AREAS; i++) {
		at = i == 1 ? map_round_page(at) : (at + 63) & ~63ull;
		out->off[i] = at;
		if (out->bytes[i] > MAP_MAX_BYTES || at + out->bytes[i] > MAP_MAX_BYTES)
			return -ENOMEM;
		at += out->bytes[i];
	}
	out->btf_off = map_round_page(at);
	out->ctl_off = map_round_page(out->btf_off + attr->btf_bytes);
	out->total = out->ctl_off + SHM_PAGE;
	return 0;
}

int map_plan(const struct map_attr *attr, struct map_layout *out)
{
	const struct map_ops *ops = map_ops_of(attr->type);
	int err;

	memset(out, 0, sizeof(*out));
	if (attr->map_extra || (attr->flags & BPF_F_RDONLY && attr->flags & BPF_F_WRONLY))
		return -EINVAL;
	if (!ops)
		return attr->type && map_type_name(attr->type) ? -EOPNOTSUPP : -EINVAL;
	if (attr->ncpu == 0 || attr->ncpu > SHM_MAX_CPUS)
		return -EINVAL;
	err = ops->alloc_check(attr);
	if (!err)
		err = check_spin_lock(attr, ops);
	if (!err)
		err = ops->layout(attr, out);
	return err ? err : place_areas(attr, out);
}

static int fill_handle(struct map *map, uint8_t *base, const struct map_attr *attr, uint32_t id)
{
	int err;

	memset(map, 0, sizeof(*map));
	err = map_plan(attr, &map->layout);
	if (err)
		return err;
	map->ops = map_ops_of(attr->type);
	map->base = map->values = base;
	map->bytes = map->layout.total;
	map->ctl = (struct shm_map *)(base + map->layout.ctl_off);
	map->values_bytes = map->layout.bytes[0];
	map->type = attr->type;
	map->id = id;
	map->key_size = attr->key_size;
	map->value_size = attr->value_size;
	map->max_entries = attr->max_entries;
	map->flags = attr->flags;
	map->ncpu = attr->ncpu;
	map->spin_lock_off = attr->spin_lock_off;
	map->fd = -1;
	map->wake_fd = -1;
	map->seed = map->ctl->seed;
	return map->ops->open(map);
}

/* Iteration order and collisions must not be foretold from outside, so the seed needs no better source than this. */
static uint32_t new_seed(const struct map_attr *attr, uint32_t id)
{
	uint64_t x = shm_clock_ns(1) ^ (uint64_t)id << 32 ^ (uint64_t)(uintptr_t)&x;

	if (attr->flags & BPF_F_ZERO_SEED)
		return 0;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	return (uint32_t)(x ^ x >> 31);
}

int map_format(uint8_t *base, const struct map_attr *attr, uint32_t id, const void *btf)
{
	struct map map;
	struct map_attr kept = *attr;
	struct map_layout layout;
	int err = map_plan(attr, &layout);

	if (err)
		return err;
	/* RDONLY and WRONLY are rights of the caller's handle, not of the map (Linux v6.12 kernel/bpf/syscall.c, bpf_map_flags_retain_permanent()) */
	kept.flags &= ~(uint32_t)(BPF_F_RDONLY | BPF_F_WRONLY);
	kept.name[SHM_NAME_BYTES - 1] = 0;
	((struct shm_map *)(base + layout.ctl_off))->seed = new_seed(attr, id);
	err = fill_handle(&map, base, &kept, id);
	if (err)
		return err;
	map.ctl->attr = kept;
	if (btf)
		memcpy(base + layout.btf_off, btf, attr->btf_bytes);
	map.ops->init(&map);
	map.ctl->head.bytes = layout.total;
	map.ctl->head.kind = SHM_KIND_MAP;
	map.ctl->head.type = attr->type;
	map.ctl->head.id = id;
	map.ctl->head.ncpu = attr->ncpu;
	memcpy(map.ctl->head.name, kept.name, SHM_NAME_BYTES);
	shm_publish(&map.ctl->head);
	map_detach(&map);
	return 0;
}

int map_attach(struct map *map, uint8_t *base, uint64_t bytes)
{
	struct shm_head head;
	struct map_attr attr;
	int err = shm_check_head(base, bytes, SHM_KIND_MAP, &head);

	if (err)
		return err;
	/* one private copy: whoever scribbles over the segment later changes no size that is relied on */
	memcpy(&attr, &((struct shm_map *)(base + bytes - SHM_PAGE))->attr, sizeof(attr));
	if (attr.type != head.type || attr.ncpu != head.ncpu)
		return -EINVAL;
	{
		struct map_layout layout;

		err = map_plan(&attr, &layout);
		if (err || layout.total != bytes)
			return -EINVAL;
	}
	return fill_handle(map, base, &attr, head.id);
}

void map_detach(struct map *map)
{
	if (map->ops && map->ops->close)
		map->ops->close(map);
	map->ops = NULL;
}

uint64_t map_value_bytes(const struct map *map)
{
	return map->ops->caps & MAP_CAP_PERCPU ? map_round8(map->value_size) * map->ncpu : map->value_size;
}

static int lock_flag_misused(const struct map *map, uint64_t flags)
{
	return flags & BPF_F_LOCK && !map_has_spin_lock(map);
}

static int frozen(const struct map *map)
{
	return shm_load_acquire(&map->ctl->frozen) != 0;
}

/* Linux v6.12 kernel/bpf/syscall.c, map_lookup_elem(). */
int map_lookup_elem(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	if (flags & ~(uint64_t)BPF_F_LOCK || lock_flag_misused(map, flags))
		return -EINVAL;
	return map->ops->copy(map, me, key, value, flags);
}

/* Linux v6.12 kernel/bpf/syscall.c, map_update_elem(). */
int map_update_elem(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	if (frozen(map))
		return -EPERM;
	if (lock_flag_misused(map, flags))
		return -EINVAL;
	return map->ops->store(map, me, key, value, flags);
}

int map_delete_elem(struct map *map, struct shm_client *me, const void *key)
{
	return frozen(map) ? -EPERM : map->ops->remove(map, me, key);
}

int map_get_next_key(struct map *map, struct shm_client *me, const void *key, void *next)
{
	return map->ops->next_key(map, me, key, next);
}

/* Linux v6.12 kernel/bpf/syscall.c, map_lookup_and_delete_elem(). */
int map_lookup_and_delete_elem(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	if (flags & ~(uint64_t)BPF_F_LOCK)
		return -EINVAL;
	if (frozen(map))
		return -EPERM;
	if (lock_flag_misused(map, flags))
		return -EINVAL;
	return map->ops->take(map, me, key, value, flags);
}

/* Linux v6.12 kernel/bpf/syscall.c, map_freeze(). */
int map_freeze(struct map *map, struct shm_client *me)
{
	(void)me;
	if (map_has_spin_lock(map))
		return -MAP_ENOTSUPP;
	return shm_cas(&map->ctl->frozen, 0, 1) ? 0 : -EPERM;
}

static int check_batch(const struct map *map, uint64_t elem_flags)
{
	if (!map->ops->batch)
		return -MAP_ENOTSUPP;
	return elem_flags & ~(uint64_t)BPF_F_LOCK || lock_flag_misused(map, elem_flags) ? -EINVAL : 0;
}

/* Linux v6.12 kernel/bpf/syscall.c, bpf_map_do_batch() and generic_map_lookup_batch(); kernel/bpf/hashtab.c, __htab_map_lookup_and_delete_batch(). */
int map_lookup_batch(struct map *map, struct shm_client *me, uint32_t start, uint64_t *position, void *keys, void *values, uint32_t *count, uint64_t elem_flags, uint32_t and_delete)
{
	int err;

	if (and_delete && frozen(map))
		return -EPERM;
	if (and_delete && !(map->ops->caps & MAP_CAP_BATCH_DELETE))
		return -MAP_ENOTSUPP;
	err = check_batch(map, elem_flags);
	if (err || *count == 0)
		return err;
	return map->ops->batch(map, me, start, position, keys, values, count, elem_flags, and_delete);
}

/* Linux v6.12 kernel/bpf/syscall.c, generic_map_update_batch(): stops at the first failure. */
int map_update_batch(struct map *map, struct shm_client *me, const void *keys, const void *values, uint32_t *count, uint64_t elem_flags)
{
	uint64_t bytes = map_value_bytes(map);
	uint32_t done = 0, wanted = *count;
	int err = frozen(map) ? -EPERM : check_batch(map, elem_flags);

	if (err)
		return err;
	for (; done < wanted && !err; done += !err)
		err = map->ops->store(map, me, (const uint8_t *)keys + done * (uint64_t)map->key_size, (const uint8_t *)values + done * bytes, elem_flags);
	*count = done;
	return err;
}

/* Linux v6.12 kernel/bpf/syscall.c, generic_map_delete_batch(). */
int map_delete_batch(struct map *map, struct shm_client *me, const void *keys, uint32_t *count)
{
	uint32_t done = 0, wanted = *count;
	int err = frozen(map) ? -EPERM : 0;

	if (!err && !(map->ops->caps & MAP_CAP_BATCH_DELETE))
		err = -MAP_ENOTSUPP;
	if (err)
		return err;
	for (; done < wanted && !err; done += !err)
		err = map->ops->remove(map, me, (const uint8_t *)keys + done * (uint64_t)map->key_size);
	*count = done;
	return err;
}

int map_add_value(struct map *map, struct shm_client *me, const void *key, uint32_t cpu, uint32_t offset, uint32_t width, uint64_t delta, uint64_t *result)
{
	if (!map->ops->add)
		return -MAP_ENOTSUPP;
	if ((width != 1 && width != 2 && width != 4 && width != 8) || offset % width || offset > map->value_size || width > map->value_size - offset)
		return -EINVAL;
	if (map->ops->caps & MAP_CAP_PERCPU && cpu >= map->ncpu)
		return -EINVAL;
	if (frozen(map))
		return -EPERM;
	return map->ops->add(map, me, key, cpu, offset, width, delta, result);
}

int map_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	if (why_bytes)
		why[0] = 0;
	return map->ops->check(map, me, why, why_bytes);
}

int map_recover(struct map *map, struct shm_client *me)
{
	return me->owner ? map->ops->recover(map, me) : -ECHILD;
}
