/*
 * span.c - memory a program holds for a while, and dynptrs.
 *
 * A span is reachable from the helper that gives it to the helper that takes it back. The one reserved last in a map is that map's region too, so the usual accesses
 * to a record are decided like those to a map value (region.h); others are found here. Records are references in the sense of Linux's verifier: a run
 * that ends with one (`span_used`) is stopped, and whatever a stopped run holds is discarded.
 *
 * A dynptr on the stack is a number nobody can guess a use for: cpu->dynptr, found by the address, says what it stands for as long as the stack holds the number of
 * its last use. Overwriting it only loses it. What a dynptr gives access to is checked again at each use, so even a stale one reaches nothing that the running
 * program could not touch.
 */
#include "cpu/span.h"

#include <string.h>

#include "cpu/region.h"
#include "shmbpf/ringbuf.h"

enum { SLOT_BYTES = 8, STACK_SLOTS = VM_MAX_FRAMES * VM_STACK_BYTES / SLOT_BYTES };

/* Differs in both words from what programs store. */
#define COOKIE_TAG ((uint64_t)0xd1a9 << 48)

static int is_record(const struct vm_span *span)
{
	return span->kind == VM_SPAN_RECORD || span->kind == VM_SPAN_DYNPTR_RECORD;
}

/* The map's region is whatever it holds last; nothing for `bytes` 0. */
static void show_in_region(struct vm_cpu *cpu, const struct map *map, uint64_t base, uint64_t bytes)
{
	struct vm_region *region;

	if (!map || map->region >= VM_MAX_MAPS)
		return;
	region = &cpu->region[VM_REGION_MAP + map->region];
	if (region->map == map)
		vm_region_span(region, base, bytes, 1, 1);
}

int vm_span_room(const struct vm_cpu *cpu)
{
	if (cpu->span_cnt < VM_MAX_SPANS)
		return 1;
	for (uint32_t i = 0; i < VM_MAX_SPANS; i++)
		if (cpu->span[i].kind == VM_SPAN_FREE)
			return 1;
	return 0;
}

struct vm_span *vm_span_add(struct vm_cpu *cpu, uint32_t kind, struct map *map, uint8_t *base, uint64_t bytes)
{
	uint32_t i = 0;

	while (i < cpu->span_cnt && cpu->span[i].kind != VM_SPAN_FREE)
		i++;
	if (i == VM_MAX_SPANS)
		return NULL;
	if (i == cpu->span_cnt)
		cpu->span_cnt++;
	cpu->span[i] = (struct vm_span){ (uint64_t)(uintptr_t)base, base ? bytes : 0, map, 1, kind };
	if (is_record(&cpu->span[i])) {
		cpu->span_used++;
		show_in_region(cpu, map, cpu->span[i].base, cpu->span[i].bytes);
	}
	return &cpu->span[i];
}

struct vm_span *vm_span_record(struct vm_cpu *cpu, uint64_t addr)
{
	for (uint32_t i = cpu->span_cnt; i-- > 0;)
		if (cpu->span[i].base == addr && cpu->span[i].kind == VM_SPAN_RECORD)
			return &cpu->span[i];
	return NULL;
}

void vm_span_release(struct vm_cpu *cpu, struct vm_span *span)
{
	if (is_record(span)) {
		cpu->span_used--;
		show_in_region(cpu, span->map, 0, 0);
	}
	span->kind = VM_SPAN_FREE;
	while (cpu->span_cnt && cpu->span[cpu->span_cnt - 1].kind == VM_SPAN_FREE)
		cpu->span_cnt--;
}

int vm_span_reaches(const struct vm_cpu *cpu, uint64_t addr, uint64_t size, uint32_t write)
{
	for (uint32_t i = 0; i < cpu->span_cnt; i++) {
		const struct vm_span *span = &cpu->span[i];
		uint64_t off = addr - span->base;

		if (span->kind != VM_SPAN_FREE && off < span->bytes && size <= span->bytes - off && (span->writable || !write))
			return 1;
	}
	return 0;
}

void vm_span_drop_all(struct vm_cpu *cpu)
{
	while (cpu->span_cnt) {
		struct vm_span *span = &cpu->span[cpu->span_cnt - 1];

		if (is_record(span) && span->base)
			ringbuf_commit(span->map, cpu->client, (uint8_t *)(uintptr_t)span->base, 0, 1);
		vm_span_release(cpu, span);
	}
}

/* ---- dynptrs ------------------------------------------------------------------------------------------------------------------------------ */

/* Where a dynptr's 16 bytes may lie, as an index of cpu->dynptr; VM_MAX_DYNPTRS: nowhere. */
static uint32_t slot_of(const struct vm_cpu *cpu, uint64_t addr)
{
	uint64_t stack_off = addr - (uint64_t)(uintptr_t)cpu->stack, scratch_off = addr - (uint64_t)(uintptr_t)cpu->scratch;

	if (addr % SLOT_BYTES)
		return VM_MAX_DYNPTRS;
	if (stack_off <= VM_MAX_FRAMES * VM_STACK_BYTES - VM_DYNPTR_BYTES)
		return (uint32_t)(stack_off / SLOT_BYTES);
	if (scratch_off <= VM_SCRATCH_BYTES - VM_DYNPTR_BYTES)
		return STACK_SLOTS + (uint32_t)(scratch_off / SLOT_BYTES);
	return VM_MAX_DYNPTRS;
}

void vm_dynptr_make(struct vm_cpu *cpu, uint64_t addr, const struct vm_dynptr *dynptr)
{
	uint32_t slot = slot_of(cpu, addr);
	uint64_t words[2];

	if (slot == VM_MAX_DYNPTRS)
		return;
	cpu->dynptr[slot] = *dynptr;
	cpu->dynptr[slot].cookie = ++cpu->dynptr_serial | COOKIE_TAG;
	words[0] = cpu->dynptr[slot].cookie;
	words[1] = ~words[0];
	memcpy((void *)(uintptr_t)addr, words, sizeof(words));
}

struct vm_dynptr *vm_dynptr_at(struct vm_cpu *cpu, uint64_t addr)
{
	uint32_t slot = slot_of(cpu, addr);
	uint64_t words[2];

	if (slot == VM_MAX_DYNPTRS || !cpu->dynptr[slot].cookie)
		return NULL;
	memcpy(words, (const void *)(uintptr_t)addr, sizeof(words));
	return words[0] == cpu->dynptr[slot].cookie && words[1] == ~words[0] ? &cpu->dynptr[slot] : NULL;
}

struct vm_span *vm_dynptr_holds_record(struct vm_cpu *cpu, uint64_t addr)
{
	struct vm_dynptr *dynptr = vm_dynptr_at(cpu, addr);
	struct vm_span *span = dynptr && dynptr->span ? &cpu->span[dynptr->span - 1] : NULL;

	/* a dynptr left over from an earlier run stands for nothing, even if the place in the table is in use again */
	return span && span->kind == VM_SPAN_DYNPTR_RECORD && span->base == dynptr->base ? span : NULL;
}

void vm_dynptr_forget(struct vm_cpu *cpu, uint64_t addr)
{
	uint32_t slot = slot_of(cpu, addr);

	if (slot < VM_MAX_DYNPTRS)
		cpu->dynptr[slot].cookie = 0;
}
