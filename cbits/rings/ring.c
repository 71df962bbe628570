/*
 * ring.c - a perf ring's segment: making, opening, checking. ring.h has the picture; write.c and read.c are its two sides.
 *
 * Untrusted: everything in the segment. Sizes and attributes are copied once, by ring_attach; positions are masked or bounded where they are used.
 */
#include "shm/atomic.h"
#include "shmbpf/ring.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum {
	FIELDS = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_ADDR | PERF_SAMPLE_ID | PERF_SAMPLE_CPU | PERF_SAMPLE_PERIOD | PERF_SAMPLE_STREAM_ID |
		 PERF_SAMPLE_RAW | PERF_SAMPLE_IDENTIFIER,
	FLAGS = RING_WATERMARK | RING_SAMPLE_ID_ALL | RING_BACKWARD | RING_OVERWRITE | RING_DISABLED,
	PERF_CAP_BIT0_IS_DEPRECATED = 2,
	PAGE_FIELDS_BYTES = 96,
};

_Static_assert(offsetof(struct perf_event_mmap_page, data_head) == 1024, "the UAPI layout");
_Static_assert(sizeof(struct shm_ring) <= SHM_PAGE, "one page");
_Static_assert(sizeof(struct ring_state) == 64 && offsetof(struct shm_ring, state) % 64 == 0, "a state is one cache line");

static uint64_t data_bytes(const struct ring_attr *attr)
{
	return (uint64_t)attr->pages * SHM_PAGE;
}

int ring_plan(const struct ring_attr *attr, uint32_t ncpu, uint64_t *bytes)
{
	if (attr->cpu >= ncpu)
		return -ENODEV;
	if (!attr->pages || attr->pages & (attr->pages - 1) || attr->pages > RING_MAX_PAGES)
		return -EINVAL;
	if (attr->sample_type & ~(uint64_t)FIELDS || attr->flags & ~(uint32_t)FLAGS)
		return -EINVAL;
	*bytes = 3 * SHM_PAGE + data_bytes(attr);
	return 0;
}

int ring_format(uint8_t *base, uint64_t bytes, const struct ring_attr *attr, uint32_t ncpu, uint32_t id, uint32_t consumer)
{
	struct perf_event_mmap_page *page = (struct perf_event_mmap_page *)base;
	struct shm_ring *ctl = (struct shm_ring *)(base + bytes - SHM_PAGE);
	uint64_t expected;
	int err = ring_plan(attr, ncpu, &expected);

	if (err || expected != bytes)
		return err ? err : -EINVAL;
	page->capabilities = PERF_CAP_BIT0_IS_DEPRECATED;
	page->size = PAGE_FIELDS_BYTES;
	page->data_offset = SHM_PAGE;
	page->data_size = data_bytes(attr);
	ctl->attr = *attr;
	ctl->enabled = !(attr->flags & RING_DISABLED);
	ctl->consumer = consumer;
	ctl->head.kind = SHM_KIND_RING;
	ctl->head.bytes = bytes;
	ctl->head.id = id;
	ctl->head.ncpu = ncpu;
	shm_publish(&ctl->head);
	return 0;
}

int ring_attach(struct ring *ring, uint8_t *base, uint64_t bytes)
{
	struct shm_head head;
	uint64_t expected;
	int err = shm_check_head(base, bytes, SHM_KIND_RING, &head);

	if (err)
		return err;
	memset(ring, 0, sizeof(*ring));
	ring->fd = ring->wake_fd = -1;
	ring->ctl = (struct shm_ring *)(base + bytes - SHM_PAGE);
	ring->attr = ring->ctl->attr;
	if (ring_plan(&ring->attr, head.ncpu, &expected) || expected != bytes)
		return -EINVAL;
	ring->base = base;
	ring->bytes = bytes;
	ring->id = head.id;
	ring->page = (struct perf_event_mmap_page *)base;
	ring->data = base + SHM_PAGE;
	ring->data_bytes = data_bytes(&ring->attr);
	ring->wake = (struct shm_wake *)(ring->data + ring->data_bytes);
	return 0;
}

int ring_open(struct ring *ring, struct shm_client *me, uint32_t id)
{
	char name[SHM_PREFIX_BYTES + 32];
	uint8_t *base;
	uint64_t bytes;
	int fd, err;

	snprintf(name, sizeof(name), "%s.ring.%u", me->prefix, id);
	fd = shm_open_segment(name, SHM_KIND_RING, &base, &bytes);
	if (fd < 0)
		return fd;
	err = ring_attach(ring, base, bytes);
	if (!err && ring->id != id)
		err = -EINVAL;
	if (err) {
		shm_unmap(base, bytes);
		close(fd);
		return err;
	}
	ring->fd = fd;
	return 0;
}

void ring_close(struct ring *ring)
{
	if (ring->wake_fd >= 0)
		close(ring->wake_fd);
	if (ring->fd >= 0) {
		shm_unmap(ring->base, ring->bytes);
		close(ring->fd);
	}
	ring->fd = ring->wake_fd = -1;
	ring->base = NULL;
}

static const struct ring_state *state_of(const struct ring *ring)
{
	return &ring->ctl->state[shm_load_acquire(&ring->ctl->state_now) & 1];
}

uint64_t ring_sent(const struct ring *ring)
{
	return shm_load(&state_of(ring)->sent);
}

uint64_t ring_lost(const struct ring *ring)
{
	return shm_load(&ring->ctl->lost);
}

int ring_recover(struct ring *ring)
{
	uint64_t head = shm_load(&state_of(ring)->head);

	if (shm_load_acquire(&ring->page->data_head) == head)
		return 0;
	shm_store_release(&ring->page->data_head, head);
	return 1;
}

int ring_check(struct ring *ring, char *why, uint32_t why_bytes)
{
	const struct ring_state *state = state_of(ring);
	uint64_t head = shm_load(&state->head);

	if (head % 8) {
		snprintf(why, why_bytes, "head %llu is not a multiple of 8", (unsigned long long)head);
		return -EUCLEAN;
	}
	if (shm_load(&state->lost_told) > shm_load(&ring->ctl->lost)) {
		snprintf(why, why_bytes, "LOST records tell of %llu losses, there were %llu", (unsigned long long)shm_load(&state->lost_told), (unsigned long long)shm_load(&ring->ctl->lost));
		return -EUCLEAN;
	}
	return 0;
}
