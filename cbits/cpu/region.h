/*
 * region.h - "may this program touch these bytes?", inlined where it is asked for every load and store.
 */
#ifndef SHMBPF_CPU_REGION_H
#define SHMBPF_CPU_REGION_H

#include "shmbpf/cpu.h"

/* Rest of the check for an access of 1 << lg bytes whose offset has room: elements, spin lock, context fields. */
int vm_region_fits(const struct vm_region *region, uint64_t off, uint32_t lg, uint32_t write);

static inline __attribute__((always_inline)) int vm_region_hit(const struct vm_region *region, uint64_t addr, uint32_t lg, uint32_t write)
{
	uint64_t off = addr - region->base;

	if (off >= region->room[write * 4 + lg])
		return 0;
	if (region->check == VM_CHECK_NONE)
		return 1;
	if (region->check == VM_CHECK_ALIGNED && !(off & ((1u << lg) - 1)))
		return 1;
	return vm_region_fits(region, off, lg, write);
}

/*
 * The region in which an access of 1 << lg bytes is allowed, or NULL. *hint becomes its byte offset in cpu->region when the next access by the same
 * instruction may try it first; memory that is reachable but not worth remembering (keys, other CPUs' values) leaves *hint alone.
 */
const struct vm_region *vm_region_reach(struct vm_cpu *cpu, uint64_t addr, uint32_t lg, uint32_t write, uint32_t *hint);

void vm_region_span(struct vm_region *region, uint64_t base, uint64_t bytes, uint32_t readable, uint32_t writable);

/* Frame `frame` runs: its stack and its callers' are reachable. */
void vm_stack_frame(struct vm_cpu *cpu, uint32_t frame);

/* The table vm_region.allowed points at; NULL for VM_HOOK_NONE. */
const uint8_t *vm_ctx_table(uint32_t hook);

#endif
