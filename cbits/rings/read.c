/*
 * read.c - the consumer of a perf ring: whoever made it.
 *
 * Linux's protocol: load data_head (acquire), read up to there, store data_tail (release). The bytes are the producer's word, and other processes of this user
 * might write them too: each length is read once and bounded. What makes no sense is skipped up to the head, and counted in ring->broken.
 */
#include "shm/atomic.h"
#include "shmbpf/ring.h"

#include <errno.h>

static uint64_t mask_of(const struct ring *ring)
{
	return ring->data_bytes - 1;
}

/* Copies out of the ring, around its end if need be. */
static void get(const struct ring *ring, uint64_t at, void *to, uint64_t bytes)
{
	uint64_t off = at & mask_of(ring), first = ring->data_bytes - off;

	if (shm_likely(bytes <= first)) {
		memcpy(to, ring->data + off, bytes);
		return;
	}
	memcpy(to, ring->data + off, first);
	memcpy((uint8_t *)to + first, ring->data, bytes - first);
}

static uint64_t get_u64(const struct ring *ring, uint64_t at)
{
	uint64_t value;

	get(ring, at, &value, sizeof(value));
	return value;
}

/* Where reading begins and how many bytes follow. A backward ring is read from its newest record on. */
static uint64_t span(struct ring *ring, uint64_t *at)
{
	uint64_t head = shm_load_acquire(&ring->page->data_head), tail = shm_load(&ring->page->data_tail), bytes;

	if (ring->attr.flags & RING_BACKWARD) {
		*at = head;
		bytes = ring->attr.flags & RING_OVERWRITE ? -head : tail - head;
		if (ring->attr.flags & RING_OVERWRITE && bytes > ring->data_bytes)
			bytes = ring->data_bytes;
	} else {
		*at = tail;
		bytes = head - tail;
	}
	if (shm_likely(bytes <= ring->data_bytes && !(bytes & 7)))
		return bytes;
	/* somebody scribbled over the page: go on with what comes from here on */
	ring->broken++;
	*at = head;
	shm_store_release(&ring->page->data_tail, head);
	return 0;
}

static int is_sane(const struct perf_event_header *header, uint64_t left)
{
	return header->size >= sizeof(*header) && !(header->size & 7) && header->size <= left;
}

/* Offset of the first field of `wanted`, in the order in which samples have them; 0 when the record lacks it. */
static uint64_t field_off(uint64_t sample_type, uint64_t wanted)
{
	static const uint32_t order[] = { PERF_SAMPLE_IDENTIFIER, PERF_SAMPLE_IP, PERF_SAMPLE_TID, PERF_SAMPLE_TIME, PERF_SAMPLE_ADDR,
					  PERF_SAMPLE_ID, PERF_SAMPLE_STREAM_ID, PERF_SAMPLE_CPU, PERF_SAMPLE_PERIOD, PERF_SAMPLE_RAW };
	uint64_t off = sizeof(struct perf_event_header);

	if (!(sample_type & wanted))
		return 0;
	for (uint32_t i = 0; order[i] != wanted; i++)
		if (sample_type & order[i])
			off += 8;
	return off;
}

/* 1: taken. 0: its payload does not fit. -1: it makes no sense. */
static int parse(struct ring *ring, uint64_t at, const struct perf_event_header *header, struct ring_record *record, uint8_t *buffer, uint64_t room)
{
	uint64_t time = field_off(ring->attr.sample_type, PERF_SAMPLE_TIME), raw = field_off(ring->attr.sample_type, PERF_SAMPLE_RAW);
	uint32_t bytes;

	memset(record, 0, sizeof(*record));
	record->type = header->type;
	record->misc = header->misc;
	record->cpu = ring->attr.cpu;
	if (header->type == PERF_RECORD_LOST) {
		if (header->size < 24)
			return -1;
		record->lost = get_u64(ring, at + 16);
		return 1;
	}
	if (header->type != PERF_RECORD_SAMPLE)
		return 1;
	if (time && time + 8 <= header->size)
		record->time_ns = get_u64(ring, at + time);
	if (!raw)
		return 1;
	if (raw + 4 > header->size)
		return -1;
	get(ring, at + raw, &bytes, sizeof(bytes));
	if (bytes > header->size - raw - 4)
		return -1;
	if (bytes > room)
		return 0;
	get(ring, at + raw + 4, buffer, bytes);
	record->bytes = bytes;
	return 1;
}

int ring_read(struct ring *ring, struct ring_record *records, uint32_t room, uint8_t *buffer, uint64_t buffer_bytes)
{
	uint64_t at, left = span(ring, &at), newest = at, used = 0;
	uint32_t done = 0;

	if ((ring->attr.flags & (RING_OVERWRITE | RING_BACKWARD)) == RING_OVERWRITE)
		return -EOPNOTSUPP;
	while (left && done < room) {
		struct perf_event_header header;
		int taken;

		get(ring, at, &header, sizeof(header));
		/* a backward ring that has gone around ends in the middle of a record */
		if (!is_sane(&header, left) && ring->attr.flags & RING_OVERWRITE)
			break;
		taken = is_sane(&header, left) ? parse(ring, at, &header, &records[done], buffer + used, buffer_bytes - used) : -1;
		if (!taken)
			break;
		if (taken < 0) {
			ring->broken++;
			at += left;
			break;
		}
		records[done].off = used;
		used += (records[done++].bytes + 7) & ~7u;
		used = used < buffer_bytes ? used : buffer_bytes;
		at += header.size;
		left -= header.size;
	}
	if (!(ring->attr.flags & RING_BACKWARD))
		shm_store_release(&ring->page->data_tail, at);
	else if (!(ring->attr.flags & RING_OVERWRITE) && !left)
		shm_store_release(&ring->page->data_tail, newest);
	return (int)done;
}

int ring_peek(struct ring *ring, uint8_t *bounce, const uint8_t **start, uint64_t *bytes)
{
	uint64_t at, left = span(ring, &at), first = ring->data_bytes - (at & mask_of(ring)), whole = 0;
	struct perf_event_header header;

	*start = ring->data + (at & mask_of(ring));
	*bytes = 0;
	if (ring->attr.flags & (RING_OVERWRITE | RING_BACKWARD))
		return -EOPNOTSUPP;
	if (left <= first) {          /* nothing wraps: no need to look at every record */
		*bytes = left;
		return 0;
	}
	while (whole < first) {
		get(ring, at + whole, &header, sizeof(header));
		if (!is_sane(&header, left - whole)) {
			ring->broken++;
			shm_store_release(&ring->page->data_tail, at + left);
			return 0;
		}
		if (whole + header.size > first)
			break;
		whole += header.size;
	}
	*bytes = whole;
	if (whole)
		return 0;
	get(ring, at, bounce, header.size);
	*start = bounce;
	*bytes = header.size;
	return 0;
}

void ring_consume(struct ring *ring, uint64_t bytes)
{
	shm_store_release(&ring->page->data_tail, shm_load(&ring->page->data_tail) + bytes);
}

uint64_t ring_unread(const struct ring *ring)
{
	uint64_t head = shm_load_acquire(&ring->page->data_head), tail = shm_load(&ring->page->data_tail);

	return ring->attr.flags & RING_BACKWARD ? tail - head : head - tail;
}
