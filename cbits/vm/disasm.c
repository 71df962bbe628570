/*
 * disasm.c - instructions as text, in the words of the kernel's log and of `bpftool prog dump xlated` (Linux v6.12 kernel/bpf/disasm.c, print_bpf_insn()).
 *
 * Works on one instruction without its program, so references keep the object's numbers: map[id:3], pc+4, subprog[+4].
 */
#include <stdio.h>

#include "vm/program.h"

struct line {
	char *text;
	uint32_t bytes;
	const struct bpf_insn *insn;
	const struct vm_isa_row *row;
};

static const char *const alu_sign[16] = {
	[0x0] = "+=", [0x1] = "-=", [0x2] = "*=", [0x3] = "/=", [0x4] = "|=", [0x5] = "&=", [0x6] = "<<=", [0x7] = ">>=",
	[0x9] = "%=", [0xa] = "^=", [0xb] = "=", [0xc] = "s>>=",
};

static const char *const jump_sign[16] = {
	[0x1] = "==", [0x2] = ">", [0x3] = ">=", [0x4] = "&", [0x5] = "!=", [0x6] = "s>", [0x7] = "s>=", [0xa] = "<", [0xb] = "<=", [0xc] = "s<", [0xd] = "s<=",
};

/* By the size bits of the opcode: W, H, B, DW. */
static const char *const unsigned_type[4] = { "u32", "u16", "u8", "u64" };
static const char *const signed_type[4] = { "s32", "s16", "s8", "s64" };

static const char *type_of(const struct bpf_insn *insn)
{
	return unsigned_type[insn->code >> 3 & 3];
}

static int is_32bit(const struct bpf_insn *insn)
{
	uint32_t class = insn->code & 7;

	return class == 4 || class == 6;
}

static char bank(const struct bpf_insn *insn)
{
	return is_32bit(insn) ? 'w' : 'r';
}

#define PRINT(...) snprintf(line->text, line->bytes, __VA_ARGS__)

static const char *sign_of(const struct line *line)
{
	if (line->row->match & ISA_OFF && line->row->off == 1)
		return line->insn->code >> 4 == 0x3 ? "s/=" : "s%=";
	return alu_sign[line->insn->code >> 4];
}

static void alu_k(const struct line *line)
{
	PRINT("%c%u %s %d", bank(line->insn), insn_dst(line->insn), sign_of(line), line->insn->imm);
}

static void alu_x(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;
	char reg = bank(insn);

	if (line->row->match & ISA_OFF && line->row->off > 1)
		PRINT("%c%u = (s%d)%c%u", reg, insn_dst(insn), insn->off, reg, insn_src(insn));
	else
		PRINT("%c%u %s %c%u", reg, insn_dst(insn), sign_of(line), reg, insn_src(insn));
}

static void alu_1(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;
	uint32_t dst = insn_dst(insn);

	if ((insn->code & 0xf0) == 0x80)
		PRINT("%c%u = -%c%u", bank(insn), dst, bank(insn), dst);
	else
		PRINT("r%u = %s%d r%u", dst, (insn->code & 7) == 7 ? "bswap" : insn->code & 8 ? "be" : "le", insn->imm, dst);
}

static void ja(const struct line *line)
{
	PRINT("goto pc%+d", line->insn->off);
}

static void ja32(const struct line *line)
{
	PRINT("gotol pc%+d", line->insn->imm);
}

static void jmp_k(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;

	PRINT("if %c%u %s 0x%x goto pc%+d", bank(insn), insn_dst(insn), jump_sign[insn->code >> 4], (uint32_t)insn->imm, insn->off);
}

static void jmp_x(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;

	PRINT("if %c%u %s %c%u goto pc%+d", bank(insn), insn_dst(insn), jump_sign[insn->code >> 4], bank(insn), insn_src(insn), insn->off);
}

static void may_goto(const struct line *line)
{
	PRINT("may_goto pc%+d", line->insn->off);
}

static void call(const struct line *line)
{
	const struct vm_helper *helper = vm_helper_of((uint32_t)line->insn->imm);

	PRINT("call %s%s#%d", helper ? "bpf_" : "", helper ? helper->name : "unknown", line->insn->imm);
}

static void call_local(const struct line *line)
{
	PRINT("call pc%+d", line->insn->imm);
}

static void call_kfunc(const struct line *line)
{
	PRINT("call kernel-function#%d", line->insn->imm);
}

static void exit_insn(const struct line *line)
{
	PRINT("exit");
}

static void ldx(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;
	int is_signed = (insn->code & 0xe0) == 0x80;
	const char *type = is_signed ? signed_type[insn->code >> 3 & 3] : type_of(insn);

	PRINT("r%u = *(%s *)(r%u %+d)", insn_dst(insn), type, insn_src(insn), insn->off);
}

static void st(const struct line *line)
{
	PRINT("*(%s *)(r%u %+d) = %d", type_of(line->insn), insn_dst(line->insn), line->insn->off, line->insn->imm);
}

static void stx(const struct line *line)
{
	PRINT("*(%s *)(r%u %+d) = r%u", type_of(line->insn), insn_dst(line->insn), line->insn->off, insn_src(line->insn));
}

static void atomic(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;

	PRINT("lock *(%s *)(r%u %+d) %s r%u", type_of(insn), insn_dst(insn), insn->off, alu_sign[insn->imm >> 4 & 15], insn_src(insn));
}

static const char *width_of(const struct bpf_insn *insn)
{
	return (insn->code & 0x18) == 0x18 ? "64" : "";
}

static void atomic_fetch(const struct line *line)
{
	static const char *const words[16] = { [0x0] = "fetch_add", [0x4] = "fetch_or", [0x5] = "fetch_and", [0xa] = "fetch_xor", [0xe] = "xchg" };
	const struct bpf_insn *insn = line->insn;
	uint32_t src = insn_src(insn);

	PRINT("r%u = atomic%s_%s((%s *)(r%u %+d), r%u)", src, width_of(insn), words[insn->imm >> 4 & 15], type_of(insn), insn_dst(insn), insn->off, src);
}

static void cmpxchg(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;

	PRINT("r0 = atomic%s_cmpxchg((%s *)(r%u %+d), r0, r%u)", width_of(insn), type_of(insn), insn_dst(insn), insn->off, insn_src(insn));
}

static void load_acq(const struct line *line)
{
	PRINT("r%u = load_acquire((%s *)(r%u %+d))", insn_dst(line->insn), type_of(line->insn), insn_src(line->insn), line->insn->off);
}

static void store_rel(const struct line *line)
{
	PRINT("store_release((%s *)(r%u %+d), r%u)", type_of(line->insn), insn_dst(line->insn), line->insn->off, insn_src(line->insn));
}

static void imm64(const struct line *line)
{
	const struct bpf_insn *insn = line->insn;
	uint32_t dst = insn_dst(insn);

	switch (insn_src(insn)) {
	case BPF_PSEUDO_MAP_FD:
		PRINT("r%u = map[id:%u]", dst, (uint32_t)insn->imm);
		break;
	case BPF_PSEUDO_MAP_VALUE:
		PRINT("r%u = map[id:%u][0]+%u", dst, (uint32_t)insn->imm, (uint32_t)insn[1].imm);
		break;
	case BPF_PSEUDO_FUNC:
		PRINT("r%u = subprog[%+d]", dst, insn->imm);
		break;
	default:
		PRINT("r%u = 0x%llx", dst, (unsigned long long)((uint64_t)(uint32_t)insn[1].imm << 32 | (uint32_t)insn->imm));
	}
}

static void ld_abs(const struct line *line)
{
	PRINT("r0 = *(%s *)skb[%d]", type_of(line->insn), line->insn->imm);
}

static void ld_ind(const struct line *line)
{
	PRINT("r0 = *(%s *)skb[r%u + %d]", type_of(line->insn), insn_src(line->insn), line->insn->imm);
}

typedef void (*print_fn)(const struct line *line);

static const print_fn printers[] = {
	[ISA_ALU_K] = alu_k, [ISA_ALU_X] = alu_x, [ISA_ALU_1] = alu_1, [ISA_JA] = ja, [ISA_JA32] = ja32, [ISA_JMP_K] = jmp_k, [ISA_JMP_X] = jmp_x,
	[ISA_MAY_GOTO] = may_goto, [ISA_CALL] = call, [ISA_CALL_LOCAL] = call_local, [ISA_CALL_KFUNC] = call_kfunc, [ISA_EXIT] = exit_insn, [ISA_LDX] = ldx,
	[ISA_ST] = st, [ISA_STX] = stx, [ISA_ATOMIC] = atomic, [ISA_ATOMIC_FETCH] = atomic_fetch, [ISA_CMPXCHG] = cmpxchg, [ISA_LOAD_ACQ] = load_acq,
	[ISA_STORE_REL] = store_rel, [ISA_IMM64] = imm64, [ISA_LD_ABS] = ld_abs, [ISA_LD_IND] = ld_ind,
};

uint32_t vm_disasm(const struct bpf_insn *insn, uint32_t left, char *text, uint32_t text_bytes)
{
	const struct vm_isa_row *row = left ? vm_isa_of(insn) : NULL;
	const struct line whole = { text, text_bytes, insn, row }, *line = &whole;

	if (!row) {
		PRINT(left ? "unknown opcode %02x" : "no instruction", left ? insn->code : 0);
		return 1;
	}
	if (row->form == ISA_IMM64 && left < 2) {
		PRINT("ld_imm64 without its second slot");
		return 1;
	}
	printers[row->form](line);
	return row->form == ISA_IMM64 ? 2 : 1;
}
