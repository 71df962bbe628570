/*
 * perf_event_array.c - BPF_MAP_TYPE_PERF_EVENT_ARRAY: slots of perf rings.
 *
 * A slot is one u64, {setter:32, ring id:32}, replaced by a single atomic operation; it lies outside of what programs may touch (area 1; area 0 is empty).
 * As on Linux a slot goes with whoever filled it: there with the map's open file, here with the client that stored it. Its owner word stands in the slot, and a slot
 * whose setter is dead counts as empty (BPF_F_PRESERVE_ELEMS stores 0 for "nobody": such a slot stays). Who finds a dead one empties it. To ask whether a
 * client lives costs a system call, so a CPU asks only when a ring has no room: a consumer that reads is alive.
 *
 * Each process keeps the rings it writes to open beside their slots (map->own), until the slot's word changes.
 */
#include "rows.h"
#include "shmbpf/ring.h"

#include <stdlib.h>

/* What this process has open for a slot. */
struct slot_ring {
	uint64_t word;                /* the slot's word when it was opened */
	struct ring *ring;
};

/* Linux v6.12 kernel/bpf/arraymap.c, fd_array_map_alloc_check(). */
static int perf_array_alloc_check(const struct map_attr *attr)
{
	struct map_attr plain = *attr;

	if (attr->value_size != 4 || attr->flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG))
		return -EINVAL;
	plain.flags &= ~(uint32_t)BPF_F_PRESERVE_ELEMS;
	return array_alloc_check(&plain);
}

static int perf_array_layout(const struct map_attr *attr, struct map_layout *out)
{
	out->bytes[1] = 8ull * attr->max_entries;
	return 0;
}

static int perf_array_open(struct map *map)
{
	map->links = map->base + map->layout.off[1];
	return 0;
}

static void perf_array_init(struct map *map)
{
	(void)map;
}

static uint64_t *slot_of(const struct map *map, uint32_t index)
{
	return (uint64_t *)map->links + index;
}

static uint32_t setter_of(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

static uint64_t word_of(const struct map *map, const struct shm_client *me, uint32_t ring_id)
{
	return (map->flags & BPF_F_PRESERVE_ELEMS ? 0 : (uint64_t)me->owner << 32) | ring_id;
}

static int empty_slot(uint64_t *slot, uint64_t word)
{
	return __atomic_compare_exchange_n(slot, &word, 0, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* 1: its setter is dead; it is empty now. */
static int is_abandoned(struct map *map, struct shm_client *me, uint64_t *slot, uint64_t word)
{
	if (map->flags & BPF_F_PRESERVE_ELEMS || !setter_of(word) || setter_of(word) == me->owner || shm_owner_alive(me, setter_of(word)))
		return 0;
	empty_slot(slot, word);
	return 1;
}

uint32_t perf_array_slot(struct map *map, struct shm_client *me, uint32_t index)
{
	uint64_t word;

	if (index >= map->max_entries || map->type != BPF_MAP_TYPE_PERF_EVENT_ARRAY)
		return 0;
	word = shm_load_acquire(slot_of(map, index));
	return word && !is_abandoned(map, me, slot_of(map, index), word) ? (uint32_t)word : 0;
}

uint32_t perf_array_sweep(struct map *map, struct shm_client *me)
{
	uint32_t emptied = 0;

	for (uint32_t i = 0; i < map->max_entries; i++) {
		uint64_t word = shm_load_acquire(slot_of(map, i));

		emptied += word && is_abandoned(map, me, slot_of(map, i), word);
	}
	return emptied;
}

void perf_array_withdraw(struct map *map, struct shm_client *me, uint32_t index, uint32_t ring_id)
{
	if (index < map->max_entries && map->type == BPF_MAP_TYPE_PERF_EVENT_ARRAY)
		empty_slot(slot_of(map, index), word_of(map, me, ring_id));
}

/* ---- the rings this process has open ---- */

static void close_slot(struct slot_ring *open)
{
	if (!open->ring)
		return;
	ring_close(open->ring);
	free(open->ring);
	open->ring = NULL;
}

static void perf_array_close(struct map *map)
{
	struct slot_ring *open = map->own;

	for (uint32_t i = 0; open && i < map->max_entries; i++)
		close_slot(&open[i]);
	free(open);
	map->own = NULL;
}

/*
 * What this CPU's last process had committed and not published, or published without waking who sleeps: it may have died in between. Another CPU's ring is not
 * ours to touch.
 */
static int take_over(struct ring *ring, struct shm_client *me)
{
	int repaired = ring_recover(ring);

	if (ring_unread(ring))
		wake_up(ring->wake, me, "ring", ring->id, &ring->wake_fd);
	return repaired;
}

/* The slot's word is not the one that is open here. */
static __attribute__((noinline)) struct ring *open_slot(struct map *map, struct shm_client *me, uint32_t index, uint64_t word, int *error)
{
	struct slot_ring *open;

	if (!map->own)
		map->own = calloc(map->max_entries, sizeof(struct slot_ring));
	open = map->own ? (struct slot_ring *)map->own + index : NULL;
	*error = -ENOENT;
	if (open)
		close_slot(open);
	if (!open || !word || is_abandoned(map, me, slot_of(map, index), word))
		return NULL;
	open->ring = malloc(sizeof(*open->ring));
	if (!open->ring || ring_open(open->ring, me, (uint32_t)word) != 0) {
		/* its consumer has closed it: what Linux's slot would keep alive, nobody could read any more */
		free(open->ring);
		open->ring = NULL;
		empty_slot(slot_of(map, index), word);
		return NULL;
	}
	open->word = word;
	if (me->cpu == open->ring->attr.cpu)
		take_over(open->ring, me);
	*error = 0;
	return open->ring;
}

struct ring *perf_array_ring(struct map *map, struct shm_client *me, uint32_t index, int *error)
{
	const struct slot_ring *open = map->own;
	uint64_t word;

	if (shm_unlikely(index >= map->max_entries)) {
		*error = -E2BIG;
		return NULL;
	}
	word = shm_load_acquire(slot_of(map, index));
	if (shm_likely(open && open[index].ring && open[index].word == word && word))
		return open[index].ring;
	return open_slot(map, me, index, word, error);
}

/* ---- bpf(2) ---- */

/* Linux v6.12 kernel/bpf/arraymap.c, bpf_fd_array_map_update_elem(). The value is a ring's id; that it exists is the caller's business, as a descriptor's. */
static int perf_array_store(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	uint32_t id, index = array_index(key);

	if (flags != BPF_ANY)
		return -EINVAL;
	if (index >= map->max_entries)
		return -E2BIG;
	memcpy(&id, value, 4);
	if (!id)
		return -EBADF;
	__atomic_store_n(slot_of(map, index), word_of(map, me, id), __ATOMIC_SEQ_CST);
	SHM_POINT(perf_slot_stored);
	return 0;
}

/* Linux v6.12 kernel/bpf/arraymap.c, fd_array_map_delete_elem(). */
static int perf_array_delete(struct map *map, struct shm_client *me, const void *key)
{
	uint32_t index = array_index(key);

	if (index >= map->max_entries)
		return -E2BIG;
	if (!perf_array_slot(map, me, index))
		return -ENOENT;
	__atomic_store_n(slot_of(map, index), 0, __ATOMIC_SEQ_CST);
	return 0;
}

/* Events have no value to look up (perf_event_array_map_ops lacks map_fd_sys_lookup_elem). */
static int perf_array_copy(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	(void)map, (void)me, (void)key, (void)value, (void)flags;
	return -MAP_ENOTSUPP;
}

/* Programs reach a slot through bpf_perf_event_output() alone (Linux v6.12 kernel/bpf/verifier.c, check_map_func_compatibility()). */
static void *perf_array_lookup(struct map *map, struct shm_client *me, const void *key)
{
	(void)map, (void)me, (void)key;
	return NULL;
}

static int perf_array_no_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	(void)map, (void)me, (void)key, (void)value, (void)flags;
	return -EINVAL;
}

static int perf_array_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	(void)map, (void)me, (void)why, (void)why_bytes;
	return 0;
}

/* After a death: slots of dead consumers, and the rings of CPUs that nobody is. Those of living CPUs are in order, or their own business. */
static int perf_array_recover(struct map *map, struct shm_client *me)
{
	int err, repairs = (int)perf_array_sweep(map, me);

	for (uint32_t i = 0; i < map->max_entries; i++) {
		struct ring *ring = shm_load_acquire(slot_of(map, i)) ? perf_array_ring(map, me, i, &err) : NULL;

		if (ring && !shm_cpu_leased(me, ring->attr.cpu))
			repairs += take_over(ring, me);
	}
	return repairs;
}

const struct map_ops perf_event_array_map_ops = {
	.name = "perf_event_array",
	.type = BPF_MAP_TYPE_PERF_EVENT_ARRAY,
	.caps = MAP_CAPS_PERF_EVENT_ARRAY,
	.alloc_check = perf_array_alloc_check,
	.layout = perf_array_layout,
	.init = perf_array_init,
	.open = perf_array_open,
	.close = perf_array_close,
	.lookup = perf_array_lookup,
	.update = perf_array_no_update,
	.remove = perf_array_delete,
	.copy = perf_array_copy,
	.store = perf_array_store,
	.take = array_no_take,
	.next_key = array_next_key,
	.check = perf_array_check,
	.recover = perf_array_recover,
};
