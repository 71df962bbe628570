/*
 * ringbuf.c - BPF_MAP_TYPE_RINGBUF, the producers' side: reserve, commit, counters.
 *
 *        consumer_pos     pending          prod
 *   -----+----------------+----------------+-------   positions count bytes for ever; data[pos & mask]
 *        | read next      | oldest open    | next reservation
 *
 * Invariants: pending <= prod <= pending + size - 1; every header between the two is whole; headers before `pending` were finished when it passed them. A record
 * is reserved under the lock and committed without it, by one exchange of its header.
 *
 * Who may write what: `state`, the producer page and headers from `prod` on: the holder of the lock; an open record: whoever reserved it, or, once that one is dead,
 * anybody, by compare-and-swap to "discarded"; consumer_pos: the consumer.
 *
 * What survives a death: before `state_now` is stored, nothing of the reservation exists. After that whoever gets the lock publishes it, and its record is discarded
 * by the first one it stops: the consumer at the head of the ring, or a producer that finds no room. A committed record is delivered. Records are counted by
 * looking at them when `pending` passes, not when they are committed, so the counters are exact whoever died where. Model: models/ringbuf.pml.
 */
#define _GNU_SOURCE
#include "ringbuf_core.h"

#include <sys/mman.h>
#include <unistd.h>

/* ---- segment ------------------------------------------------------------------------------------------------------------------------------ */

/* Linux v6.12 kernel/bpf/ringbuf.c, ringbuf_map_alloc(). */
int ringbuf_alloc_check(const struct map_attr *attr)
{
	uint32_t size = attr->max_entries;

	if (attr->flags & ~(uint32_t)BPF_F_NUMA_NODE || attr->key_size || attr->value_size)
		return -EINVAL;
	return !size || size & (size - 1) || size % SHM_PAGE ? -EINVAL : 0;
}

int ringbuf_layout(const struct map_attr *attr, struct map_layout *out)
{
	out->bytes[0] = RINGBUF_DATA_OFF + (uint64_t)attr->max_entries;
	out->bytes[1] = sizeof(struct shm_ringbuf);
	return 0;
}

void ringbuf_init(struct map *map)
{
	(void)map;
}

/* The data twice, side by side. A mapping that is moved with an old size of 0 is duplicated (mremap(2)); that needs no descriptor of the segment. */
int ringbuf_open(struct map *map)
{
	uint64_t size = map->max_entries;
	uint8_t *room = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		return -errno;
	for (uint32_t half = 0; half < 2; half++) {
		if (mremap(map->base + RINGBUF_DATA_OFF, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, room + half * size) == MAP_FAILED) {
			int err = -errno;

			munmap(room, 2 * size);
			return err;
		}
	}
	map->own = room;
	map->links = map->base + map->layout.off[1];
	map->mask = map->max_entries - 1;
	return 0;
}

void ringbuf_close(struct map *map)
{
	if (map->own)
		munmap(map->own, 2 * (uint64_t)map->max_entries);
	map->own = NULL;
	if (map->wake_fd >= 0)
		close(map->wake_fd);
	map->wake_fd = -1;
}

/* ---- lock and repair ---------------------------------------------------------------------------------------------------------------------- */

/* What the dead holder of the lock had committed to `state` but not yet shown. */
static void publish(const struct map *map, const struct ringbuf_state *state)
{
	shm_store_release(ringbuf_producer_pos(map), state->prod);
	shm_store(ringbuf_pending_pos(map), state->pending);
}

int ringbuf_lock(struct map *map, struct shm_client *me)
{
	int got = shm_lock_word(me, &ringbuf_ctl(map)->lock);

	if (shm_unlikely(got == 1)) {
		struct ringbuf_state state = ringbuf_state_load(map);

		publish(map, &state);
		SHM_POINT(ringbuf_recover_published);
		got = 0;
	}
	return got;
}

void ringbuf_unlock(struct map *map, struct shm_client *me)
{
	shm_unlock_word(me, &ringbuf_ctl(map)->lock);
}

void ringbuf_wake(struct map *map, struct shm_client *me)
{
	wake_up(&ringbuf_ctl(map)->wake, me, "map", map->id, &map->wake_fd);
}

int ringbuf_repair(const struct map *map, struct shm_client *me, uint64_t pos)
{
	uint64_t *place = ringbuf_header_at(map, pos);
	union ringbuf_header old = ringbuf_header_load(map, pos), new;

	/* a producer that keeps to the public protocol only leaves no owner word: nobody can tell whether it lives */
	if (!(old.len & BPF_RINGBUF_BUSY_BIT) || old.second < SHM_ELEM_LIMIT || old.second == me->owner || shm_owner_alive(me, old.second))
		return 0;
	new.len = ringbuf_payload(old) | BPF_RINGBUF_DISCARD_BIT;
	new.second = ringbuf_page_off(map, pos) | RINGBUF_ABORTED;
	/* fails when somebody else repairs it at the same time */
	if (!__atomic_compare_exchange_n(place, &old.word, new.word, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return 0;
	SHM_POINT(ringbuf_repair_done);
	return 1;
}

/* ---- reserve ------------------------------------------------------------------------------------------------------------------------------ */

/* The store of `state_now` is the moment at which the new state holds. */
static void replace_state(struct map *map, const struct ringbuf_state *state)
{
	struct shm_ringbuf *ctl = ringbuf_ctl(map);
	uint32_t other = (shm_load(&ctl->state_now) & 1) ^ 1;
	struct ringbuf_state *to = &ctl->state[other];

	shm_store(&to->prod, state->prod);
	shm_store(&to->pending, state->pending);
	shm_store(&to->sent, state->sent);
	shm_store(&to->aborted, state->aborted);
	shm_store_release(&ctl->state_now, other);
	SHM_POINT(ringbuf_reserve_state);
	publish(map, state);
}

/* Linux v6.12 kernel/bpf/ringbuf.c, __bpf_ringbuf_reserve(): neither the unread bytes nor those from the oldest open record on may fill the ring. */
static int has_room(const struct map *map, const struct ringbuf_state *state, uint64_t consumer_pos, uint64_t bytes)
{
	uint64_t end = state->prod + bytes;

	return end - consumer_pos <= map->mask && end - state->pending <= map->mask;
}

/* Passes over everything finished; over open records of the dead too when there is no room otherwise. 1: there is room. */
static int make_room(struct map *map, struct shm_client *me, struct ringbuf_state *state, uint64_t bytes)
{
	uint64_t consumer_pos = shm_load_acquire(ringbuf_consumer_pos(map));
	int repaired = 0, fits;

	for (;;) {
		while (ringbuf_pass(map, state))
			;
		fits = has_room(map, state, consumer_pos, bytes);
		if (shm_likely(fits) || state->pending == state->prod || !ringbuf_repair(map, me, state->pending))
			break;
		repaired = 1;
	}
	if (shm_unlikely(repaired))
		ringbuf_wake(map, me);   /* the consumer may sleep in front of what is gone now */
	return fits;
}

/* Under the lock. */
static uint8_t *reserve_locked(struct map *map, struct shm_client *me, uint64_t size, uint64_t bytes)
{
	struct ringbuf_state state = ringbuf_state_load(map);
	uint64_t at = state.prod, was_pending = state.pending;
	union ringbuf_header header = { .len = (uint32_t)size | BPF_RINGBUF_BUSY_BIT, .second = me->owner };

	if (shm_unlikely(!make_room(map, me, &state, bytes))) {
		if (state.pending != was_pending)
			replace_state(map, &state);
		return NULL;
	}
	shm_store_release(ringbuf_header_at(map, at), header.word);
	SHM_POINT(ringbuf_reserve_header);
	state.prod += bytes;
	replace_state(map, &state);
	SHM_POINT(ringbuf_reserve_published);
	return (uint8_t *)ringbuf_header_at(map, at) + BPF_RINGBUF_HDR_SZ;
}

/* When a live process keeps the lock too long (it was stopped, say), the record counts as lost: a program cannot wait. */
uint8_t *ringbuf_reserve(struct map *map, struct shm_client *me, uint64_t size)
{
	uint64_t bytes = ringbuf_record_bytes(size);
	uint8_t *sample = NULL;

	if (map->type != BPF_MAP_TYPE_RINGBUF)
		return NULL;
	if (shm_likely(size <= RINGBUF_MAX_SAMPLE && bytes <= map->max_entries && !ringbuf_lock(map, me))) {
		SHM_POINT(ringbuf_reserve_locked);
		sample = reserve_locked(map, me, size, bytes);
		ringbuf_unlock(map, me);
		SHM_POINT(ringbuf_reserve_unlocked);
	}
	if (shm_unlikely(!sample))
		__atomic_fetch_add(&ringbuf_ctl(map)->lost, 1, __ATOMIC_RELAXED);
	return sample;
}

/* ---- commit ------------------------------------------------------------------------------------------------------------------------------- */

/*
 * The consumer sleeps though not everything is read. In front of it lies an open record it does not know of: whoever holds that may be dead, so it is told to watch
 * it by the clock (ringbuf_stalled()); this is one wake-up that Linux does not make. Or it watched a record which is finished now.
 */
static __attribute__((noinline)) void tell_sleeper(struct map *map, struct shm_client *me, uint32_t armed)
{
	uint32_t watches = (armed & RINGBUF_WAKE_STALLED) != 0;

	if (ringbuf_unread(map) && ringbuf_stalled(map) != watches)
		ringbuf_wake(map, me);
}

/* Linux v6.12 kernel/bpf/ringbuf.c, bpf_ringbuf_commit(): by default only whoever has read everything before this record is told. */
void ringbuf_commit(struct map *map, struct shm_client *me, uint8_t *sample, uint64_t flags, uint32_t discard)
{
	uint64_t *place = (uint64_t *)(sample - BPF_RINGBUF_HDR_SZ), at = (uint64_t)((uint8_t *)place - ringbuf_data(map));
	union ringbuf_header header = { .word = shm_load(place) };
	uint64_t head;
	uint32_t armed;

	header.len = ringbuf_payload(header) | (discard ? BPF_RINGBUF_DISCARD_BIT : 0);
	header.second = ringbuf_page_off(map, at);
	/* a full barrier: a consumer that has armed itself before it read this header is seen by wake_up() */
	__atomic_exchange_n(place, header.word, __ATOMIC_SEQ_CST);
	SHM_POINT(ringbuf_commit_done);
	head = shm_load_acquire(ringbuf_consumer_pos(map)) & map->mask;
	if (flags & BPF_RB_FORCE_WAKEUP || (head == at && !(flags & BPF_RB_NO_WAKEUP)))
		ringbuf_wake(map, me);
	else if (shm_unlikely((armed = shm_load(&ringbuf_ctl(map)->wake.armed)) != 0))
		tell_sleeper(map, me, armed);
}

/* Linux v6.12 kernel/bpf/ringbuf.c, bpf_ringbuf_output(). */
int ringbuf_output(struct map *map, struct shm_client *me, const void *data, uint64_t size, uint64_t flags)
{
	uint8_t *sample;

	if (flags & ~(uint64_t)(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP))
		return -EINVAL;
	sample = ringbuf_reserve(map, me, size);
	if (shm_unlikely(!sample))
		return -EAGAIN;
	shm_copy_in(sample, data, (uint32_t)size);
	ringbuf_commit(map, me, sample, flags, 0);
	return 0;
}

/* ---- looking ------------------------------------------------------------------------------------------------------------------------------ */

/* Linux v6.12 kernel/bpf/ringbuf.c, bpf_ringbuf_query(). */
uint64_t ringbuf_query(const struct map *map, uint64_t what)
{
	uint64_t consumer_pos, producer_pos;

	if (map->type != BPF_MAP_TYPE_RINGBUF)
		return 0;
	consumer_pos = shm_load_acquire(ringbuf_consumer_pos(map));
	producer_pos = shm_load_acquire(ringbuf_producer_pos(map));
	switch (what) {
	case BPF_RB_AVAIL_DATA:
		return producer_pos - consumer_pos;
	case BPF_RB_RING_SIZE:
		return map->max_entries;
	case BPF_RB_CONS_POS:
		return consumer_pos;
	case BPF_RB_PROD_POS:
		return producer_pos;
	}
	return 0;
}

/* Finished records behind an open one are not counted yet in the state. `pending` itself stays where Linux would have it. */
static void count_behind(const struct map *map, struct ringbuf_state *state)
{
	while (state->pending != state->prod) {
		union ringbuf_header header = ringbuf_header_load(map, state->pending);
		uint64_t bytes = ringbuf_record_bytes(ringbuf_payload(header)), left = state->prod - state->pending;

		if (!ringbuf_pass(map, state))
			state->pending += bytes <= left ? bytes : left;
	}
}

int ringbuf_count(struct map *map, struct shm_client *me, struct ringbuf_counts *counts)
{
	struct shm_ringbuf *ctl = ringbuf_ctl(map);
	struct ringbuf_state state;
	int err;

	if (map->type == BPF_MAP_TYPE_USER_RINGBUF) {
		*counts = (struct ringbuf_counts){ shm_load(&ctl->drained), shm_load(&ctl->lost), shm_load(&ctl->drain_aborted) };
		return 0;
	}
	if (map->type != BPF_MAP_TYPE_RINGBUF)
		return -EINVAL;
	err = ringbuf_lock(map, me);
	if (err)
		return err;
	state = ringbuf_state_load(map);
	count_behind(map, &state);
	ringbuf_unlock(map, me);
	*counts = (struct ringbuf_counts){ state.sent, shm_load(&ctl->lost), state.aborted };
	return 0;
}

struct shm_wake *ringbuf_wake_of(const struct map *map)
{
	return map->ops->caps & (MAP_CAP_RINGBUF | MAP_CAP_USER_RINGBUF) ? &ringbuf_ctl(map)->wake : NULL;
}

/* ---- what rings do not have: elements (Linux v6.12 kernel/bpf/ringbuf.c, ringbuf_map_lookup_elem() and its siblings) ------------------------- */

void *ringbuf_no_lookup(struct map *map, struct shm_client *me, const void *key)
{
	(void)map, (void)me, (void)key;
	return NULL;
}

int ringbuf_no_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags)
{
	(void)map, (void)me, (void)key, (void)value, (void)flags;
	return -MAP_ENOTSUPP;
}

int ringbuf_no_remove(struct map *map, struct shm_client *me, const void *key)
{
	(void)map, (void)me, (void)key;
	return -MAP_ENOTSUPP;
}

int ringbuf_no_copy(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags)
{
	(void)map, (void)me, (void)key, (void)value, (void)flags;
	return -MAP_ENOTSUPP;
}

int ringbuf_no_next_key(struct map *map, struct shm_client *me, const void *key, void *next)
{
	(void)map, (void)me, (void)key, (void)next;
	return -MAP_ENOTSUPP;
}

const struct map_ops ringbuf_map_ops = {
	.name = "ringbuf",
	.type = BPF_MAP_TYPE_RINGBUF,
	.caps = MAP_CAPS_RINGBUF,
	.alloc_check = ringbuf_alloc_check,
	.layout = ringbuf_layout,
	.init = ringbuf_init,
	.open = ringbuf_open,
	.close = ringbuf_close,
	.lookup = ringbuf_no_lookup,
	.update = ringbuf_no_update,
	.remove = ringbuf_no_remove,
	.copy = ringbuf_no_copy,
	.store = ringbuf_no_update,
	.take = ringbuf_no_copy,
	.next_key = ringbuf_no_next_key,
	.check = ringbuf_check,
	.recover = ringbuf_recover,
};
