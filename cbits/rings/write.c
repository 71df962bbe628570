/*
 * write.c - the producer of a perf ring: the CPU the ring belongs to, and nobody else.
 *
 *   write the record behind head -> fill the other state -> state_now = other   (committed)   -> data_head = head   (visible)
 *
 * Until the commit nothing has happened; after it the record counts, and is published by the next output or by ring_recover() should the CPU die in between.
 * A LOST record is committed together with the sample behind it, and with how many losses have been told of: none is told twice or not at all.
 *
 * Linux v6.12 kernel/events/ring_buffer.c, __perf_output_begin() and ring_buffer_has_space(); kernel/events/core.c, perf_output_sample().
 */
#include "shm/atomic.h"
#include "shm/point.h"
#include "shmbpf/ring.h"

#include <errno.h>
#include <time.h>

enum { LOST_BYTES = 24, MISC_KERNEL = 1 /* PERF_RECORD_MISC_KERNEL */ };

/* A record on its way into the ring. */
struct output {
	struct ring *ring;
	uint64_t at;                  /* position of the next byte */
	uint64_t time_ns;
	const struct ring_sample *sample;
};

static uint64_t round8(uint64_t n)
{
	return (n + 7) & ~7ull;
}

/* Copies to the ring, around its end if need be. */
static void put(struct output *out, const void *from, uint64_t bytes)
{
	uint64_t off = out->at & (out->ring->data_bytes - 1), first = out->ring->data_bytes - off;

	if (shm_likely(bytes <= first)) {
		memcpy(out->ring->data + off, from, bytes);
	} else {
		memcpy(out->ring->data + off, from, first);
		memcpy(out->ring->data, (const uint8_t *)from + first, bytes - first);
	}
	out->at += bytes;
}

static void put_u64(struct output *out, uint64_t value)
{
	put(out, &value, sizeof(value));
}

static void put_u32_pair(struct output *out, uint32_t one, uint32_t other)
{
	uint32_t pair[2] = { one, other };

	put(out, pair, sizeof(pair));
}

/* Bytes of a record's fields that have 8 bytes each, which are all but the payload. */
static uint64_t fields_bytes(uint64_t sample_type)
{
	return 8 * (uint64_t)__builtin_popcountll(sample_type & ~(uint64_t)PERF_SAMPLE_RAW);
}

/* What sample_id_all appends to records that are no samples (perf_event__output_id_sample()). */
enum { IN_TRAILER = PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_ID | PERF_SAMPLE_STREAM_ID | PERF_SAMPLE_CPU | PERF_SAMPLE_IDENTIFIER };

static uint64_t trailer_of(const struct ring *ring)
{
	return ring->attr.flags & RING_SAMPLE_ID_ALL ? ring->attr.sample_type & IN_TRAILER : 0;
}

static uint64_t trailer_bytes(const struct ring *ring)
{
	return fields_bytes(trailer_of(ring));
}

/* The fields of `type`, in the order that samples and trailers share. */
static void put_fields(struct output *out, uint64_t type)
{
	if (type & PERF_SAMPLE_IP)
		put_u64(out, 0);
	if (type & PERF_SAMPLE_TID)
		put_u32_pair(out, out->sample->pid, out->sample->pid);
	if (type & PERF_SAMPLE_TIME)
		put_u64(out, out->time_ns);
	if (type & PERF_SAMPLE_ADDR)
		put_u64(out, 0);
	if (type & PERF_SAMPLE_ID)
		put_u64(out, out->ring->id);
	if (type & PERF_SAMPLE_STREAM_ID)
		put_u64(out, out->ring->id);
	if (type & PERF_SAMPLE_CPU)
		put_u32_pair(out, out->sample->cpu, 0);
	if (type & PERF_SAMPLE_PERIOD)
		put_u64(out, 0);
}

/* The id comes last in a trailer, so that it is found from the record's end; in a sample it comes first. */
static void put_lost(struct output *out, uint64_t count)
{
	struct perf_event_header header = { PERF_RECORD_LOST, 0, (uint16_t)(LOST_BYTES + trailer_bytes(out->ring)) };

	put(out, &header, sizeof(header));
	put_u64(out, out->ring->id);
	put_u64(out, count);
	put_fields(out, trailer_of(out->ring));
	if (trailer_of(out->ring) & PERF_SAMPLE_IDENTIFIER)
		put_u64(out, out->ring->id);
}

/* Payload bytes, then a gap up to the next multiple of 8 that keeps what was in the ring: perf skips it too. */
static void put_payload(struct output *out, uint64_t raw_bytes)
{
	uint32_t size = (uint32_t)raw_bytes;

	put(out, &size, sizeof(size));
	put(out, out->sample->data, out->sample->data_bytes);
	if (out->sample->extra_bytes)
		put(out, out->sample->extra, out->sample->extra_bytes);
	out->at += raw_bytes - out->sample->data_bytes - out->sample->extra_bytes;
}

/* Room for `need` bytes: one byte always stays free, so that a full ring is not an empty one. data_tail is the consumer's word: read once, any value is safe. */
static int has_room(const struct ring *ring, uint64_t head, uint64_t need)
{
	uint64_t tail = shm_load_acquire(&ring->page->data_tail), mask = ring->data_bytes - 1;

	if (ring->attr.flags & RING_OVERWRITE)
		return need <= ring->data_bytes;
	if (ring->attr.flags & RING_BACKWARD)
		return ((head - tail - 1) & mask) >= need;
	return ((tail - head - 1) & mask) >= need;
}

/* When sleepers are due: every `wakeup` bytes (half of the ring when not set), and every `wakeup` events if it counts those. */
static int is_due(const struct ring *ring, struct ring_state *state)
{
	uint64_t half = ring->data_bytes / 2, before = state->wakeup, step = half;
	uint64_t produced = ring->attr.flags & RING_BACKWARD ? -state->head : state->head;

	if (ring->attr.flags & RING_WATERMARK && ring->attr.wakeup)
		step = ring->attr.wakeup < ring->data_bytes ? ring->attr.wakeup : ring->data_bytes;
	if (produced - state->wakeup > step)
		state->wakeup += step;
	if (!(ring->attr.flags & RING_WATERMARK) && ring->attr.wakeup && ++state->events >= ring->attr.wakeup) {
		state->events -= ring->attr.wakeup;
		state->wakeup++;
	}
	return state->wakeup != before;
}

static void commit(struct ring *ring, const struct ring_state *state)
{
	uint32_t other = (shm_load(&ring->ctl->state_now) & 1) ^ 1;
	struct ring_state *to = &ring->ctl->state[other];

	shm_store(&to->head, state->head);
	shm_store(&to->sent, state->sent);
	shm_store(&to->lost_told, state->lost_told);
	shm_store(&to->wakeup, state->wakeup);
	shm_store(&to->events, state->events);
	SHM_POINT(ring_state_filled);
	shm_store_release(&ring->ctl->state_now, other);
	SHM_POINT(ring_committed);
	shm_store_release(&ring->page->data_head, state->head);
	SHM_POINT(ring_published);
}

static int lose(struct ring *ring)
{
	shm_store(&ring->ctl->lost, shm_load(&ring->ctl->lost) + 1);
	return -ENOSPC;
}

static int may_write(struct ring *ring, const struct ring_sample *sample)
{
	if (sample->cpu != ring->attr.cpu || !shm_load(&ring->ctl->enabled))
		return -EOPNOTSUPP;
	if (shm_load(&ring->ctl->paused) || shm_load(&ring->ctl->unmapped))
		return lose(ring);
	return 0;
}

int ring_output(struct ring *ring, struct shm_client *me, const struct ring_sample *sample)
{
	struct ring_state state = ring->ctl->state[shm_load(&ring->ctl->state_now) & 1];
	uint64_t type = ring->attr.sample_type, payload = sample->data_bytes + sample->extra_bytes;
	uint64_t raw = type & PERF_SAMPLE_RAW ? round8(4 + payload) - 4 : 0, size = 8 + fields_bytes(type) + (raw ? 4 + raw : 0);
	uint64_t untold = shm_load(&ring->ctl->lost) - state.lost_told, need = size + (untold ? LOST_BYTES + trailer_bytes(ring) : 0);
	struct perf_event_header header = { PERF_RECORD_SAMPLE, MISC_KERNEL, (uint16_t)size };
	struct output out = { ring, state.head, 0, sample };
	int due, err = may_write(ring, sample);

	if (shm_unlikely(err))
		return err;
	if (shm_unlikely(size > RING_RECORD_MAX || (ring->attr.flags & RING_OVERWRITE && need > ring->data_bytes)))
		return -E2BIG;
	if (shm_unlikely(!has_room(ring, state.head, need)))
		return lose(ring);
	if (type & PERF_SAMPLE_TIME)
		out.time_ns = shm_clock_ns(CLOCK_MONOTONIC);
	if (ring->attr.flags & RING_BACKWARD)
		out.at = state.head -= need;
	else
		state.head += need;
	due = is_due(ring, &state);
	if (shm_unlikely(untold)) {
		put_lost(&out, untold);
		state.lost_told += untold;
	}
	put(&out, &header, sizeof(header));
	if (type & PERF_SAMPLE_IDENTIFIER)
		put_u64(&out, ring->id);
	put_fields(&out, type);
	if (raw)
		put_payload(&out, raw);
	SHM_POINT(ring_written);
	state.sent++;
	commit(ring, &state);
	if (due)
		wake_up(ring->wake, me, "ring", ring->id, &ring->wake_fd);
	return 0;
}
