/*
 * user_ringbuf.c - BPF_MAP_TYPE_USER_RINGBUF: samples from user space, drained by programs. The ring of ringbuf.c with the sides swapped: producers in user
 * space write the producer page and the data, the draining program writes consumer_pos.
 *
 * Producers trust nobody, and neither does the drain: what they wrote is checked before a program sees it (Linux v6.12 kernel/bpf/ringbuf.c,
 * __bpf_user_ringbuf_peek()). Producers of this library share `lock` and leave their owner word in the header of an open sample, so a dead one's sample is passed
 * over; a producer that knows the public protocol only must be alone, as on Linux, and leaves 0 there.
 *
 * `drain` is a lock word: one program at a time. One that dies while it looks at a sample leaves it to the next drain, which shows it again.
 */
#include "ringbuf_core.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- producers ---------------------------------------------------------------------------------------------------------------------------- */

uint64_t user_ringbuf_room(const struct map *map)
{
	uint64_t used = ringbuf_unread(map);

	return used <= map->max_entries ? map->max_entries - used : 0;
}

/* Under the lock. Position of the new sample, or -errno. Unlike ring buffers a user ring buffer may be filled to the last byte. */
static int64_t reserve_locked(struct map *map, struct shm_client *me, uint64_t size, uint64_t bytes)
{
	uint64_t at = shm_load(ringbuf_producer_pos(map)), used = at - shm_load_acquire(ringbuf_consumer_pos(map));
	union ringbuf_header header = { .len = (uint32_t)size | BPF_RINGBUF_BUSY_BIT, .second = me->owner };

	if (at % 8 || used > map->max_entries)
		return -EUCLEAN;
	if (bytes > map->max_entries - used)
		return -ENOSPC;
	shm_store_release(ringbuf_header_at(map, at), header.word);
	SHM_POINT(ringbuf_user_header);
	shm_store_release(ringbuf_producer_pos(map), at + bytes);
	SHM_POINT(ringbuf_user_published);
	return (int64_t)(at & map->mask);
}

int user_ringbuf_write(struct map *map, struct shm_client *me, const void *data, uint64_t size)
{
	uint64_t bytes = ringbuf_record_bytes(size);
	union ringbuf_header header = { .len = (uint32_t)size };
	int64_t at;

	if (map->type != BPF_MAP_TYPE_USER_RINGBUF)
		return -EINVAL;
	if (size > USER_RINGBUF_MAX_SAMPLE || bytes > map->max_entries)
		return -E2BIG;
	/* taken over from the dead (1): the producer page is all the state there is, and every store to it leaves it whole */
	at = shm_lock_word(me, &ringbuf_ctl(map)->lock);
	if (at < 0)
		return (int)at;
	at = reserve_locked(map, me, size, bytes);
	ringbuf_unlock(map, me);
	if (at < 0) {
		__atomic_fetch_add(&ringbuf_ctl(map)->lost, at == -ENOSPC, __ATOMIC_RELAXED);
		return (int)at;
	}
	shm_copy_in((uint8_t *)ringbuf_header_at(map, (uint64_t)at) + BPF_RINGBUF_HDR_SZ, data, (uint32_t)size);
	SHM_POINT(ringbuf_user_copied);
	shm_store_release(ringbuf_header_at(map, (uint64_t)at), header.word);
	SHM_POINT(ringbuf_user_committed);
	return 0;
}

/* ---- the drain ---------------------------------------------------------------------------------------------------------------------------- */

int user_ringbuf_begin(struct map *map, struct shm_client *me)
{
	return shm_trylock(me, &ringbuf_ctl(map)->drain) < 0 ? -EBUSY : 0;
}

static void consume(struct map *map, uint64_t bytes)
{
	uint64_t *pos = ringbuf_consumer_pos(map);

	shm_store_release(pos, shm_load(pos) + bytes);
	SHM_POINT(ringbuf_drain_consumed);
}

/* Order of the checks and errors are Linux's, __bpf_user_ringbuf_peek(). */
int user_ringbuf_next(struct map *map, struct shm_client *me, uint8_t **sample, uint32_t *size)
{
	uint64_t prod = shm_load_acquire(ringbuf_producer_pos(map)), cons = shm_load(ringbuf_consumer_pos(map)), bytes;
	union ringbuf_header header;

	if (prod % 8 || cons % 8)
		return -EINVAL;
	if (cons >= prod)
		return -ENODATA;
	header = ringbuf_header_load(map, cons);
	bytes = ringbuf_record_bytes(ringbuf_payload(header));
	if (bytes > prod - cons)
		return -EINVAL;
	if (bytes > map->max_entries || ringbuf_payload(header) > USER_RINGBUF_MAX_SAMPLE)
		return -E2BIG;
	if (header.len & BPF_RINGBUF_BUSY_BIT && !(header.len & BPF_RINGBUF_DISCARD_BIT)) {
		if (!ringbuf_repair(map, me, cons))
			return -ENODATA;
		shm_store(&ringbuf_ctl(map)->drain_aborted, shm_load(&ringbuf_ctl(map)->drain_aborted) + 1);
		header.len |= BPF_RINGBUF_DISCARD_BIT;
	}
	if (header.len & BPF_RINGBUF_DISCARD_BIT) {
		consume(map, bytes);
		return -EAGAIN;
	}
	*sample = (uint8_t *)ringbuf_header_at(map, cons) + BPF_RINGBUF_HDR_SZ;
	*size = ringbuf_payload(header);
	return 0;
}

void user_ringbuf_release(struct map *map, uint32_t size)
{
	struct shm_ringbuf *ctl = ringbuf_ctl(map);

	SHM_POINT(ringbuf_drain_shown);
	shm_store(&ctl->drained, shm_load(&ctl->drained) + 1);
	consume(map, ringbuf_record_bytes(size));
}

void user_ringbuf_end(struct map *map, struct shm_client *me, uint32_t wake)
{
	shm_unlock(me, &ringbuf_ctl(map)->drain);
	if (wake)
		ringbuf_wake(map, me);
}

/* ---- health ------------------------------------------------------------------------------------------------------------------------------- */

/* What producers outside of this library write is theirs; only positions that no sample can be found by are wrong. */
static int user_ringbuf_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	uint64_t prod = shm_load_acquire(ringbuf_producer_pos(map)), cons = shm_load(ringbuf_consumer_pos(map));

	(void)me;
	if (prod % 8 == 0 && cons % 8 == 0 && (cons >= prod || prod - cons <= map->max_entries))
		return 0;
	snprintf(why, why_bytes, "positions consumer %" PRIu64 " and producer %" PRIu64 " do not fit a ring of %u bytes", cons, prod, map->max_entries);
	return -EUCLEAN;
}

/* Open samples of the dead are the drain's to pass over; here only locks are freed. */
static int user_ringbuf_recover(struct map *map, struct shm_client *me)
{
	struct shm_ringbuf *ctl = ringbuf_ctl(map);
	uint32_t *words[] = { &ctl->lock, &ctl->drain };
	int repairs = 0;

	for (uint32_t i = 0; i < 2; i++) {
		int got = shm_load(words[i]) ? shm_trylock(me, words[i]) : -EBUSY;

		if (got >= 0)
			shm_unlock(me, words[i]);
		repairs += got == 1;
	}
	return repairs;
}

const struct map_ops user_ringbuf_map_ops = {
	.name = "user_ringbuf",
	.type = BPF_MAP_TYPE_USER_RINGBUF,
	.caps = MAP_CAPS_USER_RINGBUF,
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
	.check = user_ringbuf_check,
	.recover = user_ringbuf_recover,
};
