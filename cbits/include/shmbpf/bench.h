/*
 * bench.h - loops over map operations and program runs, so that a measurement contains no Python.
 *
 * Keys are u32 and values at least 8 bytes. The i-th operation uses key `i * multiplier & mask`, the same sequence that shmbpf/bench/maps.bpf.c makes in the
 * kernel: an odd multiplier visits every key once in mask + 1 steps. Maps are filled with multiplier 1 and measured with BENCH_KEY_MULTIPLIER, so that elements
 * do not lie in memory in the order in which they are visited, where a prefetcher would find them.
 *
 * Events are sent by calling the helper as a program would, `mask` bytes each; a consumer that keeps up is played by moving its position along.
 */
#ifndef SHMBPF_BENCH_H
#define SHMBPF_BENCH_H

#include "net.h"

enum bench_op {
	BENCH_LOOKUP = 0,             /* and read the value, as a program would */
	BENCH_UPDATE = 1,             /* of a key that is there */
	BENCH_INSERT_DELETE = 2,      /* a key that is not there, put in and taken out again: one operation */
	BENCH_PERF_OUTPUT = 3,        /* bpf_perf_event_output() into the slot of this CPU */
	BENCH_PERF_FILL = 4,          /* the same, with nobody who reads */
	BENCH_RINGBUF_OUTPUT = 5,     /* bpf_ringbuf_output() */
	BENCH_RINGBUF_FILL = 6,
};

enum bench_keys { BENCH_KEY_MULTIPLIER = 0x1e3779b1, BENCH_EVENT_MAX = 256 };

/* One measurement: set everything above `done`; bench_map fills the rest. */
struct bench_job {
	uint32_t op;                  /* enum bench_op */
	uint32_t mask;                /* number of keys - 1, a power of two minus 1; of events: bytes of each, at most BENCH_EVENT_MAX */
	uint32_t offset;              /* added to keys of BENCH_INSERT_DELETE, so that processes don't meet on one */
	uint32_t start;               /* the first operation's number; moved on by `done` */
	uint32_t multiplier;          /* odd */
	uint32_t reserved;
	uint64_t count;               /* operations */
	uint64_t done;
	uint64_t ns;                  /* CPU time of this thread: what other processes take from it does not count */
};

/* Runs a job. 0, or -errno of the first operation that failed (-ENOENT: a lookup found nothing). */
int bench_map(struct map *map, struct shm_client *me, struct bench_job *job);
/* bench_map's part for events; `me` holds a CPU. A helper's refusal ends the job: -ENOSPC, -EAGAIN: full. */
int bench_events(struct map *map, struct shm_client *me, struct bench_job *job);
/* Runs a bare program `count` times (as vm_run_bare) and stores the CPU time in *ns. 0, or the fault code. */
int bench_run_bare(struct vm_cpu *cpu, struct vm_prog *prog, uint8_t *mem, uint64_t len, uint64_t count, uint64_t *ret, uint64_t *ns);

#endif
