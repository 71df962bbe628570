/*
 * fault.c - saying why a run stopped: once, where it happened, in a sentence that helps.
 */
#include <stdarg.h>
#include <stdio.h>

#include "vm/program.h"

int vm_fault_set(struct vm_cpu *cpu, enum vm_fault_code code, const char *format, ...)
{
	va_list list;

	if (cpu->fault.code)
		return (int)cpu->fault.code;
	cpu->fault.code = code;
	va_start(list, format);
	vsnprintf(cpu->fault.detail, sizeof(cpu->fault.detail), format, list);
	va_end(list);
	return (int)code;
}

static int fault_context(struct vm_cpu *cpu, uint64_t off, uint32_t size, uint32_t write)
{
	return vm_fault_set(cpu, VM_FAULT_CTX, "%u-byte %s at offset %llu of the context: the field does not allow it", size, write ? "store" : "load",
			    (unsigned long long)off);
}

/* How far `addr` is from a region: 0 inside, else the distance to its nearer end. */
static uint64_t distance(const struct vm_region *region, uint64_t addr)
{
	uint64_t behind = addr - (region->base + region->bytes) + 1, before = region->base - addr;

	if (addr - region->base < region->bytes)
		return 0;
	return behind < before ? behind : before;
}

/* The memory that the access just missed, or crossed the end of: what a reader wants to know first. */
static int describe_near(const struct vm_cpu *cpu, uint64_t addr, char *text, size_t text_bytes)
{
	static const char *const names[] = { "the stack", "the packet", "the context", "the values" };
	const struct vm_region *best = NULL;
	uint64_t near = SHM_PAGE;
	uint32_t kind = 0;
	int len;

	for (uint32_t i = 0; i < VM_REGION_MAP + cpu->map_region_cnt; i++) {
		const struct vm_region *region = &cpu->region[i < VM_REGION_MAP ? i : cpu->map_regions[i - VM_REGION_MAP]];

		if (region->bytes && distance(region, addr) < near) {
			best = region;
			near = distance(region, addr);
			kind = i < VM_REGION_MAP ? i : VM_REGION_MAP;
		}
	}
	if (!best)
		return 0;
	if (near == 0)
		len = snprintf(text, text_bytes, "starts %llu bytes into %s", (unsigned long long)(addr - best->base), names[kind]);
	else if (addr < best->base)
		len = snprintf(text, text_bytes, "starts %llu bytes before %s", (unsigned long long)near, names[kind]);
	else
		len = snprintf(text, text_bytes, "starts %llu bytes behind the end of %s", (unsigned long long)near - 1, names[kind]);
	if (kind == VM_REGION_MAP)
		len += snprintf(text + len, text_bytes - (size_t)len, " of map id %u", best->map->id);
	if (near == 0)
		snprintf(text + len, text_bytes - (size_t)len, " (%llu bytes)", (unsigned long long)best->bytes);
	return 1;
}

int vm_fault_access(struct vm_cpu *cpu, uint64_t addr, uint32_t size, uint32_t write)
{
	const struct vm_region *context = &cpu->region[VM_REGION_CTX];
	char near[120];

	if (cpu->fault.code)
		return (int)cpu->fault.code;
	cpu->fault.addr = addr;
	cpu->fault.size = size;
	cpu->fault.write = write;
	if (context->allowed && addr - context->base < context->bytes)
		return fault_context(cpu, addr - context->base, size, write);
	if (!describe_near(cpu, addr, near, sizeof(near)))
		snprintf(near, sizeof(near), addr < SHM_PAGE ? "is NULL or close to it" : "is in no memory of this program");
	return vm_fault_set(cpu, VM_FAULT_MEMORY, "%u-byte %s that is not allowed: address 0x%llx %s", size, write ? "store" : "load",
			    (unsigned long long)addr, near);
}

void vm_fault_locate(struct vm_cpu *cpu, const struct vm_prog *prog, uint32_t insn)
{
	if (cpu->fault.insn != VM_NOWHERE)
		return;
	cpu->fault.cpu = cpu->cpu;
	cpu->fault.prog_id = prog->image.id;
	cpu->fault.insn = insn;
}
