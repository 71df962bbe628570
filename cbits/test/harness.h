/*
 * harness.h - a namespace in anonymous memory for C tests and benchmarks: control segment and maps on memfds, no names, nothing to clean up.
 */
#ifndef SHMBPF_TEST_HARNESS_H
#define SHMBPF_TEST_HARNESS_H

#include "shmbpf/map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DIE_IF(condition)                                                             \
	do {                                                                          \
		if (condition) {                                                      \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                      \
		}                                                                     \
	} while (0)

struct memory {
	int fd;
	uint8_t *base;
	uint64_t bytes;
};

static inline struct memory make_memory(uint64_t bytes)
{
	struct memory m = { .fd = memfd_create("shmbpf-test", MFD_CLOEXEC), .bytes = bytes };

	DIE_IF(m.fd < 0 || ftruncate(m.fd, (off_t)bytes) != 0 || shm_map_fd(m.fd, bytes, 1, &m.base) != 0);
	return m;
}

static inline struct memory make_ctl(uint32_t ncpu)
{
	struct memory m = make_memory(shm_ctl_bytes());

	shm_ctl_init(m.base, m.bytes);
	shm_ctl_of(m.base, m.bytes)->possible_cpus = ncpu;
	shm_publish(&shm_ctl_of(m.base, m.bytes)->head);
	return m;
}

static inline struct memory make_map(struct map *map, uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries, uint32_t ncpu)
{
	struct map_attr attr = { .type = type, .key_size = key_size, .value_size = value_size, .max_entries = max_entries, .ncpu = ncpu, .spin_lock_off = MAP_NO_SPIN_LOCK };
	struct map_layout layout;
	struct memory m;

	DIE_IF(map_plan(&attr, &layout) != 0);
	m = make_memory(layout.total);
	DIE_IF(map_format(m.base, &attr, 1, NULL) != 0 || map_attach(map, m.base, m.bytes) != 0);
	return m;
}

#endif
