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

/* The end of memory that the access just missed, or crossed: what a reader wants to know first. */
static int describe_near(const struct vm_cpu *cpu, uint64_t addr, char *text, size_t text_bytes)
{
	static const char *const names[] = { "the stack", "the packet", "the context", "the values" };
	enum { NEAR = 4096 };

	for (uint32_t i = 0; i < VM_REGION_MAP + cpu->map_region_cnt; i++) {
		const struct vm_region *region = &cpu->region[i < VM_REGION_MAP ? i : cpu->map_regions[i - VM_REGION_MAP]];
		uint64_t end = region->base + region->bytes;
		const char *name = names[i < VM_REGION_MAP ? i : VM_REGION_MAP];
		int len = 0;

		if (!region->bytes)
			continue;
		if (addr - region->base < region->bytes)
			len = snprintf(text, text_bytes, "starts %llu bytes into %s", (unsigned long long)(addr - region->base), name);
		else if (addr - end < NEAR)
			len = snprintf(text, text_bytes, "starts %llu bytes behind the end of %s", (unsigned long long)(addr - end), name);
		else if (region->base - addr < NEAR)
			len = snprintf(text, text_bytes, "starts %llu bytes before %s", (unsigned long long)(region->base - addr), name);
		if (len && i >= VM_REGION_MAP)
			snprintf(text + len, text_bytes - (size_t)len, " of map id %u", region->map->id);
		if (len)
			return 1;
	}
	return 0;
}

int vm_fault_access(struct vm_cpu *cpu, uint64_t addr, uint32_t size, uint32_t write)
{
	const struct vm_region *context = &cpu->region[VM_REGION_CTX];
	char near[96];

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
