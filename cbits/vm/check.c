/*
 * check.c - what every single instruction must satisfy: a known opcode, reserved fields zero, registers that exist, operands in range.
 *
 * These are the checks Linux makes of each instruction whatever path leads to it (Linux v6.12 kernel/bpf/verifier.c: resolve_pseudo_ldimm64(), check_alu_op(),
 * check_cond_jmp_op(), check_ld_abs(), check_helper_call()). Bare programs (no hook) come from instruction-set tests, where a division by a constant zero has
 * a defined result: they are spared the checks that only refuse pointless code.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vm/program.h"

enum { MAX_REG = 10 };

/* Operand fields of a form, and what it does to them. */
enum { USE_DST = 1, USE_SRC = 2, USE_OFF = 4, USE_IMM = 8, WRITE_DST = 16, WRITE_SRC = 32 };

static const uint8_t uses[] = {
	[ISA_ALU_K] = USE_DST | USE_IMM | WRITE_DST,
	[ISA_ALU_X] = USE_DST | USE_SRC | WRITE_DST,
	[ISA_ALU_1] = USE_DST | WRITE_DST,
	[ISA_JA] = USE_OFF,
	[ISA_JA32] = USE_IMM,
	[ISA_JMP_K] = USE_DST | USE_OFF | USE_IMM,
	[ISA_JMP_X] = USE_DST | USE_SRC | USE_OFF,
	[ISA_MAY_GOTO] = USE_OFF,
	[ISA_CALL] = USE_IMM,
	[ISA_CALL_LOCAL] = USE_IMM,
	[ISA_CALL_KFUNC] = USE_IMM | USE_OFF,
	[ISA_EXIT] = 0,
	[ISA_LDX] = USE_DST | USE_SRC | USE_OFF | WRITE_DST,
	[ISA_ST] = USE_DST | USE_OFF | USE_IMM,
	[ISA_STX] = USE_DST | USE_SRC | USE_OFF,
	[ISA_ATOMIC] = USE_DST | USE_SRC | USE_OFF,
	[ISA_ATOMIC_FETCH] = USE_DST | USE_SRC | USE_OFF | WRITE_SRC,
	[ISA_CMPXCHG] = USE_DST | USE_SRC | USE_OFF,
	[ISA_LOAD_ACQ] = USE_DST | USE_SRC | USE_OFF | WRITE_DST,
	[ISA_STORE_REL] = USE_DST | USE_SRC | USE_OFF,
	[ISA_IMM64] = USE_DST | USE_IMM | WRITE_DST,
	[ISA_LD_ABS] = USE_IMM,
	[ISA_LD_IND] = USE_SRC | USE_IMM,
};

int vm_refuse(struct vm_error *error, uint32_t insn, const char *format, ...)
{
	va_list list;

	error->insn = insn;
	va_start(list, format);
	vsnprintf(error->text, sizeof(error->text), format, list);
	va_end(list);
	return -EINVAL;
}

static int check_fields(const struct bpf_insn *insn, const struct vm_isa_row *row, uint32_t at, struct vm_error *error)
{
	uint32_t used = uses[row->form], dst = insn_dst(insn), src = insn_src(insn);
	const char *field = NULL;

	if (!(used & USE_DST) && dst)
		field = "dst";
	else if (!(used & USE_SRC) && !(row->match & ISA_SRC) && src)
		field = "src";
	else if (!(used & USE_OFF) && !(row->match & ISA_OFF) && insn->off)
		field = "off";
	else if (!(used & USE_IMM) && !(row->match & ISA_IMM) && insn->imm)
		field = "imm";
	if (field)
		return vm_refuse(error, at, "opcode %02x (%s) uses reserved fields: %s must be 0", insn->code, row->name, field);
	if ((used & USE_DST && dst > MAX_REG) || (used & USE_SRC && src > MAX_REG))
		return vm_refuse(error, at, "R%u is invalid: registers are r0 to r10", dst > MAX_REG ? dst : src);
	if ((used & WRITE_DST && dst == MAX_REG) || (used & WRITE_SRC && src == MAX_REG))
		return vm_refuse(error, at, "frame pointer is read only: %s writes r10", row->name);
	return 0;
}

static int is_division(uint32_t op)
{
	switch (op) {
	case VM_OP_DIV64_K: case VM_OP_DIV32_K: case VM_OP_MOD64_K: case VM_OP_MOD32_K:
	case VM_OP_SDIV64_K: case VM_OP_SDIV32_K: case VM_OP_SMOD64_K: case VM_OP_SMOD32_K:
		return 1;
	}
	return 0;
}

static uint32_t shift_limit(uint32_t op)
{
	switch (op) {
	case VM_OP_LSH64_K: case VM_OP_RSH64_K: case VM_OP_ARSH64_K:
		return 64;
	case VM_OP_LSH32_K: case VM_OP_RSH32_K: case VM_OP_ARSH32_K:
		return 32;
	}
	return 0;
}

static int check_constant(const struct bpf_insn *insn, const struct vm_isa_row *row, uint32_t at, struct vm_error *error)
{
	uint32_t limit = shift_limit(row->op);

	if (is_division(row->op) && !insn->imm)
		return vm_refuse(error, at, "div by zero: %s with the constant 0", row->name);
	if (limit && (uint32_t)insn->imm >= limit)
		return vm_refuse(error, at, "invalid shift %d: %s shifts by 0 to %u", insn->imm, row->name, limit - 1);
	return 0;
}

static const char *hook_name(uint32_t hook)
{
	static const char *const names[] = {
		[VM_HOOK_NONE] = "bare", [VM_HOOK_SOCKET] = "socket filter", [VM_HOOK_TC] = "tc classifier", [VM_HOOK_ACT] = "tc action", [VM_HOOK_XDP] = "XDP",
	};

	return hook < sizeof(names) / sizeof(names[0]) ? names[hook] : "unknown";
}

/* A bare program has no context and no maps: it may call what every hook may. */
static int callable(const struct vm_helper *helper, uint32_t hook)
{
	return hook == VM_HOOK_NONE ? helper->hooks == HOOK_BITS_ALL : helper->hooks >> hook & 1;
}

static int check_helper(const struct vm_prog *prog, const struct bpf_insn *insn, uint32_t at, struct vm_error *error)
{
	const struct vm_helper *helper = vm_helper_of((uint32_t)insn->imm);

	if (!helper)
		return vm_refuse(error, at, "unknown helper %d: no Linux helper has this number", insn->imm);
	if (!helper->hooks)
		return vm_refuse(error, at, "unknown helper %d (bpf_%s): it is not implemented here", insn->imm, helper->name);
	if (!callable(helper, prog->hook))
		return vm_refuse(error, at, "helper %d (bpf_%s) is unavailable to %s programs", insn->imm, helper->name, hook_name(prog->hook));
	if (helper->gpl && prog->hook != VM_HOOK_NONE && !prog->image.ctl->gpl)
		return vm_refuse(error, at, "cannot call GPL-restricted helper %d (bpf_%s) from non-GPL compatible program", insn->imm, helper->name);
	return 0;
}

static int check_imm64(const struct vm_prog *prog, const struct vm_isa_row *row, uint32_t at, struct vm_error *error)
{
	const struct bpf_insn *second = &prog->image.insns[at + 1];

	if (at + 1 >= prog->image.insn_cnt || second->code || second->regs || second->off)
		return vm_refuse(error, at, "invalid bpf_ld_imm64 insn: its second slot is missing or not empty");
	if ((row->op == VM_OP_LD_MAP_FD || row->op == VM_OP_LD_FUNC) && second->imm)
		return vm_refuse(error, at, "unrecognized bpf_ld_imm64 insn: imm of the second slot must be 0");
	if (row->op == VM_OP_LD_BTF_ID)
		return vm_refuse(error, at, "ld_imm64 of a kernel variable (BTF id %d): there is no kernel here", prog->image.insns[at].imm);
	if (row->op == VM_OP_LD_MAP_IDX || row->op == VM_OP_LD_MAP_IDX_VALUE)
		return vm_refuse(error, at, "ld_imm64 by map index: the loader should have replaced it by a map id");
	return 0;
}

static int check_special(const struct vm_prog *prog, const struct vm_isa_row *row, uint32_t at, struct vm_error *error)
{
	const struct bpf_insn *insn = &prog->image.insns[at];

	switch (row->form) {
	case ISA_ALU_K:
		return prog->hook == VM_HOOK_NONE ? 0 : check_constant(insn, row, at, error);
	case ISA_CALL:
		return check_helper(prog, insn, at, error);
	case ISA_CALL_KFUNC:
		if (!insn->imm && !insn->off)   /* the loader's mark of a weak function that nobody defines: fine as long as nobody gets here */
			return 0;
		return vm_refuse(error, at, "calling kernel function %d is not allowed: there are no kfuncs here", insn->imm);
	case ISA_LD_ABS:
	case ISA_LD_IND:
		if (!(HOOK_BITS_SKB >> prog->hook & 1))
			return vm_refuse(error, at, "BPF_LD_[ABS|IND] instructions not allowed for %s programs", hook_name(prog->hook));
		return 0;
	case ISA_IMM64:
		return check_imm64(prog, row, at, error);
	}
	return 0;
}

int vm_check_insns(const struct vm_prog *prog, struct vm_error *error)
{
	for (uint32_t at = 0; at < prog->image.insn_cnt; at++) {
		const struct bpf_insn *insn = &prog->image.insns[at];
		const struct vm_isa_row *row = vm_isa_of(insn);
		int err;

		if (!row)
			return vm_refuse(error, at, "unknown opcode %02x (src %u, off %d, imm %d)", insn->code, insn_src(insn), insn->off, insn->imm);
		err = check_fields(insn, row, at, error);
		if (!err)
			err = check_special(prog, row, at, error);
		if (err)
			return err;
		if (row->form == ISA_IMM64)
			at++;
	}
	return 0;
}
