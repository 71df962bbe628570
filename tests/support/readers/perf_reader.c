/*
 * perf_reader.c - drains one perf ring by the public mmap protocol alone (include/uapi/linux/perf_event.h): first page, data, data_head, data_tail.
 *
 *   perf_reader TARGET DATA_PAGES [-q STATE] [-d MICROSECONDS]
 *
 * TARGET is a file, or fd:N for an open descriptor, of a ring with sample_type PERF_SAMPLE_RAW. Every record becomes a line, `S <hex>` or `L <count>`. With -q the
 * first 8 bytes of each payload are a sequence number, the next 8 its complement, and STATE, a file of at least 4096 bytes, is kept up to date instead (struct
 * state): it is right at every moment, so a reader may be killed and another go on with it. -d pauses after each turn. `ready` is printed once the ring is mapped;
 * the reader ends when its standard input does and the ring is empty. Structures are the system's, nothing of this project's is included.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What has been seen so far. `position` is data_tail after the last record counted; `side` says which of the two copies is whole. */
struct state {
	uint64_t side;
	struct counts { uint64_t position, received, lost, missing, first, next, torn; } copy[2];
};

static char record[65536 + 64];

static const char *whole_record(const char *data, uint64_t size, uint64_t at, struct perf_event_header *header)
{
	uint64_t off = at & (size - 1), part;

	memcpy(header, data + off, sizeof *header);
	part = header->size < size - off ? header->size : size - off;
	memcpy(record, data + off, part);
	memcpy(record + part, data, header->size - part);
	return record;
}

static void print_record(const struct perf_event_header *header, const char *bytes)
{
	uint32_t size;
	uint64_t count;

	if (header->type == PERF_RECORD_LOST) {
		memcpy(&count, bytes + 16, 8);
		printf("L %llu\n", (unsigned long long)count);
		return;
	}
	memcpy(&size, bytes + 8, 4);
	if (size > header->size - 12u) {
		fprintf(stderr, "a sample of %u bytes in a record of %u\n", size, header->size);
		exit(3);
	}
	printf("S ");
	for (uint32_t i = 0; i < size; i++)
		printf("%02x", (unsigned char)bytes[12 + i]);
	printf("\n");
}

static void count_record(struct state *state, const struct perf_event_header *header, const char *bytes, uint64_t next_position)
{
	struct counts now = state->copy[state->side];
	uint64_t value, check;

	memcpy(&value, bytes + (header->type == PERF_RECORD_LOST ? 16 : 12), 8);
	if (header->type == PERF_RECORD_LOST) {
		now.lost += value;
	} else {
		memcpy(&check, bytes + 20, 8);
		now.torn += header->size < 28 || check != ~value;
		if (!now.received)
			now.first = now.next = value;
		now.missing += value - now.next;
		now.next = value + 1;
		now.received++;
	}
	now.position = next_position;
	state->copy[!state->side] = now;
	__atomic_store_n(&state->side, !state->side, __ATOMIC_RELEASE);
}

static uint64_t drain(struct perf_event_mmap_page *page, struct state *state)
{
	const char *data = (const char *)page + page->data_offset;
	uint64_t size = page->data_size, tail = page->data_tail, done = 0;
	uint64_t head = __atomic_load_n(&page->data_head, __ATOMIC_ACQUIRE);

	if (state && state->copy[state->side].position > tail)
		tail = state->copy[state->side].position;
	while (tail != head) {
		struct perf_event_header header;
		const char *bytes = whole_record(data, size, tail, &header);

		if (header.size < 8 || header.size > head - tail) {
			fprintf(stderr, "torn record at %llu: %u bytes\n", (unsigned long long)tail, header.size);
			exit(3);
		}
		if (state)
			count_record(state, &header, bytes, tail + header.size);
		else
			print_record(&header, bytes);
		tail += header.size;
		__atomic_store_n(&page->data_tail, tail, __ATOMIC_RELEASE);
		done++;
	}
	return done;
}

static int open_target(const char *target)
{
	return strncmp(target, "fd:", 3) ? open(target, O_RDWR | O_CLOEXEC) : atoi(target + 3);
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	struct perf_event_mmap_page *page;
	struct state *state = NULL;
	int delay = 0, option, ended = 0;

	while ((option = getopt(argc, argv, "q:d:")) != -1) {
		if (option == 'd')
			delay = atoi(optarg);
		else if (option == 'q')
			state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(optarg, O_RDWR), 0);
		else
			return 2;
	}
	if (argc - optind != 2)
		return 2;
	page = mmap(NULL, (1 + (size_t)atoi(argv[optind + 1])) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open_target(argv[optind]), 0);
	if (page == MAP_FAILED || state == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		uint64_t done = drain(page, state);

		if (ended && !done)
			return fflush(stdout) != 0;
		if (delay)
			usleep(delay);
		if (!ended && poll(&input, 1, done || delay ? 0 : 1) > 0)
			ended = 1;
	}
}
