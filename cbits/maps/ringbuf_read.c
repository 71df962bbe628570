/*
 * ringbuf_read.c - BPF_MAP_TYPE_RINGBUF, the consumer's side. Everything a stock reader does (libbpf's ringbuf_process_ring()), and one thing more: a record at the
 * head of the ring whose producer has died is discarded, so that it stops nobody.
 *
 * consumer_pos is the consumer's alone and is stored after each record: one that dies leaves what it has not finished to the next. A position that makes no
 * sense (something has written over it) cannot be put right, because nothing says where records begin: what is unread is skipped.
 */
#include "ringbuf_core.h"

#include <sys/timerfd.h>
#include <time.h>

/* What lies at the consumer's position. */
struct head {
	uint64_t pos;
	uint64_t unread;
	uint32_t payload;
	uint32_t discarded;
	uint64_t bytes;               /* of the whole record */
};

static void consume(struct map *map, uint64_t pos)
{
	shm_store_release(ringbuf_consumer_pos(map), pos);
	SHM_POINT(ringbuf_read_consumed);
}

static int skip_everything(struct map *map, uint64_t producer_pos)
{
	consume(map, producer_pos);
	return -EUCLEAN;
}

/* 1: a finished record; 0: none (yet); -EUCLEAN. */
static int look(struct map *map, struct shm_client *me, uint64_t pos, struct head *head)
{
	uint64_t producer_pos = shm_load_acquire(ringbuf_producer_pos(map));
	union ringbuf_header header;

	head->pos = pos;
	head->unread = producer_pos - pos;
	if (!head->unread)
		return 0;
	if (head->unread > map->max_entries || pos % 8)
		return skip_everything(map, producer_pos);
	header = ringbuf_header_load(map, pos);
	if (header.len & BPF_RINGBUF_BUSY_BIT) {
		ringbuf_repair(map, me, pos);
		header = ringbuf_header_load(map, pos);
		if (header.len & BPF_RINGBUF_BUSY_BIT)
			return 0;
	}
	head->payload = ringbuf_payload(header);
	head->discarded = header.len & BPF_RINGBUF_DISCARD_BIT;
	head->bytes = ringbuf_record_bytes(head->payload);
	return head->bytes <= head->unread ? 1 : skip_everything(map, producer_pos);
}

int ringbuf_read(struct map *map, struct shm_client *me, struct ring_record *records, uint32_t room, uint8_t *buffer, uint64_t buffer_bytes)
{
	uint64_t used = 0;
	uint32_t count = 0;

	if (map->type != BPF_MAP_TYPE_RINGBUF)
		return -EINVAL;
	while (count < room) {
		struct head head;
		int got = look(map, me, shm_load(ringbuf_consumer_pos(map)), &head);

		if (got <= 0)
			return count ? (int)count : got;
		if (!head.discarded) {
			if (head.payload > buffer_bytes - used)
				return count ? (int)count : -ENOSPC;
			shm_copy_out(buffer + used, (uint8_t *)ringbuf_header_at(map, head.pos) + BPF_RINGBUF_HDR_SZ, head.payload);
			records[count++] = (struct ring_record){ .type = PERF_RECORD_SAMPLE, .cpu = UINT32_MAX, .off = used, .bytes = head.payload };
			used += head.payload;
			SHM_POINT(ringbuf_read_copied);
		}
		consume(map, head.pos + head.bytes);
	}
	return (int)count;
}

int64_t ringbuf_peek(struct map *map, struct shm_client *me, uint64_t limit, const uint8_t **start)
{
	uint64_t pos = shm_load(ringbuf_consumer_pos(map)), bytes = 0;
	struct head head;
	int got;

	if (map->type != BPF_MAP_TYPE_RINGBUF)
		return -EINVAL;
	while ((got = look(map, me, pos + bytes, &head)) > 0 && (!bytes || bytes + head.bytes <= limit))
		bytes += head.bytes;
	if (got < 0)
		return got;
	*start = (const uint8_t *)ringbuf_header_at(map, pos);
	return (int64_t)bytes;
}

void ringbuf_consume(struct map *map, uint64_t bytes)
{
	if (map->type == BPF_MAP_TYPE_RINGBUF)
		consume(map, shm_load(ringbuf_consumer_pos(map)) + bytes);
}

uint64_t ringbuf_unread(const struct map *map)
{
	uint64_t consumer_pos;

	if (!(map->ops->caps & (MAP_CAP_RINGBUF | MAP_CAP_USER_RINGBUF)))
		return 0;
	consumer_pos = shm_load_acquire(ringbuf_consumer_pos(map));
	return shm_load_acquire(ringbuf_producer_pos(map)) - consumer_pos;
}

uint32_t ringbuf_stalled(const struct map *map)
{
	uint64_t unread = ringbuf_unread(map);

	if (!unread || unread > map->max_entries)
		return 0;
	return ringbuf_header_load(map, shm_load(ringbuf_consumer_pos(map))).len & BPF_RINGBUF_BUSY_BIT ? 1 : 0;
}

int ringbuf_alarm_open(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

int ringbuf_alarm_set(int fd, uint64_t ns)
{
	struct itimerspec when = { .it_value = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) } };

	return timerfd_settime(fd, 0, &when, NULL) ? -errno : 0;
}
