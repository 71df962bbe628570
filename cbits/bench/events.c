/*
 * events.c - measured loops that send events: a helper called again and again, as a program in a loop would do it. A consumer that keeps up is played by moving
 * its position to the producer's after every BATCH events; a real one does it on another CPU.
 */
#define _GNU_SOURCE
#include "shm/atomic.h"
#include "shmbpf/bench.h"
#include "shmbpf/ring.h"
#include "shmbpf/ringbuf.h"

#include <errno.h>
#include <time.h>

enum { PERF_EVENT_OUTPUT = 25, RINGBUF_OUTPUT = 130, BATCH = 64 };

static const uint64_t CURRENT_CPU = 0xffffffff;

/* Where a consumer's position lies, and the producer's that it is to follow. */
struct positions {
	uint64_t *consumer;
	const uint64_t *producer;
};

static int send_perf(struct vm_cpu *cpu, vm_helper_fn fn, struct map *map, const uint8_t *data, uint64_t bytes)
{
	return (int)fn(cpu, 0, (uintptr_t)map, CURRENT_CPU, (uintptr_t)data, bytes);
}

static int send_ringbuf(struct vm_cpu *cpu, vm_helper_fn fn, struct map *map, const uint8_t *data, uint64_t bytes)
{
	return (int)fn(cpu, (uintptr_t)map, (uintptr_t)data, bytes, 0, 0);
}

typedef int (*sender)(struct vm_cpu *cpu, vm_helper_fn fn, struct map *map, const uint8_t *data, uint64_t bytes);

static inline __attribute__((always_inline)) int repeat(struct vm_cpu *cpu, uint32_t helper, struct map *map, struct bench_job *job, const struct positions *at,
							 sender send)
{
	uint8_t data[BENCH_EVENT_MAX] = { 1 };
	vm_helper_fn fn = vm_helper_of(helper)->fn;
	uint64_t begun = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID), done = 0, count = job->count;
	int err = 0;

	for (; done < count && !err; done++) {
		err = send(cpu, fn, map, data, job->mask);
		if (at->consumer && done % BATCH == 0)
			shm_store_release(at->consumer, shm_load(at->producer));
	}
	job->ns = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
	job->done = done - (err != 0);
	job->start += (uint32_t)done;
	return err;
}

static int perf_output(struct vm_cpu *cpu, struct map *map, struct bench_job *job)
{
	int err = 0;
	struct ring *ring = perf_array_ring(map, cpu->client, cpu->cpu, &err);
	struct positions at = { NULL, NULL };

	if (!ring)
		return err;
	if (job->op == BENCH_PERF_OUTPUT)
		at = (struct positions){ &ring->page->data_tail, &ring->page->data_head };
	return repeat(cpu, PERF_EVENT_OUTPUT, map, job, &at, send_perf);
}

static int ringbuf_send(struct vm_cpu *cpu, struct map *map, struct bench_job *job)
{
	struct positions at = { NULL, NULL };

	if (job->op == BENCH_RINGBUF_OUTPUT)
		at = (struct positions){ (uint64_t *)map->base, (const uint64_t *)(map->base + RINGBUF_PRODUCER_OFF) };
	return repeat(cpu, RINGBUF_OUTPUT, map, job, &at, send_ringbuf);
}

int bench_events(struct map *map, struct shm_client *me, struct bench_job *job)
{
	int is_perf = job->op == BENCH_PERF_OUTPUT || job->op == BENCH_PERF_FILL, err;
	struct vm_cpu *cpu;

	if (job->mask > BENCH_EVENT_MAX || job->op > BENCH_RINGBUF_FILL || map->type != (is_perf ? BPF_MAP_TYPE_PERF_EVENT_ARRAY : BPF_MAP_TYPE_RINGBUF))
		return -EINVAL;
	cpu = vm_cpu_new(me, NULL, me->cpu);
	if (!cpu)
		return -ENOMEM;
	err = is_perf ? perf_output(cpu, map, job) : ringbuf_send(cpu, map, job);
	vm_cpu_free(cpu);
	return err;
}
