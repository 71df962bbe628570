/*
 * ringbuf.c - the ring buffer helpers. A reserved record is the program's until it submits or discards it (cpu/span.h); the rings themselves are in cbits/maps.
 *
 * Linux v6.12 kernel/bpf/ringbuf.c. What its verifier proves (a constant size, every record given back once, on every path) is checked here while the program runs.
 */
#include "helpers.h"
#include "cpu/span.h"
#include "shmbpf/ringbuf.h"

enum {
	DYNPTR_MAX_BYTES = 0xffffff,
	DRAIN_SCRATCH_BYTES = VM_SCRATCH_BYTES / VM_MAX_FRAMES,
};

static uint8_t *reserve(struct vm_cpu *cpu, struct map *map, uint64_t size)
{
	uint8_t *sample = ringbuf_reserve(map, cpu->client, size);

	if (!sample)
		cpu->events_lost++;
	return sample;
}

static void finish(struct vm_cpu *cpu, struct vm_span *span, uint64_t flags, uint32_t discard)
{
	if (span->base) {
		ringbuf_commit(span->map, cpu->client, host(span->base), flags, discard);
		cpu->events_sent += !discard;
	}
	vm_span_release(cpu, span);
}

uint64_t bpf_ringbuf_output(struct vm_cpu *cpu, uint64_t map_handle, uint64_t data, uint64_t size, uint64_t flags, uint64_t r5)
{
	int err = ringbuf_output(host(map_handle), cpu->client, host(data), size, flags);

	cpu->events_sent += !err;
	cpu->events_lost += err == -EAGAIN;
	return result(err);
}

static uint64_t too_many_records(struct vm_cpu *cpu)
{
	return helper_fault(cpu, VM_FAULT_HELPER, "a program can hold 64 ring buffer records at a time: submit or discard some first");
}

uint64_t bpf_ringbuf_reserve(struct vm_cpu *cpu, uint64_t map_handle, uint64_t size, uint64_t flags, uint64_t r4, uint64_t r5)
{
	struct map *map = host(map_handle);
	uint8_t *sample;

	if (flags)
		return 0;
	if (!vm_span_room(cpu))
		return too_many_records(cpu);
	sample = reserve(cpu, map, size);
	if (sample)
		vm_span_add(cpu, VM_SPAN_RECORD, map, sample, size);
	return (uint64_t)(uintptr_t)sample;
}

static uint64_t end_record(struct vm_cpu *cpu, uint64_t sample, uint64_t flags, uint32_t discard)
{
	struct vm_span *span = vm_span_record(cpu, sample);

	if (!span)
		return helper_fault(cpu, VM_FAULT_HELPER, "no ring buffer record is reserved there");
	finish(cpu, span, flags, discard);
	return 0;
}

uint64_t bpf_ringbuf_submit(struct vm_cpu *cpu, uint64_t sample, uint64_t flags, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return end_record(cpu, sample, flags, 0);
}

uint64_t bpf_ringbuf_discard(struct vm_cpu *cpu, uint64_t sample, uint64_t flags, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return end_record(cpu, sample, flags, 1);
}

uint64_t bpf_ringbuf_query(struct vm_cpu *cpu, uint64_t map_handle, uint64_t what, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return ringbuf_query(host(map_handle), what);
}

/* ---- records behind dynptrs --------------------------------------------------------------------------------------------------------------- */

/* A dynptr that got no record is a null dynptr, and must be given back all the same. */
uint64_t bpf_ringbuf_reserve_dynptr(struct vm_cpu *cpu, uint64_t map_handle, uint64_t size_argument, uint64_t flags, uint64_t dynptr, uint64_t r5)
{
	struct map *map = host(map_handle);
	uint32_t size = (uint32_t)size_argument;
	struct vm_dynptr made = { 0 };
	uint8_t *sample = NULL;
	int err = 0;

	if (!vm_span_room(cpu))
		return too_many_records(cpu);
	if (flags)
		err = -EINVAL;
	else if (size > DYNPTR_MAX_BYTES)
		err = -E2BIG;
	else
		sample = reserve(cpu, map, size);
	if (!err && !sample)
		err = -EINVAL;
	made.base = (uint64_t)(uintptr_t)sample;
	made.bytes = sample ? size : 0;
	made.span = (uint32_t)(vm_span_add(cpu, VM_SPAN_DYNPTR_RECORD, map, sample, size) - cpu->span) + 1;
	vm_dynptr_make(cpu, dynptr, &made);
	return result(err);
}

static uint64_t end_dynptr(struct vm_cpu *cpu, uint64_t dynptr, uint64_t flags, uint32_t discard)
{
	struct vm_span *span = vm_dynptr_holds_record(cpu, dynptr);

	if (!span)
		return helper_fault(cpu, VM_FAULT_HELPER, "the dynptr holds no reserved ring buffer record");
	vm_dynptr_forget(cpu, dynptr);
	finish(cpu, span, flags, discard);
	return 0;
}

uint64_t bpf_ringbuf_submit_dynptr(struct vm_cpu *cpu, uint64_t dynptr, uint64_t flags, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return end_dynptr(cpu, dynptr, flags, 0);
}

uint64_t bpf_ringbuf_discard_dynptr(struct vm_cpu *cpu, uint64_t dynptr, uint64_t flags, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return end_dynptr(cpu, dynptr, flags, 1);
}

/* ---- user ring buffers -------------------------------------------------------------------------------------------------------------------- */

struct drain {
	struct vm_cpu *cpu;
	struct map *map;
	uint64_t func;
	uint64_t ctx;
	uint64_t scratch;             /* 16 bytes for the dynptr that the callback is given */
};

/* 0: go on; 1: the callback wants no more, or has faulted. A sample is consumed in both cases: one that stops programs must not stop the next run too. */
static int show(const struct drain *drain, uint8_t *sample, uint32_t size)
{
	struct vm_cpu *cpu = drain->cpu;
	struct vm_span *span = vm_span_add(cpu, VM_SPAN_SAMPLE, drain->map, sample, size);
	const uint64_t args[5] = { drain->scratch, drain->ctx };
	struct vm_dynptr dynptr = { .base = (uint64_t)(uintptr_t)sample, .bytes = size };
	uint64_t stop = 0;
	int code;

	if (!span) {
		too_many_records(cpu);
		return 1;
	}
	vm_dynptr_make(cpu, drain->scratch, &dynptr);
	code = cpu->call(cpu, drain->func, args, &stop);
	vm_dynptr_forget(cpu, drain->scratch);
	vm_span_release(cpu, span);
	user_ringbuf_release(drain->map, size);
	return code || stop;
}

/* The number of samples shown, or -errno. *passed: samples seen, discarded ones included. */
static int64_t drain_samples(const struct drain *drain, uint32_t *passed)
{
	int64_t shown = 0;
	int stop = 0;

	while (!stop && *passed < USER_RINGBUF_MAX_SAMPLES) {
		uint8_t *sample;
		uint32_t size;
		int err = user_ringbuf_next(drain->map, drain->cpu->client, &sample, &size);

		if (err == -ENODATA)
			break;
		if (err && err != -EAGAIN)
			return err;
		if (!err) {
			stop = show(drain, sample, size);
			shown++;
		}
		++*passed;
	}
	return shown;
}

/* Linux v6.12 kernel/bpf/ringbuf.c, bpf_user_ringbuf_drain(). */
uint64_t bpf_user_ringbuf_drain(struct vm_cpu *cpu, uint64_t map_handle, uint64_t callback_fn, uint64_t callback_ctx, uint64_t flags, uint64_t r5)
{
	struct drain drain = {
		.cpu = cpu, .map = host(map_handle), .func = callback_fn, .ctx = callback_ctx,
		.scratch = (uint64_t)(uintptr_t)cpu->scratch + (uint64_t)cpu->frame * DRAIN_SCRATCH_BYTES,
	};
	uint32_t passed = 0, wake;
	int64_t shown;

	if (flags & ~(uint64_t)(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP))
		return result(-EINVAL);
	if (user_ringbuf_begin(drain.map, cpu->client))
		return result(-EBUSY);
	shown = drain_samples(&drain, &passed);
	wake = flags & BPF_RB_FORCE_WAKEUP || (passed && !(flags & BPF_RB_NO_WAKEUP));
	user_ringbuf_end(drain.map, cpu->client, wake);
	return result(shown);
}
