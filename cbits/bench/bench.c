/*
 * bench.c - measured loops. Only the operation is in a loop, called as helpers call it; each operation is a function of its own with the loop inlined, so
 * no operation pays for choosing among the others.
 */
#define _GNU_SOURCE
#include "maps/lookup.h"
#include "shmbpf/bench.h"

#include <errno.h>
#include <time.h>

typedef int (*operation)(struct map *map, struct shm_client *me, uint32_t key, uint64_t *sum);

static inline int lookup(struct map *map, struct shm_client *me, uint32_t key, uint64_t *sum)
{
	const uint64_t *value = map_prog_lookup(map, me, &key);

	if (!value)
		return -ENOENT;
	*sum += *value;
	return 0;
}

static inline int update(struct map *map, struct shm_client *me, uint32_t key, uint64_t *sum)
{
	uint64_t value = key;

	return map->ops->update(map, me, &key, &value, BPF_ANY);
}

static inline int insert_delete(struct map *map, struct shm_client *me, uint32_t key, uint64_t *sum)
{
	uint64_t value = key;
	int err = map->ops->update(map, me, &key, &value, BPF_NOEXIST);

	return err ? err : map->ops->remove(map, me, &key);
}

static inline __attribute__((always_inline)) int repeat(struct map *map, struct shm_client *me, struct bench_job *job, uint32_t offset, operation op)
{
	uint64_t begun = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID), sum = 0;
	uint64_t done = 0, count = job->count;
	uint32_t start = job->start, mask = job->mask, multiplier = job->multiplier;
	int err = 0;

	for (; done < count && !err; done++)
		err = op(map, me, ((start + (uint32_t)done) * multiplier & mask) + offset, &sum);
	__asm__ volatile("" : : "r"(sum));
	job->ns = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
	job->done = done - (err != 0);
	job->start = start + (uint32_t)done;
	return err;
}

int bench_map(struct map *map, struct shm_client *me, struct bench_job *job)
{
	if (job->op >= BENCH_PERF_OUTPUT)
		return bench_events(map, me, job);
	if (map->key_size != 4 || map->value_size < 8)
		return -EINVAL;
	if (job->op == BENCH_LOOKUP)
		return repeat(map, me, job, 0, lookup);
	if (job->op == BENCH_UPDATE)
		return repeat(map, me, job, 0, update);
	return job->op == BENCH_INSERT_DELETE ? repeat(map, me, job, job->offset, insert_delete) : -EINVAL;
}

int bench_run_bare(struct vm_cpu *cpu, struct vm_prog *prog, uint8_t *mem, uint64_t len, uint64_t count, uint64_t *ret, uint64_t *ns)
{
	uint64_t begun = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID);

	for (uint64_t i = 0; i < count; i++) {
		int code = vm_run_bare(cpu, prog, mem, len, ret);

		if (code)
			return code;
	}
	*ns = shm_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
	return 0;
}
