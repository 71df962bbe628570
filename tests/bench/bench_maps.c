/*
 * bench_maps.c - ns for each map operation called from C, checks included; one process and two.
 *
 *   make -C cbits/test bench, or:
 *   cc -O2 -Icbits/include -Icbits/test tests/bench/bench_maps.c cbits/shm/[a-z]*.c cbits/maps/[a-z]*.c -o bench_maps && ./bench_maps [entries of the large maps]
 */
#define _GNU_SOURCE
#include "harness.h"
#include "shmbpf/bpf.h"

#include <sched.h>
#include <sys/wait.h>
#include <time.h>

static struct memory ctl;

/* Keys in an order that hides nothing in a prefetcher. */
static uint32_t *shuffled(uint32_t n)
{
	uint32_t *keys = malloc(n * sizeof(*keys)), state = 1;

	for (uint32_t i = 0; i < n; i++)
		keys[i] = i;
	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t j, key = keys[i];

		state = state * 1664525 + 1013904223;
		j = (uint32_t)((uint64_t)state * (i + 1) >> 32);
		keys[i] = keys[j];
		keys[j] = key;
	}
	return keys;
}

struct job {
	struct map *map;
	struct shm_client *me;
	uint32_t *keys;
	uint32_t n;
	uint32_t offset;              /* added to keys of insertions, so that processes don't meet on the same keys */
};

typedef uint64_t (*operation)(const struct job *job, uint32_t key);
typedef double (*measurement)(const struct job *job);

static inline uint64_t do_lookup(const struct job *job, uint32_t key)
{
	uint64_t *value = job->map->ops->lookup(job->map, job->me, &key);

	DIE_IF(!value);
	return *value;
}

/* What loop and call cost by themselves: subtract it from the rows below to get the operation alone. */
static inline uint64_t do_nothing(const struct job *job, uint32_t key)
{
	return (uint64_t)(uintptr_t)job->map->ops->lookup(job->map, job->me, &key);
}

static inline uint64_t do_update(const struct job *job, uint32_t key)
{
	uint64_t value = key;

	DIE_IF(job->map->ops->update(job->map, job->me, &key, &value, 0) != 0);
	return 0;
}

static inline uint64_t do_insert_delete(const struct job *job, uint32_t key)
{
	uint64_t value = key;

	key += job->offset;
	DIE_IF(job->map->ops->update(job->map, job->me, &key, &value, 0) != 0);
	DIE_IF(job->map->ops->remove(job->map, job->me, &key) != 0);
	return 0;
}

/* Inlined into one function per operation: only the call through map_ops is measured, as helpers make it. */
static inline __attribute__((always_inline)) double nanoseconds(const struct job *job, operation op)
{
	uint64_t start, done = 0, spent, sum = 0;

	for (uint32_t i = 0; i < job->n; i++)
		sum += op(job, job->keys[i]);
	start = shm_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	do {
		for (uint32_t i = 0; i < job->n; i++)
			sum += op(job, job->keys[i]);
		done += job->n;
		spent = shm_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start;
	} while (spent < 300000000);
	__asm__ volatile("" : : "r"(sum));
	return (double)spent / (double)done;
}

static double measure_lookup(const struct job *job)
{
	return nanoseconds(job, do_lookup);
}

static double measure_nothing(const struct job *job)
{
	return nanoseconds(job, do_nothing);
}

static double measure_update(const struct job *job)
{
	return nanoseconds(job, do_update);
}

static double measure_insert_delete(const struct job *job)
{
	return nanoseconds(job, do_insert_delete);
}

static void pin_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* One of `processes` forked ones, each on its own CPU; the slowest counts. */
static double forked(struct map *map, uint32_t *keys, uint32_t n, measurement measure, int processes)
{
	double worst = 0;
	int pipes[2];

	DIE_IF(pipe(pipes) != 0);
	for (int i = 0; i < processes; i++) {
		struct shm_client me;
		struct job job = { map, &me, keys, n, (uint32_t)(i + 1) << 24 };
		double ns;

		if (fork() != 0)
			continue;
		pin_to(i);
		DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, (uint32_t)i, "bench") != 0);
		ns = measure(&job);
		DIE_IF(write(pipes[1], &ns, sizeof(ns)) != sizeof(ns));
		_exit(0);
	}
	for (int i = 0; i < processes; i++) {
		double ns;

		DIE_IF(read(pipes[0], &ns, sizeof(ns)) != sizeof(ns));
		worst = ns > worst ? ns : worst;
	}
	while (wait(NULL) > 0)
		;
	return worst;
}

static void report(const char *what, struct map *map, uint32_t *keys, uint32_t n, measurement measure)
{
	double one = forked(map, keys, n, measure, 1), two = forked(map, keys, n, measure, 2);

	printf("%-36s %8.2f ns   two processes %8.2f ns each, rate x%.2f\n", what, one, two, 2 * one / two);
}

/* The lookup of a program array returns NULL at once. */
static void bench_nothing(void)
{
	struct map map;
	uint32_t *keys = shuffled(1024);

	make_map(&map, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1024, 2);
	report("(loop and call alone)", &map, keys, 1024, measure_nothing);
	shm_unmap(map.base, map.bytes);
	free(keys);
}

static void bench(uint32_t type, const char *name, uint32_t n, uint32_t room)
{
	struct shm_client me;
	struct map map;
	char what[64];
	uint32_t *keys = shuffled(n);

	make_map(&map, type, 4, 8, room, 2);
	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, SHM_NO_CPU, "fill") != 0);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t values[2] = { i, i };

		DIE_IF(map_update_elem(&map, &me, &keys[i], values, 0) != 0);
	}
	shm_client_detach(&me);
	snprintf(what, sizeof(what), "%s %u lookup", name, n);
	report(what, &map, keys, n, measure_lookup);
	snprintf(what, sizeof(what), "%s %u update", name, n);
	report(what, &map, keys, n, measure_update);
	if (type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH) {
		snprintf(what, sizeof(what), "%s %u insert+delete", name, n);
		report(what, &map, keys, n < 1024 ? n : n / 2, measure_insert_delete);
	}
	shm_unmap(map.base, map.bytes);
	free(keys);
}

int main(int argc, char **argv)
{
	uint32_t large = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000000;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ctl = make_ctl(2);
	bench_nothing();
	bench(BPF_MAP_TYPE_ARRAY, "array", 1024, 1024);
	bench(BPF_MAP_TYPE_PERCPU_ARRAY, "percpu_array", 1024, 1024);
	bench(BPF_MAP_TYPE_HASH, "hash", 1024, 1024 * 3);
	bench(BPF_MAP_TYPE_PERCPU_HASH, "percpu_hash", 1024, 1024 * 3);
	bench(BPF_MAP_TYPE_ARRAY, "array", large, large);
	bench(BPF_MAP_TYPE_HASH, "hash", large, large * 2);
	return 0;
}
