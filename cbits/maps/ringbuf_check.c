/*
 * ringbuf_check.c - fsck of a ring buffer: headers lead exactly from `pending` and from the consumer's position to `prod`; and what recovery there is to do without
 * waiting for somebody who is stopped by it.
 */
#include "ringbuf_core.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static int __attribute__((format(printf, 3, 4))) unsound(char *why, uint32_t why_bytes, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(why, why_bytes, format, list);
	va_end(list);
	return -EUCLEAN;
}

/* Every step is 8 bytes at least, so the walk ends. */
static int check_walk(const struct map *map, uint64_t from, uint64_t prod, const char *what, char *why, uint32_t why_bytes)
{
	while (from != prod) {
		uint64_t bytes = ringbuf_record_bytes(ringbuf_payload(ringbuf_header_load(map, from)));

		if (bytes > prod - from)
			return unsound(why, why_bytes, "record at position %" PRIu64 " (found from %s) takes %" PRIu64 " bytes, %" PRIu64 " are in use", from, what,
				       bytes, prod - from);
		from += bytes;
	}
	return 0;
}

/* Under the lock. */
static int check_locked(const struct map *map, char *why, uint32_t why_bytes)
{
	struct ringbuf_state state = ringbuf_state_load(map);
	uint64_t published = shm_load(ringbuf_producer_pos(map)), consumer_pos = shm_load_acquire(ringbuf_consumer_pos(map));
	int err;

	if (shm_load(&ringbuf_ctl(map)->state_now) > 1)
		return unsound(why, why_bytes, "state_now is %u, expected 0 or 1", shm_load(&ringbuf_ctl(map)->state_now));
	if (published != state.prod)
		return unsound(why, why_bytes, "producer_pos is %" PRIu64 ", expected %" PRIu64, published, state.prod);
	if (state.prod % 8 || state.pending % 8 || state.prod - state.pending > map->mask)
		return unsound(why, why_bytes, "positions pending %" PRIu64 " and prod %" PRIu64 " do not fit a ring of %u bytes", state.pending, state.prod,
			       map->max_entries);
	err = check_walk(map, state.pending, state.prod, "pending_pos", why, why_bytes);
	if (err)
		return err;
	if (consumer_pos % 8 || state.prod - consumer_pos > map->mask)
		return unsound(why, why_bytes, "consumer_pos %" PRIu64 " is not in the ring: its end is %" PRIu64, consumer_pos, state.prod);
	return check_walk(map, consumer_pos, state.prod, "consumer_pos", why, why_bytes);
}

int ringbuf_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes)
{
	int err = ringbuf_lock(map, me);

	if (err)
		return err;
	err = check_locked(map, why, why_bytes);
	ringbuf_unlock(map, me);
	return err;
}

int ringbuf_recover(struct map *map, struct shm_client *me)
{
	struct ringbuf_state state;
	int repairs = 0, err = shm_lock_word(me, &ringbuf_ctl(map)->lock);

	if (err < 0)
		return err;
	repairs = err;   /* 1: the lock was a dead one's */
	state = ringbuf_state_load(map);
	repairs += shm_load(ringbuf_producer_pos(map)) != state.prod;
	shm_store_release(ringbuf_producer_pos(map), state.prod);
	shm_store(ringbuf_pending_pos(map), state.pending);
	SHM_POINT(ringbuf_recover_published);
	for (uint64_t at = state.pending; at != state.prod;) {
		uint64_t bytes = ringbuf_record_bytes(ringbuf_payload(ringbuf_header_load(map, at))), left = state.prod - at;

		repairs += ringbuf_repair(map, me, at);
		at += bytes <= left ? bytes : left;
	}
	ringbuf_unlock(map, me);
	if (repairs) {
		__atomic_fetch_add(&map->ctl->recovered, (uint64_t)repairs, __ATOMIC_RELAXED);
		ringbuf_wake(map, me);
	}
	return repairs;
}
