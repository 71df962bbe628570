/*
 * ringbuf_core.h - what the files of the two ring buffer types share: where things are, and headers as one word.
 */
#ifndef SHMBPF_MAPS_RINGBUF_CORE_H
#define SHMBPF_MAPS_RINGBUF_CORE_H

#include "rows.h"
#include "shmbpf/ringbuf.h"

/* A header changes by whole words only, so nobody ever sees a length with another's owner. */
union ringbuf_header {
	struct {
		uint32_t len;
		uint32_t second;
	};
	uint64_t word;
};

/* ringbuf_open() puts the two mappings of the data into `own` and the private page into `links`. */
shm_inline uint8_t *ringbuf_data(const struct map *map)
{
	return map->own;
}

shm_inline struct shm_ringbuf *ringbuf_ctl(const struct map *map)
{
	return (struct shm_ringbuf *)map->links;
}

shm_inline uint64_t *ringbuf_consumer_pos(const struct map *map)
{
	return (uint64_t *)map->base;
}

shm_inline uint64_t *ringbuf_producer_pos(const struct map *map)
{
	return (uint64_t *)(map->base + RINGBUF_PRODUCER_OFF);
}

shm_inline uint64_t *ringbuf_pending_pos(const struct map *map)
{
	return ringbuf_producer_pos(map) + 1;
}

shm_inline uint64_t *ringbuf_header_at(const struct map *map, uint64_t pos)
{
	return (uint64_t *)(ringbuf_data(map) + (pos & map->mask & ~7ull));
}

shm_inline union ringbuf_header ringbuf_header_load(const struct map *map, uint64_t pos)
{
	return (union ringbuf_header){ .word = shm_load_acquire(ringbuf_header_at(map, pos)) };
}

shm_inline uint32_t ringbuf_payload(union ringbuf_header header)
{
	return header.len & ~(uint32_t)(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
}

/* Bytes from a record to the next one. */
shm_inline uint64_t ringbuf_record_bytes(uint64_t payload)
{
	return map_round8(payload + BPF_RINGBUF_HDR_SZ);
}

/* Linux v6.12 kernel/bpf/ringbuf.c, bpf_ringbuf_rec_pg_off(). */
shm_inline uint32_t ringbuf_page_off(const struct map *map, uint64_t pos)
{
	return RINGBUF_PAGE_OFF + (uint32_t)((pos & map->mask) / SHM_PAGE);
}

/* The private state that holds now; under the lock. */
shm_inline struct ringbuf_state ringbuf_state_load(const struct map *map)
{
	const struct shm_ringbuf *ctl = ringbuf_ctl(map);
	const struct ringbuf_state *now = &ctl->state[shm_load_acquire(&ctl->state_now) & 1];

	return (struct ringbuf_state){ shm_load(&now->prod), shm_load(&now->pending), shm_load(&now->sent), shm_load(&now->aborted) };
}

/* Passes over the oldest record and counts it: 1. 0: there is none, or it is still open. */
shm_inline int ringbuf_pass(const struct map *map, struct ringbuf_state *state)
{
	union ringbuf_header header;
	uint64_t bytes, left = state->prod - state->pending;

	if (!left)
		return 0;
	header = ringbuf_header_load(map, state->pending);
	if (header.len & BPF_RINGBUF_BUSY_BIT)
		return 0;
	bytes = ringbuf_record_bytes(ringbuf_payload(header));
	state->pending += shm_likely(bytes <= left) ? bytes : left;   /* a scribbled header leads nowhere */
	if (!(header.len & BPF_RINGBUF_DISCARD_BIT))
		state->sent++;
	else if (header.second & RINGBUF_ABORTED)
		state->aborted++;
	return 1;
}

/* Discards the open record at `pos` when whoever reserved it is dead: 1 done. A live owner's record, however slow it is, stays. */
int ringbuf_repair(const struct map *map, struct shm_client *me, uint64_t pos);
/* Ring buffers only. 0 or -EBUSY, -ECHILD. Whoever takes the lock over from the dead finds everything published. */
int ringbuf_lock(struct map *map, struct shm_client *me);
void ringbuf_unlock(struct map *map, struct shm_client *me);
void ringbuf_wake(struct map *map, struct shm_client *me);

/* Operations that both types have in common: sizes, mappings, and the refusal of everything that needs elements. */
int ringbuf_alloc_check(const struct map_attr *attr);
int ringbuf_layout(const struct map_attr *attr, struct map_layout *out);
void ringbuf_init(struct map *map);
int ringbuf_open(struct map *map);
void ringbuf_close(struct map *map);
void *ringbuf_no_lookup(struct map *map, struct shm_client *me, const void *key);
int ringbuf_no_update(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags);
int ringbuf_no_remove(struct map *map, struct shm_client *me, const void *key);
int ringbuf_no_copy(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
int ringbuf_no_next_key(struct map *map, struct shm_client *me, const void *key, void *next);

/* ringbuf_check.c */
int ringbuf_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes);
int ringbuf_recover(struct map *map, struct shm_client *me);

#endif
