/*
 * dynptr.c - dynptrs: memory whose size is known at run time only (Linux v6.12 kernel/bpf/helpers.c, bpf_dynptr_from_mem() to bpf_dynptr_data()).
 *
 * Linux's order of checks: a null dynptr, then the bounds. Then, which Linux has proved before, that the memory is still the program's: a dynptr left on the stack by
 * an earlier run, or to a record given back, is none any more.
 */
#include "helpers.h"

#include <string.h>

#include "cpu/region.h"
#include "cpu/span.h"

enum { DYNPTR_MAX_BYTES = 0xffffff };

/* Memory of a dynptr is a map value on Linux, never the stack ("Unsupported reg type fp for bpf_dynptr_from_mem data"). */
static int is_map_value(const struct vm_cpu *cpu, uint64_t addr)
{
	for (uint32_t index = 0; index < VM_REGION_MAP; index++)
		if (addr - cpu->region[index].base < cpu->region[index].bytes)
			return 0;
	return 1;
}

uint64_t bpf_dynptr_from_mem(struct vm_cpu *cpu, uint64_t data, uint64_t size_argument, uint64_t flags, uint64_t dynptr, uint64_t r5)
{
	uint32_t size = (uint32_t)size_argument;
	struct vm_dynptr made = { 0 };
	int err = size > DYNPTR_MAX_BYTES ? -E2BIG : flags ? -EINVAL : 0;

	if (!is_map_value(cpu, data))
		return helper_fault(cpu, VM_FAULT_HELPER, "bpf_dynptr_from_mem: r1 is no map value: dynptrs are for map values only");
	if (!err) {
		made.base = data;
		made.bytes = size;
	}
	vm_dynptr_make(cpu, dynptr, &made);
	return result(err);
}

static int out_of_bounds(const struct vm_dynptr *dynptr, uint32_t offset, uint32_t len)
{
	return len > dynptr->bytes || offset > dynptr->bytes - len;
}

/* Address of `len` bytes; NULL after a fault. */
static uint8_t *memory_of(struct vm_cpu *cpu, const struct vm_dynptr *dynptr, uint32_t offset, uint32_t len, uint32_t write)
{
	static uint8_t nothing;
	uint8_t *memory = len ? vm_memory(cpu, dynptr->base + offset, len, write) : &nothing;

	if (!memory)
		helper_fault(cpu, VM_FAULT_HELPER, "the dynptr's memory is not the program's (any more): was it submitted, or made by an earlier run?");
	return memory;
}

static const struct vm_dynptr *dynptr_of(struct vm_cpu *cpu, uint64_t addr)
{
	const struct vm_dynptr *dynptr = vm_dynptr_at(cpu, addr);

	if (!dynptr)
		helper_fault(cpu, VM_FAULT_HELPER, "not an initialised dynptr");
	return dynptr;
}

uint64_t bpf_dynptr_read(struct vm_cpu *cpu, uint64_t to, uint64_t len_argument, uint64_t src, uint64_t offset_argument, uint64_t flags)
{
	const struct vm_dynptr *dynptr = dynptr_of(cpu, src);
	uint32_t len = (uint32_t)len_argument, offset = (uint32_t)offset_argument;
	const uint8_t *memory;

	if (!dynptr)
		return 0;
	if (!dynptr->base || flags)
		return result(-EINVAL);
	if (out_of_bounds(dynptr, offset, len))
		return result(-E2BIG);
	memory = memory_of(cpu, dynptr, offset, len, 0);
	if (memory)
		memmove(host(to), memory, len);
	return 0;
}

uint64_t bpf_dynptr_write(struct vm_cpu *cpu, uint64_t dst, uint64_t offset_argument, uint64_t from, uint64_t len_argument, uint64_t flags)
{
	const struct vm_dynptr *dynptr = dynptr_of(cpu, dst);
	uint32_t len = (uint32_t)len_argument, offset = (uint32_t)offset_argument;
	uint8_t *memory;

	if (!dynptr)
		return 0;
	if (!dynptr->base || dynptr->read_only)
		return result(-EINVAL);
	if (out_of_bounds(dynptr, offset, len))
		return result(-E2BIG);
	if (flags)
		return result(-EINVAL);
	memory = memory_of(cpu, dynptr, offset, len, 1);
	if (memory)
		memmove(memory, host(from), len);
	return 0;
}

uint64_t bpf_dynptr_data(struct vm_cpu *cpu, uint64_t src, uint64_t offset_argument, uint64_t len_argument, uint64_t r4, uint64_t r5)
{
	const struct vm_dynptr *dynptr = dynptr_of(cpu, src);
	uint32_t len = (uint32_t)len_argument, offset = (uint32_t)offset_argument;

	if (!dynptr || !dynptr->base || dynptr->read_only || out_of_bounds(dynptr, offset, len))
		return 0;
	return memory_of(cpu, dynptr, offset, len, 0) ? dynptr->base + offset : 0;
}
