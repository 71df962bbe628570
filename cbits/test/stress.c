/*
 * stress.c - the map code under threads, each a client of its own, for the sanitizers: mixed operations on few keys, and scribbled segments.
 *
 * Facts checked: a value read is one that was written for that key, whole; a full map refuses; afterwards map_check finds nothing; and with random bytes
 * written into the structure no operation crashes, hangs or touches memory outside of the segment.
 */
#define _GNU_SOURCE
#include "harness.h"
#include "shmbpf/bpf.h"

#include <errno.h>
#include <pthread.h>

enum { THREADS = 4, KEYS = 24, WORDS = 3, ROUNDS = 30000, SCRIBBLES = 300 };

static struct memory ctl;
static struct map map;

struct worker {
	pthread_t thread;
	uint32_t number;
	uint64_t state;
};

static uint32_t draw(uint64_t *state, uint32_t below)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((*state >> 33) % below);
}

/* A value tells its key and is all of one piece. */
static void fill_value(uint64_t value[WORDS], uint32_t key, uint64_t stamp)
{
	for (int i = 0; i < WORDS; i++)
		value[i] = stamp << 8 | key;
}

static void check_value(const uint64_t value[WORDS], uint32_t key)
{
	for (int i = 0; i < WORDS; i++)
		DIE_IF((value[i] & 0xff) != key || value[i] != value[0]);
}

static void one_operation(struct worker *w, struct shm_client *me)
{
	uint64_t value[WORDS];
	uint32_t key = draw(&w->state, KEYS), next;
	int err;

	fill_value(value, key, w->state >> 40);
	switch (draw(&w->state, 8)) {
	case 0:
	case 1:
		err = map_update_elem(&map, me, &key, value, BPF_ANY);
		DIE_IF(err != 0 && err != -E2BIG);
		break;
	case 2:
		err = map_update_elem(&map, me, &key, value, BPF_NOEXIST);
		DIE_IF(err != 0 && err != -EEXIST && err != -E2BIG);
		break;
	case 3:
		err = map_update_elem(&map, me, &key, value, BPF_EXIST);
		DIE_IF(err != 0 && err != -ENOENT);
		break;
	case 4:
		err = map_delete_elem(&map, me, &key);
		DIE_IF(err != 0 && err != -ENOENT);
		break;
	case 5:
		err = map_lookup_and_delete_elem(&map, me, &key, value, 0);
		DIE_IF(err != 0 && err != -ENOENT);
		if (err == 0)
			check_value(value, key);
		break;
	case 6:
		err = map_get_next_key(&map, me, &key, &next);
		DIE_IF(err != 0 && err != -ENOENT);
		DIE_IF(err == 0 && next >= KEYS);
		break;
	default:
		err = map_lookup_elem(&map, me, &key, value, 0);
		DIE_IF(err != 0 && err != -ENOENT);
		if (err == 0)
			check_value(value, key);
	}
}

static void *run_mixed(void *arg)
{
	struct worker *w = arg;
	struct shm_client me;

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, w->number, "stress") != 0);
	me.busy_ns = 20000000000u;
	for (int i = 0; i < ROUNDS; i++)
		one_operation(w, &me);
	shm_client_detach(&me);
	return NULL;
}

/* Keys 0..7 are always there: whoever replaces them must never make them invisible. */
static void *run_replace(void *arg)
{
	struct worker *w = arg;
	struct shm_client me;
	uint64_t value[WORDS];

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, w->number, "stress") != 0);
	me.busy_ns = 20000000000u;
	for (int i = 0; i < ROUNDS; i++) {
		uint32_t key = draw(&w->state, 8);

		fill_value(value, key, w->state >> 40);
		if (w->number < 2)
			DIE_IF(map_update_elem(&map, &me, &key, value, BPF_EXIST) != 0);
		DIE_IF(!map.ops->lookup(&map, &me, &key));
		DIE_IF(map_lookup_elem(&map, &me, &key, value, 0) != 0);
		check_value(value, key);
	}
	shm_client_detach(&me);
	return NULL;
}

static void run_threads(void *(*body)(void *))
{
	struct worker workers[THREADS] = { 0 };

	for (uint32_t i = 0; i < THREADS; i++) {
		workers[i].number = i;
		workers[i].state = 77 + i;
		DIE_IF(pthread_create(&workers[i].thread, NULL, body, &workers[i]) != 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
}

static void expect_clean(struct shm_client *me)
{
	char why[200];

	if (map_check(&map, me, why, sizeof(why)) != 0) {
		fprintf(stderr, "map_check: %s\n", why);
		abort();
	}
}

static void test_threads(uint32_t max_entries)
{
	struct shm_client me;
	struct memory memory = make_map(&map, BPF_MAP_TYPE_HASH, 4, WORDS * 8, max_entries, THREADS);
	uint64_t value[WORDS];

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, SHM_NO_CPU, "stress") != 0);
	run_threads(run_mixed);
	expect_clean(&me);
	for (uint32_t key = 0; key < KEYS; key++)
		map_delete_elem(&map, &me, &key);
	for (uint32_t key = 0; key < 8; key++) {
		fill_value(value, key, 1);
		DIE_IF(map_update_elem(&map, &me, &key, value, BPF_NOEXIST) != 0);
	}
	run_threads(run_replace);
	expect_clean(&me);
	for (uint32_t key = 8; key < max_entries; key++) {
		fill_value(value, key, 1);
		DIE_IF(map_update_elem(&map, &me, &key, value, BPF_NOEXIST) != 0);
	}
	DIE_IF(map_update_elem(&map, &me, &(uint32_t){ 10000 }, value, 0) != -E2BIG);
	expect_clean(&me);
	shm_client_detach(&me);
	shm_unmap(memory.base, memory.bytes);
	close(memory.fd);
}

/* Random words in links, buckets, lists: results may be wrong, nothing else may happen. */
static void test_scribbles(uint32_t type)
{
	struct shm_client me;
	uint64_t values[4] = { 0 }, state = 99;
	char why[200];

	DIE_IF(shm_client_attach(&me, ctl.fd, ctl.bytes, 0, "stress") != 0);
	me.busy_ns = 1000000;
	for (int round = 0; round < SCRIBBLES; round++) {
		struct memory memory = make_map(&map, type, 4, 8, 32, 4);
		uint64_t from = map.layout.off[1], bytes = map.layout.off[3] + map.layout.bytes[3] - from;

		for (uint32_t key = 0; key < 32; key++)
			map_update_elem(&map, &me, &key, values, 0);
		for (int i = 0; i < 1 + round % 40; i++) {
			uint32_t at = draw(&state, (uint32_t)(bytes / 4)), small = draw(&state, 3);

			((uint32_t *)(memory.base + from))[at] = small == 0 ? draw(&state, 40) : small == 1 ? 0x80000000u | draw(&state, 64) : draw(&state, 0xffffffff);
		}
		for (int i = 0; i < 200; i++) {
			uint32_t key = draw(&state, 40), next;

			map_update_elem(&map, &me, &key, values, 0);
			map.ops->lookup(&map, &me, &key);
			map_lookup_elem(&map, &me, &key, values, 0);
			map_get_next_key(&map, &me, &key, &next);
			if (i % 3)
				map_delete_elem(&map, &me, &key);
		}
		map_check(&map, &me, why, sizeof(why));
		map_recover(&map, &me);
		shm_unmap(memory.base, memory.bytes);
		close(memory.fd);
	}
	shm_client_detach(&me);
}

int main(void)
{
	ctl = make_ctl(THREADS);
	test_threads(16);
	test_threads(64);
	test_scribbles(BPF_MAP_TYPE_HASH);
	test_scribbles(BPF_MAP_TYPE_PERCPU_HASH);
	puts("stress: ok");
	return 0;
}
