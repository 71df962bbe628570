/*
 * isa.c - isa.def as a table, and the way from an instruction to its row.
 */
#include "vm/program.h"

static const struct vm_isa_row rows[] = {
#define ISA(NAME, opcode, fields, source, offset, immediate, operands, mcpu) \
	{ .name = #NAME, .code = opcode, .match = fields, .src = source, .off = offset, .imm = immediate, .form = operands, .version = mcpu, \
	  .op = VM_OP_##NAME },
#include "shmbpf/isa.def"
#undef ISA
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]), END = 0xff };

/* Rows of one opcode, chained in table order. */
static uint8_t first[256], next[ROWS];

_Static_assert(ROWS < END, "row numbers fit a byte");

static __attribute__((constructor)) void chain_rows(void)
{
	for (int code = 0; code < 256; code++)
		first[code] = END;
	for (int i = ROWS - 1; i >= 0; i--) {
		next[i] = first[rows[i].code];
		first[rows[i].code] = (uint8_t)i;
	}
}

const struct vm_isa_row *vm_isa_at(uint32_t index)
{
	return index < ROWS ? &rows[index] : NULL;
}

static int matches(const struct vm_isa_row *row, const struct bpf_insn *insn)
{
	return (!(row->match & ISA_SRC) || row->src == insn_src(insn)) && (!(row->match & ISA_OFF) || row->off == insn->off) &&
	       (!(row->match & ISA_IMM) || row->imm == insn->imm);
}

const struct vm_isa_row *vm_isa_of(const struct bpf_insn *insn)
{
	for (uint8_t i = first[insn->code]; i != END; i = next[i])
		if (matches(&rows[i], insn))
			return &rows[i];
	return NULL;
}
