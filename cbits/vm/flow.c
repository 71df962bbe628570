/*
 * flow.c - where control can go: subprograms, jump targets, reachability (Linux v6.12 kernel/bpf/verifier.c: add_subprog(), check_subprogs(), check_cfg()).
 *
 * Subprograms are contiguous: each starts at a call target, a callback address, or 0, and ends where the next one starts. Jumps stay inside. When all checks
 * pass, the interpreter can follow any instruction without looking at bounds again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/program.h"

int vm_sub_at(const struct vm_prog *prog, uint64_t insn)
{
	uint32_t low = 0, high = prog->sub_cnt;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (prog->sub[middle].start == insn)
			return (int)middle;
		if (prog->sub[middle].start < insn)
			low = middle + 1;
		else
			high = middle;
	}
	return -1;
}

static int add_sub(struct vm_prog *prog, uint32_t at, int64_t target, struct vm_error *error)
{
	uint32_t place = 0;

	if (target < 0 || target >= prog->image.insn_cnt)
		return vm_refuse(error, at, "call to invalid destination %lld: the program has instructions 0 to %u", (long long)target,
				 prog->image.insn_cnt - 1);
	if (vm_sub_at(prog, (uint64_t)target) >= 0)
		return 0;
	if (prog->sub_cnt == VM_MAX_SUBPROGS)
		return vm_refuse(error, at, "too many subprograms: at most %d", VM_MAX_SUBPROGS);
	while (place < prog->sub_cnt && prog->sub[place].start < target)
		place++;
	memmove(&prog->sub[place + 1], &prog->sub[place], (prog->sub_cnt - place) * sizeof(prog->sub[0]));
	prog->sub[place].start = (uint32_t)target;
	prog->sub_cnt++;
	return 0;
}

static int is_wide(const struct bpf_insn *insn)
{
	return insn->code == CODE_LD_IMM64;
}

static int calls_sub(const struct vm_isa_row *row)
{
	return row->op == VM_OP_CALL_LOCAL || row->op == VM_OP_LD_FUNC;
}

int vm_find_subprogs(struct vm_prog *prog, struct vm_error *error)
{
	uint32_t count = prog->image.insn_cnt;

	prog->sub[0].start = 0;
	prog->sub_cnt = 1;
	for (uint32_t at = 0; at < count; at += 1 + is_wide(&prog->image.insns[at])) {
		const struct bpf_insn *insn = &prog->image.insns[at];
		int err = calls_sub(vm_isa_of(insn)) ? add_sub(prog, at, (int64_t)at + insn->imm + 1, error) : 0;

		if (err)
			return err;
	}
	for (uint32_t i = 0; i < prog->sub_cnt; i++)
		prog->sub[i].len = (i + 1 < prog->sub_cnt ? prog->sub[i + 1].start : count) - prog->sub[i].start;
	return 0;
}

enum { MARK_START = 1, MARK_REACHED = 2 };
enum { FALLS = 1, JUMPS = 2, CALLS = 4 };

/* How control leaves an instruction: through, to a jump target, into a subprogram. */
static uint32_t leaves(const struct vm_isa_row *row)
{
	switch (row->form) {
	case ISA_EXIT:
		return 0;
	case ISA_JA:
	case ISA_JA32:
		return JUMPS;
	case ISA_JMP_K:
	case ISA_JMP_X:
	case ISA_MAY_GOTO:
		return FALLS | JUMPS;
	}
	return calls_sub(row) ? FALLS | CALLS : FALLS;
}

static int64_t target_of(const struct bpf_insn *insn, const struct vm_isa_row *row, uint32_t at)
{
	int by_imm = row->form == ISA_JA32 || calls_sub(row);

	return (int64_t)at + 1 + (by_imm ? insn->imm : insn->off);
}

static int check_sub(const struct vm_prog *prog, const struct vm_sub *sub, const uint8_t *marks, struct vm_error *error)
{
	uint32_t end = sub->start + sub->len, last = sub->start;

	if (!(marks[sub->start] & MARK_START))
		return vm_refuse(error, sub->start, "call into the middle of ldimm64");
	for (uint32_t at = sub->start; at < end; at += 1 + is_wide(&prog->image.insns[at])) {
		const struct bpf_insn *insn = &prog->image.insns[at];
		const struct vm_isa_row *row = vm_isa_of(insn);
		int64_t target = target_of(insn, row, at);

		last = at;
		if (!(leaves(row) & (JUMPS | CALLS)))
			continue;
		if (leaves(row) & JUMPS && (target < sub->start || target >= end))
			return vm_refuse(error, at, "jump out of range from insn %u to %lld: its function is %u to %u", at, (long long)target, sub->start, end - 1);
		if (!(marks[target] & MARK_START))
			return vm_refuse(error, at, "jump into the middle of ldimm64 insn %lld", (long long)target - 1);
	}
	if (leaves(vm_isa_of(&prog->image.insns[last])) & FALLS)
		return vm_refuse(error, last, "last insn is not an exit or jmp");
	return 0;
}

/* Depth-first with an explicit stack; every instruction is pushed at most once. */
static int check_reachable(const struct vm_prog *prog, uint8_t *marks, uint32_t *stack, struct vm_error *error)
{
	uint32_t depth = 0, count = prog->image.insn_cnt;

	stack[depth++] = 0;
	marks[0] |= MARK_REACHED;
	while (depth) {
		uint32_t at = stack[--depth], next[2], found = 0;
		const struct bpf_insn *insn = &prog->image.insns[at];
		const struct vm_isa_row *row = vm_isa_of(insn);

		if (leaves(row) & FALLS)
			next[found++] = at + 1 + is_wide(insn);
		if (leaves(row) & (JUMPS | CALLS))
			next[found++] = (uint32_t)target_of(insn, row, at);
		for (uint32_t i = 0; i < found; i++) {
			if (marks[next[i]] & MARK_REACHED)
				continue;
			marks[next[i]] |= MARK_REACHED;
			stack[depth++] = next[i];
		}
	}
	for (uint32_t at = 0; at < count; at++)
		if (marks[at] == MARK_START)
			return vm_refuse(error, at, "unreachable insn %u", at);
	return 0;
}

int vm_check_flow(const struct vm_prog *prog, struct vm_error *error)
{
	uint32_t count = prog->image.insn_cnt;
	uint8_t *marks = calloc(count, 1);
	uint32_t *stack = calloc(count, sizeof(*stack));
	int err = marks && stack ? 0 : vm_refuse(error, 0, "out of memory for %u instructions", count);

	for (uint32_t at = 0; !err && at < count; at += 1 + is_wide(&prog->image.insns[at]))
		marks[at] = MARK_START;
	for (uint32_t i = 0; !err && i < prog->sub_cnt; i++)
		err = check_sub(prog, &prog->sub[i], marks, error);
	if (!err && prog->hook != VM_HOOK_NONE)
		err = check_reachable(prog, marks, stack, error);
	free(stack);
	free(marks);
	return err;
}
