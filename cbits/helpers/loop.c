/*
 * loop.c - helpers that call back into the program: bpf_loop() and bpf_for_each_map_elem().
 *
 * A callback returns 0 to go on and anything else to stop; the helper's result counts the calls, the stopping one included. A fault in a callback ends the
 * whole run, so the helper returns at once. Linux v6.12 kernel/bpf/bpf_iter.c, bpf_loop() and bpf_for_each_map_elem(); kernel/bpf/arraymap.c,
 * bpf_for_each_array_elem(); kernel/bpf/hashtab.c, bpf_for_each_hash_elem().
 */
#include <string.h>

#include "helpers.h"

enum {
	/* each frame of the program has its own piece of the scratch memory, so loops nest */
	KEY_BYTES = VM_SCRATCH_BYTES / VM_MAX_FRAMES,
};

struct callback {
	struct vm_cpu *cpu;
	struct map *map;
	uint64_t func;
	uint64_t ctx;
	uint64_t calls;
	uint8_t *scratch;             /* KEY_BYTES that the program may read */
};

static uint64_t address(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

uint64_t bpf_loop(struct vm_cpu *cpu, uint64_t nr_loops, uint64_t callback_fn, uint64_t callback_ctx, uint64_t flags, uint64_t r5)
{
	uint32_t loops = (uint32_t)nr_loops;

	if (flags)
		return result(-EINVAL);
	/* 32 bits of it: programs see the form the verifier inlines (Linux v6.12 kernel/bpf/verifier.c, inline_bpf_loop()) */
	if (loops > VM_MAX_LOOPS)
		return (uint32_t)-E2BIG;
	for (uint32_t i = 0; i < loops; i++) {
		const uint64_t args[5] = { i, callback_ctx, 0, 0, 0 };
		uint64_t stop = 0;

		if (cpu->call(cpu, callback_fn, args, &stop))
			return 0;
		if (stop)
			return i + 1;
	}
	return loops;
}

/* Calls back for one element. 1 = stop: the callback said so, or it faulted. */
static int visit(struct callback *callback, const void *key, const void *value)
{
	const uint64_t args[5] = { address(callback->map), address(key), address(value), callback->ctx, 0 };
	uint64_t stop = 0;

	callback->calls++;
	return callback->cpu->call(callback->cpu, callback->func, args, &stop) || stop;
}

static int64_t each_index(struct callback *callback)
{
	struct map *map = callback->map;

	for (uint32_t index = 0; index < map->max_entries; index++) {
		memcpy(callback->scratch, &index, sizeof(index));
		if (visit(callback, callback->scratch, map->ops->lookup(map, callback->cpu->client, &index)))
			break;
	}
	return (int64_t)callback->calls;
}

/* A key the program may read: small ones are copied, so that a concurrent delete does not change them under the callback. */
static const void *shown_key(struct callback *callback, const void *key)
{
	if (callback->map->key_size > KEY_BYTES)
		return key;
	memcpy(callback->scratch, key, callback->map->key_size);
	return callback->scratch;
}

/* Elements that are deleted or come while the walk is on may be seen or not, as on Linux; all others are seen once. */
static int64_t each_element(struct callback *callback)
{
	struct map *map = callback->map;
	uint64_t position = 0;
	const void *key;
	void *value;

	while (!map->ops->each(map, callback->cpu->client, &position, &key, &value))
		if (visit(callback, shown_key(callback, key), value))
			break;
	return (int64_t)callback->calls;
}

uint64_t bpf_for_each_map_elem(struct vm_cpu *cpu, uint64_t map_handle, uint64_t callback_fn, uint64_t callback_ctx, uint64_t flags, uint64_t r5)
{
	struct map *map = host(map_handle);
	struct callback callback = {
		.cpu = cpu, .map = map, .func = callback_fn, .ctx = callback_ctx, .scratch = cpu->scratch + (uint64_t)cpu->frame * KEY_BYTES,
	};

	if (flags)
		return result(-EINVAL);
	if (map->ops->caps & MAP_CAP_INDEXED && map->ops->caps & MAP_CAP_VALUE_PTR)
		return result(each_index(&callback));
	return result(map->ops->each ? each_element(&callback) : -EINVAL);
}
