/*
 * vm.h - programs made runnable, and running them.
 */
#ifndef SHMBPF_VM_H
#define SHMBPF_VM_H

#include "helper.h"

/* Text of a refused load or a fault: one line, NUL-terminated. */
struct vm_error {
	uint32_t insn;
	char text[236];
};

/* What one run did. */
struct vm_result {
	uint64_t ret;                 /* r0 */
	uint64_t insns;               /* 0 unless counted */
	uint64_t duration_ns;
	uint32_t fault;               /* enum vm_fault_code; r0 then is the hook's abort verdict */
	uint32_t reserved;
};

/*
 * Process-local tables: map id -> struct map, program id -> struct vm_prog. Opens what it does not have yet by segment name, so that a CPU can follow a tail
 * call to a program that was loaded after it started.
 */
struct vm_registry *vm_registry_new(const char *prefix, struct shm_client *client);   /* prefix: "shmbpf.<uid>.<ns>" */
void vm_registry_free(struct vm_registry *registry);
/* NULL with *error (-errno) when it cannot be opened. The handle belongs to the registry. */
struct map *vm_registry_map(struct vm_registry *registry, uint32_t id, int *error);
struct vm_prog *vm_registry_prog(struct vm_registry *registry, uint32_t id, struct vm_error *error);
/* Forgets a program or map (closing it), so that nothing keeps its segment alive. */
void vm_registry_drop(struct vm_registry *registry, uint32_t kind, uint32_t id);
/* Opened so far, in order: a map's index is its `region` number. */
uint32_t vm_registry_map_count(const struct vm_registry *registry);
struct map *vm_registry_map_at(const struct vm_registry *registry, uint32_t index);

/* Checks and predecodes an image. NULL with error->text: "unknown helper 69 (bpf_fib_lookup) ...". Maps are opened through the registry. */
struct vm_prog *vm_prog_new(struct vm_registry *registry, const struct prog_image *image, struct vm_error *error);
void vm_prog_free(struct vm_prog *prog);
uint32_t vm_prog_hook(const struct vm_prog *prog);
uint32_t vm_prog_id(const struct vm_prog *prog);
const struct prog_image *vm_prog_image(const struct vm_prog *prog);

/* Runs from the first instruction with r1 = ctx. 0, or the fault code (details in cpu->fault; *ret is the hook's abort verdict). */
int vm_run(struct vm_cpu *cpu, struct vm_prog *prog, void *ctx, uint64_t *ret);
/* Runs with r1 = mem, r2 = len, mem being readable and writable: bare programs of the conformance suite. */
int vm_run_bare(struct vm_cpu *cpu, struct vm_prog *prog, uint8_t *mem, uint64_t len, uint64_t *ret);
/* BPF_PROG_TEST_RUN: semantics, limits and errno of Linux (reference: E.3). Buffers are the caller's; *_out lengths in/out. */
struct vm_test_run {
	const uint8_t *data_in;
	uint8_t *data_out;
	const uint8_t *ctx_in;
	uint8_t *ctx_out;
	uint32_t data_in_bytes;
	uint32_t data_out_bytes;      /* in: room, out: full length */
	uint32_t ctx_in_bytes;
	uint32_t ctx_out_bytes;       /* in: room, out: length */
	uint32_t repeat;
	uint32_t retval;
	uint64_t duration_ns;         /* per run */
	uint32_t fault;
	uint32_t redirect_ifindex;
};
int vm_test_run(struct vm_cpu *cpu, struct vm_prog *prog, struct vm_test_run *run);

/* The verdict a faulted program's packet gets: XDP_ABORTED, TC_ACT_SHOT, 0. */
uint64_t vm_abort_verdict(uint32_t hook);
uint32_t vm_hook_of(uint32_t prog_type);

/* One instruction as bpftool prints it ("r0 = *(u32 *)(r1 +4)"); returns the slots used (2 for ld_imm64). */
uint32_t vm_disasm(const struct bpf_insn *insn, uint32_t left, char *text, uint32_t text_bytes);

/* Which fields besides the opcode byte select a row of isa.def. */
enum vm_isa_match { ISA_SRC = 1, ISA_OFF = 2, ISA_IMM = 4 };

/* Operands of a row. Whatever is neither operand nor matched is reserved. */
enum vm_isa_form {
	ISA_ALU_K,                    /* dst, imm */
	ISA_ALU_X,                    /* dst, src */
	ISA_ALU_1,                    /* dst */
	ISA_JA,                       /* off */
	ISA_JA32,                     /* imm = distance */
	ISA_JMP_K,                    /* dst, imm, off */
	ISA_JMP_X,                    /* dst, src, off */
	ISA_MAY_GOTO,                 /* off */
	ISA_CALL,                     /* imm = helper */
	ISA_CALL_LOCAL,               /* imm = distance */
	ISA_CALL_KFUNC,               /* imm, off */
	ISA_EXIT,
	ISA_LDX,                      /* dst, src + off */
	ISA_ST,                       /* dst + off, imm */
	ISA_STX,                      /* dst + off, src */
	ISA_ATOMIC,                   /* dst + off, src */
	ISA_ATOMIC_FETCH,             /* dst + off, src; the old value goes to src */
	ISA_CMPXCHG,                  /* dst + off, src, r0 */
	ISA_LOAD_ACQ,                 /* dst, src + off */
	ISA_STORE_REL,                /* dst + off, src */
	ISA_IMM64,                    /* dst, imm of both slots */
	ISA_LD_ABS,                   /* imm */
	ISA_LD_IND,                   /* src + imm */
};

/* Rows of isa.def, for tests and tools; NULL past the end. */
struct vm_isa_row {
	const char *name;
	uint8_t code;
	uint8_t match;                /* enum vm_isa_match */
	uint8_t src;                  /* value of the matched fields */
	uint8_t form;                 /* enum vm_isa_form */
	int16_t off;
	uint8_t version;              /* -mcpu=v1..v4 */
	uint8_t reserved;
	int32_t imm;
	uint32_t op;                  /* index of the row */
};
const struct vm_isa_row *vm_isa_at(uint32_t index);
/* The row an instruction belongs to, NULL for an unknown opcode. Reserved fields are not looked at. */
const struct vm_isa_row *vm_isa_of(const struct bpf_insn *insn);

#endif
