/*
 * ringbuf_reader.c - drains a BPF ring buffer by its public protocol alone (Documentation/bpf/ringbuf.rst): consumer page at offset 0, producer page, data.
 *
 *   ringbuf_reader TARGET DATA_BYTES [-1] [-q] [-d MICROSECONDS]
 *
 * TARGET is a file, or fd:N for an open descriptor. The kernel's map shows the data twice in a row; with -1 the file has it once, and the second sight of it is
 * mapped here. Every record becomes a line `S <hex>` (`D <bytes>` for a discarded one). With -q the first three words of each payload are a number, its complement
 * and a CPU, and there is one line for each CPU at the end: `received missing next torn`. -d pauses after each turn. `ready` is printed once the ring is mapped;
 * the reader ends when its standard input does and the ring is empty. Nothing of this project's is included.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/bpf.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, CPUS = 16 };

struct ring {
	uint64_t *consumer;
	const uint64_t *producer;
	const char *data;
	uint64_t bytes;
};

static struct counts { uint64_t received, missing, next, torn; } counted[CPUS];

static void count(const char *data, uint32_t bytes)
{
	uint64_t words[3];
	struct counts *now;

	memcpy(words, data, sizeof words);
	now = &counted[words[2] % CPUS];
	now->torn += bytes < sizeof words || words[1] != ~words[0] || words[2] >= CPUS;
	now->missing += words[0] - now->next;
	now->next = words[0] + 1;
	now->received++;
}

static void print(const char *data, uint32_t bytes, int discarded)
{
	if (discarded) {
		printf("D %u\n", bytes);
		return;
	}
	printf("S ");
	for (uint32_t i = 0; i < bytes; i++)
		printf("%02x", (unsigned char)data[i]);
	printf("\n");
}

/* Records read; *busy: the next one is still being written. */
static uint64_t drain(struct ring *ring, int counting, int *busy)
{
	uint64_t position = *ring->consumer, done = 0;
	uint64_t end = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);

	for (*busy = 0; position < end; done++) {
		const char *at = ring->data + (position & (ring->bytes - 1));
		uint32_t word = __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE);
		uint32_t bytes = word & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);

		if (word & BPF_RINGBUF_BUSY_BIT) {
			*busy = 1;
			break;
		}
		if (bytes > end - position - BPF_RINGBUF_HDR_SZ) {
			fprintf(stderr, "torn record at %llu: %u bytes\n", (unsigned long long)position, bytes);
			exit(3);
		}
		if (!counting)
			print(at + BPF_RINGBUF_HDR_SZ, bytes, !!(word & BPF_RINGBUF_DISCARD_BIT));
		else if (!(word & BPF_RINGBUF_DISCARD_BIT))
			count(at + BPF_RINGBUF_HDR_SZ, bytes);
		position += (BPF_RINGBUF_HDR_SZ + bytes + 7) / 8 * 8;
		__atomic_store_n(ring->consumer, position, __ATOMIC_RELEASE);
	}
	return done;
}

static int map_ring(struct ring *ring, int fd, uint64_t bytes, int once)
{
	char *seen = mmap(NULL, PAGE_BYTES + 2 * bytes, once ? PROT_NONE : PROT_READ, once ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, once ? -1 : fd,
			  once ? 0 : PAGE_BYTES);

	ring->consumer = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (seen == MAP_FAILED || ring->consumer == MAP_FAILED)
		return 1;
	if (once && (mmap(seen, PAGE_BYTES + bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, PAGE_BYTES) == MAP_FAILED ||
		     mmap(seen + PAGE_BYTES + bytes, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 2 * PAGE_BYTES) == MAP_FAILED))
		return 1;
	ring->producer = (const uint64_t *)seen;
	ring->data = seen + PAGE_BYTES;
	ring->bytes = bytes;
	return 0;
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	struct ring ring;
	int once = 0, counting = 0, delay = 0, option, ended = 0, busy;

	while ((option = getopt(argc, argv, "1qd:")) != -1) {
		once |= option == '1';
		counting |= option == 'q';
		if (option == 'd')
			delay = atoi(optarg);
	}
	if (argc - optind != 2)
		return 2;
	if (map_ring(&ring, strncmp(argv[optind], "fd:", 3) ? open(argv[optind], O_RDWR | O_CLOEXEC) : atoi(argv[optind] + 3), strtoull(argv[optind + 1], NULL, 0), once)) {
		perror("mmap");
		return 1;
	}
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		uint64_t done = drain(&ring, counting, &busy);

		if (ended && !done && !busy)
			break;
		if (delay)
			usleep(delay);
		if (!ended && poll(&input, 1, done || delay ? 0 : 1) > 0)
			ended = 1;
	}
	for (struct counts *now = counted; counting && now < counted + CPUS; now++)
		printf("%llu %llu %llu %llu\n", (unsigned long long)now->received, (unsigned long long)now->missing, (unsigned long long)now->next,
		       (unsigned long long)now->torn);
	return fflush(stdout) != 0;
}
