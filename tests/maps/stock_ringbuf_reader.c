/*
 * A consumer of BPF ring buffers that knows nothing but their public protocol (Linux's include/uapi/linux/bpf.h and what mmap of such a map shows): the file of
 * the map, its size in bytes, and how many records to read. Records carry {u32 producer, u32 number}; it prints how many of each of two producers came in order, and
 * a sum over all bytes.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, HEADER = 8 };

static const uint32_t busy = 1u << 31, discard = 1u << 30;

static uint8_t *map_at(void *where, size_t bytes, int fd, off_t off, int writable)
{
	void *got = mmap(where, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | (where ? MAP_FIXED : 0), fd, off);

	if (got == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return got;
}

int main(int argc, char **argv)
{
	size_t size = strtoul(argv[2], NULL, 0), wanted = strtoul(argv[3], NULL, 0), got = 0;
	int fd = argc == 4 ? open(argv[1], O_RDWR) : -1;
	uint64_t *consumer = (uint64_t *)map_at(NULL, PAGE, fd, 0, 1), pos, sum = 0;
	uint64_t *producer = (uint64_t *)map_at(NULL, PAGE, fd, PAGE, 0);
	uint8_t *data = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t next[2] = { 0, 0 };

	map_at(data, size, fd, 2 * PAGE, 0);
	map_at(data + size, size, fd, 2 * PAGE, 0);
	pos = __atomic_load_n(consumer, __ATOMIC_ACQUIRE);
	while (got < wanted) {
		uint8_t *record = data + (pos & (size - 1));
		uint32_t len, payload, words[2];

		if (pos == __atomic_load_n(producer, __ATOMIC_ACQUIRE) || (len = __atomic_load_n((uint32_t *)record, __ATOMIC_ACQUIRE)) & busy) {
			sched_yield();
			continue;
		}
		payload = len & ~discard;
		if (!(len & discard)) {
			memcpy(words, record + HEADER, sizeof(words));
			if (words[0] > 1 || words[1] != next[words[0]]++)
				return 2;
			for (uint32_t i = 0; i < payload; i++)
				sum += record[HEADER + i];
			got++;
		}
		pos += (payload + HEADER + 7) / 8 * 8;
		__atomic_store_n(consumer, pos, __ATOMIC_RELEASE);
	}
	printf("%u %u %llu\n", next[0], next[1], (unsigned long long)sum);
	return 0;
}
