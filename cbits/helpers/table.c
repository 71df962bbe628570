/*
 * table.c - the helper table: one row for each id of Linux, at the index of its id, so finding a row is one bounds check.
 *
 * Ids without an implementation have a row too (hooks 0, fn NULL): a program that calls one is refused by name.
 */
#include <stdio.h>

#include "helpers.h"

/* tail_call changes what the interpreter runs, so the interpreter does it: its row describes the arguments only. */
enum { TAIL_CALL_ID = 12 };

static const struct vm_helper rows[] = {
#define HELPER(number, word, bits, gpl_only, result_kind, a1, a2, a3, a4, a5) \
	[number] = { \
		.id = number, .hooks = bits, .name = #word, .fn = number == TAIL_CALL_ID ? NULL : bpf_##word, \
		.gpl = gpl_only, .ret = result_kind, .arg = { a1, a2, a3, a4, a5 }, \
	},
#define HELPER_KNOWN(number, word) [number] = { .id = number, .name = #word },
#include "shmbpf/helpers.def"
#undef HELPER
#undef HELPER_KNOWN
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

const struct vm_helper *vm_helper_of(uint32_t id)
{
	return id < ROWS && rows[id].name ? &rows[id] : NULL;
}

const struct vm_helper *vm_helper_at(uint32_t index)
{
	/* Linux numbers helpers from 1 without gaps */
	return index < ROWS - 1 ? &rows[index + 1] : NULL;
}

uint64_t helper_fault(struct vm_cpu *cpu, enum vm_fault_code code, const char *detail)
{
	cpu->fault.code = code;
	snprintf(cpu->fault.detail, sizeof(cpu->fault.detail), "%s", detail);
	return 0;
}
