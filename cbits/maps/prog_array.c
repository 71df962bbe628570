/*
 * prog_array.c - BPF_MAP_TYPE_PROG_ARRAY: slots of program ids for tail calls.
 *
 * A slot is one u64, {id:32, stores so far:32}, replaced by a single atomic operation. Slots lie outside of what programs may touch (area 1; area 0 is
 * empty): a program only names an index. Ids are resolved by each process for itself; ids are never reused, so a stale one finds nothing, never another program.
 */
#include "rows.h"

/* Linux v6.12 kernel/bpf/arraymap.c, fd_array_map_alloc_check(). */
static int prog_array_alloc_check(const struct map_attr *attr)
{
	if (attr->value_size != 4 || attr->flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG))
		return -EINVAL;
	return array_alloc_check(attr);
}

static int prog_array_layout(const struct map_attr *attr, struct map_layout *out)
{
	out->bytes[1] = 8ull * attr->max_entries;
	return 0;
}

static int prog_array_open(struct map *map)
{
	map->links = map->base + map->layout.off[1];
	return 0;
}

static void prog_array_init(struct map *map)
{
	(void)map;
}

static uint64_t *slot_of(const struct map *map, uint32_t index)
{
	return (uint64_t *)map->links + index;
}

uint32_t prog_array_slot(struct map *map, uint32_t index)
{
	if (index >= map->max_entries || map->type != BPF_MAP_TYPE_PROG_ARRAY)
		return 0;
	return (uint32_t)shm_load_acquire(slot_of(map, index));
}

static void replace_slot(struct map *map, uint32_t index, uint32_t id)
{
	uint64_t *slot = slot_of(map, index), old = shm_load(slot), new;

	do
		new = ((old >> 32) + 1) << 32 | id;
	while (!__atomic_compare_exchange_n(slot, &old, new, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
}

/* Linux v6.12 kernel/bpf/arraymap.c, bpf_fd_array_map_update_elem(). */
static int check_store(const struct map *map, uint32_t index, uint32_t id, uint64_t flags)
{
	if (flags != BPF_ANY)
		return -EINVAL;
	if (index >= map->max_entries)
		return -E2BIG;
	return id ? 0 : -EINVAL;
}

/* Linux v6.12 kernel/bpf/core.c, __bpf_prog_map_compatible(): the first program that uses the array, or is put into it, decides which ones fit. */
int prog_array_own(struct map *map, uint32_t prog_type, uint32_t attach_type)
{
	uint64_t *owner = (uint64_t *)&map->ctl->owner_prog_type;
	uint64_t mine = (uint64_t)attach_type << 32 | (prog_type + 1), none = 0;

	_Static_assert(offsetof(struct shm_map, owner_prog_type) % 8 == 0, "owner type and attach type are set as one word");
	if (map->type != BPF_MAP_TYPE_PROG_ARRAY)
		return -EINVAL;
	if (!__atomic_compare_exchange_n(owner, &none, mine, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) && none != mine)
		return -EINVAL;
	return 0;
}

int prog_array_store(struct map *map, uint32_t index, uint32_t prog_id, uint32_t prog_type, uint32_t attach_type, uint64_t flags)
{
	int err = map->type == BPF_MAP_TYPE_PROG_ARRAY ? check_store(map, index, prog_id, flags) : -EINVAL;

	if (err)
		return err;
	if (shm_load(&map->ctl->frozen))
		return -EPERM;
	err = prog_array_own(map, prog_type, attach_type);
	if (err)
		return err;
	replace_slot(map, index, prog_id);
	return 0;
}

static int prog_array_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	uint32_t id, index = array_index(key);
	int err;

	(void)me;
	memcpy(&id, value, 4);
	err = check_store(map, index, id, flags);
	if (!err)
		replace_slot(map, index, id);
	return err;
}

/* Programs never get hold of a slot (Linux v6.12 kernel/bpf/verifier.c, check_map_func_compatibility()). */
static void *prog_array_lookup(struct map *map, struct shm_client *me, const void *key)
{
	(void)map, (void)me, (void)key;
	return NULL;
}

static int prog_array_no_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	(void)map, (void)me, (void)key, (void)value, (void)flags;
	return -EINVAL;
}

/* Linux v6.12 kernel/bpf/arraymap.c, fd_array_map_delete_elem(). */
static int prog_array_delete(struct map *map, struct shm_client *me, const void *key)
{
	uint32_t index = array_index(key);

	(void)me;
	if (index >= map->max_entries)
		return -E2BIG;
	if ((uint32_t)shm_load(slot_of(map, index)) == 0)
		return -ENOENT;
	replace_slot(map, index, 0);
	return 0;
}

static int prog_array_copy(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	uint32_t id = prog_array_slot(map, array_index(key));

	(void)me, (void)flags;
	if (!id)
		return -ENOENT;
	memcpy(value, &id, 4);
	return 0;
}

static int prog_array_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	(void)map, (void)me, (void)why, (void)why_bytes;
	return 0;
}

static int prog_array_recover(struct map *map, struct shm_client *me)
{
	(void)map, (void)me;
	return 0;
}

const struct map_ops prog_array_map_ops = {
	.name = "prog_array",
	.type = BPF_MAP_TYPE_PROG_ARRAY,
	.caps = MAP_CAPS_PROG_ARRAY,
	.alloc_check = prog_array_alloc_check,
	.layout = prog_array_layout,
	.init = prog_array_init,
	.open = prog_array_open,
	.lookup = prog_array_lookup,
	.update = prog_array_no_update,
	.remove = prog_array_delete,
	.copy = prog_array_copy,
	.store = prog_array_update,
	.take = array_no_take,
	.next_key = array_next_key,
	.check = prog_array_check,
	.recover = prog_array_recover,
};
