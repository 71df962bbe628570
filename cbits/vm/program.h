/*
 * program.h - a program made runnable: what the decoder writes and the interpreter reads.
 *
 * Instruction i of the object is code[i], ld_imm64 included: its second slot holds the 64-bit number, so indexes in messages are the object's. A decoded
 * instruction is 16 bytes. Fields that an opcode does not use carry what the interpreter wants at hand:
 *
 *   LDX, STX, atomics   imm = byte offset in cpu->region of the region hit last (a guess, checked at each access)
 *   ST                  src = index of that region
 *   CALL                imm = index in call[]
 *   CALL_LOCAL          imm = distance, off = index of the callee in sub[]
 */
#ifndef SHMBPF_VM_PROGRAM_H
#define SHMBPF_VM_PROGRAM_H

#include "shmbpf/vm.h"

enum vm_op {
#define ISA(NAME, code, match, src, off, imm, form, version) VM_OP_##NAME,
#include "shmbpf/isa.def"
#undef ISA
	VM_OP_ISA_END,
	/* Decoder's own: calls that the interpreter does by itself. */
	VM_OP_TAIL_CALL = VM_OP_ISA_END,
	VM_OP_MAP_LOOKUP,
	VM_OPS,
};

enum {
	VM_MAX_SUBPROGS = 256,        /* BPF_MAX_SUBPROGS */
	VM_HELPER_MAP_LOOKUP = 1,
	VM_HELPER_MAP_UPDATE = 2,
	VM_HELPER_MAP_DELETE = 3,
	VM_HELPER_TAIL_CALL = 12,
	VM_HELPER_PERF_OUTPUT = 25,
	VM_HELPER_SPIN_UNLOCK = 94,
	VM_HELPER_RINGBUF_OUTPUT = 130,
	VM_HELPER_RINGBUF_RESERVE = 131,
	VM_HELPER_RINGBUF_QUERY = 134,
	VM_HELPER_FOR_EACH = 164,
	VM_HELPER_PERCPU_ELEM = 195,
	VM_HELPER_RINGBUF_RESERVE_DYNPTR = 198,
	VM_HELPER_USER_RINGBUF_DRAIN = 209,
};

struct vm_insn {
	union {
		const void *go;       /* label in the interpreter */
		uint64_t imm64;       /* second slot of ld_imm64 */
	};
	uint8_t dst;
	uint8_t src;
	int16_t off;
	union {
		int32_t imm;
		uint32_t hint;
	};
};

struct vm_sub {
	uint32_t start;
	uint32_t len;
};

struct vm_prog {
	struct vm_registry *registry;
	struct prog_image image;      /* insns are a private copy: the segment may change under us */
	struct vm_insn *code;
	const struct vm_helper **call;
	uint32_t call_cnt;
	uint32_t hook;
	struct map *map[PROG_MAX_MAPS];
	uint32_t region[PROG_MAX_MAPS]; /* of map[i] in cpu->region */
	uint32_t map_cnt;
	uint8_t plain_lookup[PROG_MAX_MAPS]; /* map[i] may be looked up, and its keys are at most 8 bytes */
	uint32_t other_cpus;          /* calls map_lookup_percpu_elem */
	struct vm_sub sub[VM_MAX_SUBPROGS];
	uint32_t sub_cnt;
	uint64_t ready_serial;        /* CPU whose regions have all maps of this program */
};

/*
 * A subprogram's address is a number no load can reach: non-canonical, recognisable in a register dump.
 */
#define VM_FUNC_TAG ((uint64_t)0xebf0 << 48)
#define VM_FUNC_MASK ((uint64_t)0xffff << 48)

/* Label addresses of the interpreter, by enum vm_op. */
const void *const *vm_labels(void);
/* Runs from code[start] in frame `frame` with r1..r5 = args. 0 or a fault code. */
int vm_interpret(struct vm_cpu *cpu, struct vm_prog *prog, uint32_t start, const uint64_t args[5], uint32_t frame, uint64_t *ret);

/* Makes `prog` the running program of a CPU: its maps reachable, nothing else. 0 or -errno. */
int vm_prog_enter(struct vm_cpu *cpu, struct vm_prog *prog);
/* Checks a call's arguments r1..r5 by the helper's row. 0, or the fault code with cpu->fault filled. */
int vm_check_args(struct vm_cpu *cpu, const struct vm_prog *prog, const struct vm_helper *helper, const uint64_t *reg);
/* The map of `prog` whose handle is `handle`, NULL for anything else. */
struct map *vm_prog_map(const struct vm_prog *prog, uint64_t handle);
/* The program a tail call goes to, or NULL: the call falls through. */
struct vm_prog *vm_tail_target(struct vm_cpu *cpu, struct vm_prog *prog, uint64_t map_handle, uint64_t index);
/* LD_ABS/LD_IND: 1 and the value in host order, 0 when the packet does not have these bytes. */
int vm_load_packet(const struct vm_cpu *cpu, int32_t off, uint32_t size, uint64_t *value);
/* vm_cpu.call. */
int vm_call_subprog(struct vm_cpu *cpu, uint64_t func, const uint64_t args[5], uint64_t *ret);

/* fault.insn while nobody has said where. */
enum { VM_NOWHERE = 0xffffffffu };

/* Records a fault; the first one of a run stays. Returns `code`. */
int vm_fault_set(struct vm_cpu *cpu, enum vm_fault_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same for an access of `size` bytes at `addr` that no region allows. */
int vm_fault_access(struct vm_cpu *cpu, uint64_t addr, uint32_t size, uint32_t write);
/* Says where: program and instruction, unless an inner run has said it. */
void vm_fault_locate(struct vm_cpu *cpu, const struct vm_prog *prog, uint32_t insn);

/* What a program may not contain, whatever path it takes: 0 or -EINVAL (-ENOMEM) with error->text. In the order of use. */
int vm_check_insns(const struct vm_prog *prog, struct vm_error *error);
int vm_refuse(struct vm_error *error, uint32_t insn, const char *format, ...) __attribute__((format(printf, 3, 4)));
int vm_find_subprogs(struct vm_prog *prog, struct vm_error *error);
int vm_check_flow(const struct vm_prog *prog, struct vm_error *error);
/* Index in sub[] of the subprogram that starts at `insn`, -1 for none. */
int vm_sub_at(const struct vm_prog *prog, uint64_t insn);

static inline uint32_t insn_dst(const struct bpf_insn *insn)
{
	return insn->regs & 15;
}

static inline uint32_t insn_src(const struct bpf_insn *insn)
{
	return insn->regs >> 4;
}

enum { CODE_LD_IMM64 = 0x18, CODE_EXIT = 0x95, CODE_JA = 0x05, CODE_JA32 = 0x06 };

#endif
