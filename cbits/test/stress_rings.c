/*
 * stress_rings.c - perf rings and ring buffers under sanitizers: producers and consumers as threads, then a consumer that writes nonsense.
 *
 * Every record carries its producer's number, a sequence number and a pattern made from both, so a torn, lost or repeated one is seen at once.
 */
#define _GNU_SOURCE
#include "harness.h"
#include "shm/atomic.h"
#include "shmbpf/bpf.h"
#include "shmbpf/ring.h"
#include "shmbpf/ringbuf.h"

#include <pthread.h>
#include <sched.h>

enum { PRODUCERS = 3, RECORDS = 60000, LIES = 20000, WORDS = 6 };

struct record {
	uint64_t producer;
	uint64_t seq;
	uint64_t pattern[WORDS];
};

static struct memory ctl;
static struct map buffer;
static struct ring ring;
static uint32_t running;

static void fill(struct record *record, uint64_t producer, uint64_t seq)
{
	record->producer = producer;
	record->seq = seq;
	for (int i = 0; i < WORDS; i++)
		record->pattern[i] = producer * 0x9e3779b97f4a7c15ull ^ (seq + (uint64_t)i);
}

static void expect_whole(const struct record *record)
{
	struct record made;

	fill(&made, record->producer, record->seq);
	DIE_IF(memcmp(&made, record, sizeof(made)) != 0);
}

/* ---- ring buffer: some producers reserve and commit, some output ---- */

static void *produce_buffer(void *number)
{
	uint64_t producer = (uintptr_t)number, sent = 0;
	struct shm_client me;

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, (uint32_t)producer, "producer") != 0);
	while (sent < RECORDS) {
		struct record record, *place;

		fill(&record, producer, sent);
		if (producer == 0) {
			if (ringbuf_output(&buffer, &me, &record, sizeof(record), 0) != 0)
				sched_yield();
			else
				sent++;
			continue;
		}
		place = (struct record *)ringbuf_reserve(&buffer, &me, sizeof(record));
		if (!place) {
			sched_yield();
			continue;
		}
		if (sent % 7 == 3)
			ringbuf_commit(&buffer, &me, (uint8_t *)place, 0, 1), place = NULL;
		if (place) {
			memcpy(place, &record, sizeof(record));
			ringbuf_commit(&buffer, &me, (uint8_t *)place, 0, 0);
		}
		sent++;
	}
	shm_client_detach(&me);
	__atomic_fetch_sub(&running, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void expect_next(uint64_t *next, const struct record *record)
{
	expect_whole(record);
	DIE_IF(record->producer >= PRODUCERS || record->seq < next[record->producer]);
	next[record->producer] = record->seq + 1;
}

static void test_buffer(void)
{
	static uint8_t bytes[1 << 16];
	struct ring_record records[64];
	struct memory memory = make_map(&buffer, BPF_MAP_TYPE_RINGBUF, 0, 0, 16384, PRODUCERS);
	uint64_t next[PRODUCERS] = { 0 }, received = 0;
	pthread_t thread[PRODUCERS];
	struct shm_client me;
	char why[160];

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, SHM_NO_CPU, "consumer") != 0);
	running = PRODUCERS;
	for (uintptr_t i = 0; i < PRODUCERS; i++)
		DIE_IF(pthread_create(&thread[i], NULL, produce_buffer, (void *)i) != 0);
	for (;;) {
		uint32_t last = __atomic_load_n(&running, __ATOMIC_ACQUIRE) == 0;
		int count = ringbuf_read(&buffer, &me, records, 64, bytes, sizeof(bytes));

		DIE_IF(count < 0);
		for (int i = 0; i < count; i++, received++)
			expect_next(next, (const struct record *)(bytes + records[i].off));
		if (last && !count)
			break;
	}
	for (int i = 0; i < PRODUCERS; i++)
		pthread_join(thread[i], NULL);
	DIE_IF(received != RECORDS + (PRODUCERS - 1) * (uint64_t)(RECORDS - (RECORDS + 3) / 7));
	DIE_IF(map_check(&buffer, &me, why, sizeof(why)) != 0);
	map_detach(&buffer);
	shm_unmap(memory.base, memory.bytes);
	close(memory.fd);
	shm_client_detach(&me);
}

/* ---- perf ring: one producer ---- */

static struct memory make_ring(uint32_t flags)
{
	struct ring_attr attr = { .sample_type = PERF_SAMPLE_RAW | PERF_SAMPLE_TIME, .cpu = 0, .pages = 2, .wakeup = 1, .flags = flags };
	struct memory m;
	uint64_t bytes;

	DIE_IF(ring_plan(&attr, 1, &bytes) != 0);
	m = make_memory(bytes);
	DIE_IF(ring_format(m.base, bytes, &attr, 1, 1, 0) != 0 || ring_attach(&ring, m.base, bytes) != 0);
	return m;
}

static void *produce_ring(void *count)
{
	struct ring mine = ring;
	struct shm_client me;

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, 0, "producer") != 0);
	for (uint64_t seq = 0; seq < (uintptr_t)count; seq++) {
		struct record record;
		struct ring_sample sample = { .data = (const uint8_t *)&record, .data_bytes = sizeof(record) };

		fill(&record, 0, seq);
		if (ring_output(&mine, &me, &sample) != 0)
			sched_yield();
	}
	shm_client_detach(&me);
	__atomic_store_n(&running, 0, __ATOMIC_RELEASE);
	return NULL;
}

static void test_ring(void)
{
	static uint8_t bytes[1 << 16];
	struct ring_record records[64];
	struct memory memory = make_ring(0);
	uint64_t next = 0, received = 0, lost = 0;
	pthread_t thread;
	char why[160];

	running = 1;
	DIE_IF(pthread_create(&thread, NULL, produce_ring, (void *)(uintptr_t)RECORDS) != 0);
	for (;;) {
		uint32_t last = __atomic_load_n(&running, __ATOMIC_ACQUIRE) == 0;
		int count = ring_read(&ring, records, 64, bytes, sizeof(bytes));

		for (int i = 0; i < count; i++) {
			if (records[i].type == PERF_RECORD_LOST) {
				lost += records[i].lost;
				next += records[i].lost;
				continue;
			}
			expect_whole((const struct record *)(bytes + records[i].off));
			DIE_IF(((const struct record *)(bytes + records[i].off))->seq != next++);
			received++;
		}
		if (last && !count)
			break;
	}
	pthread_join(thread, NULL);
	DIE_IF(received != ring_sent(&ring) || received + ring_lost(&ring) != RECORDS || lost > ring_lost(&ring));
	DIE_IF(ring_check(&ring, why, sizeof(why)) != 0);
	shm_unmap(memory.base, memory.bytes);
	close(memory.fd);
}

/* ---- liars: nothing may be written or read out of bounds, whatever stands in the pages a consumer can write ---- */

static uint64_t draw(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return *state >> 16;
}

static void test_lies(uint32_t flags)
{
	static uint8_t bytes[1 << 16], bounce[1 << 16];
	struct memory memory = make_ring(flags);
	struct ring_record records[16];
	uint64_t state = flags + 1, size;
	struct shm_client me;
	const uint8_t *start;

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, 0, "liar") != 0);
	for (int i = 0; i < LIES; i++) {
		struct record record = { .seq = (uint64_t)i };
		struct ring_sample sample = { .data = (const uint8_t *)&record, .data_bytes = draw(&state) % (sizeof(record) + 1) };
		uint64_t *word = (uint64_t *)(memory.base + (draw(&state) % 3 ? 1024 + 8 * (draw(&state) % 2) : draw(&state) % (3 * SHM_PAGE) & ~7ull));

		*word = draw(&state) % 3 ? draw(&state) : *word + 8 * (draw(&state) % 16);
		ring_output(&ring, &me, &sample);
		ring_read(&ring, records, 16, bytes, draw(&state) % sizeof(bytes));
		if (ring_peek(&ring, bounce, &start, &size) == 0 && size) {
			memcpy(bytes, start, size < sizeof(bytes) ? size : sizeof(bytes));
			ring_consume(&ring, size);
		}
	}
	shm_client_detach(&me);
	shm_unmap(memory.base, memory.bytes);
	close(memory.fd);
}

static void test_buffer_lies(void)
{
	static uint8_t bytes[1 << 16];
	struct memory memory = make_map(&buffer, BPF_MAP_TYPE_RINGBUF, 0, 0, 8192, 1);
	struct ring_record records[16];
	uint64_t state = 5;
	struct shm_client me;

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, 0, "liar") != 0);
	me.busy_ns = 1000000;
	for (int i = 0; i < LIES; i++) {
		uint64_t *word = (uint64_t *)(memory.base + (draw(&state) % 4 ? 0 : (draw(&state) % (4 * SHM_PAGE)) & ~7ull));

		*word = draw(&state) % 3 ? draw(&state) : *word + 8 * (draw(&state) % 16);
		ringbuf_output(&buffer, &me, bytes, draw(&state) % 200, 0);
		ringbuf_read(&buffer, &me, records, 16, bytes, sizeof(bytes));
	}
	map_detach(&buffer);
	shm_unmap(memory.base, memory.bytes);
	close(memory.fd);
	shm_client_detach(&me);
}

int main(void)
{
	ctl = make_ctl(PRODUCERS);
	test_ring();
	test_buffer();
	test_lies(0);
	test_lies(RING_BACKWARD);
	test_lies(RING_BACKWARD | RING_OVERWRITE);
	test_lies(RING_SAMPLE_ID_ALL);
	test_buffer_lies();
	puts("stress_rings: ok");
	return 0;
}
