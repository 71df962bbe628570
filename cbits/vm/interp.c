/*
 * interp.c - the interpreter: direct-threaded, one label per row of isa.def.
 *
 * A run lives in local variables: the registers, the next instruction, the budget, the saved frames. Whoever may look at them from outside (helpers, callbacks)
 * finds budget and frame in struct vm_cpu, stored around each helper call.
 *
 * Every load and store first tries the region the same instruction hit last time (region.h); only a miss searches. The budget is charged where programs can
 * go on for ever: at backward jumps (by the length of the loop body) and at calls (by the length of the callee).
 */
#include <string.h>

#include "maps/lookup.h"
#include "cpu/region.h"
#include "vm/program.h"

/* Global common subexpression elimination merges the dispatch jumps into one, which the branch predictor then cannot tell apart. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-gcse", "no-crossjumping")
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Program memory: any type, any alignment, shared with other processes. An aligned access is one machine access, so it never tears. */
typedef volatile uint8_t mem8 __attribute__((may_alias));
typedef volatile uint16_t mem16 __attribute__((may_alias, aligned(1)));
typedef volatile uint32_t mem32 __attribute__((may_alias, aligned(1)));
typedef volatile uint64_t mem64 __attribute__((may_alias, aligned(1)));
typedef uint8_t atom8 __attribute__((may_alias));
typedef uint16_t atom16 __attribute__((may_alias));
typedef uint32_t atom32 __attribute__((may_alias));
typedef uint64_t atom64 __attribute__((may_alias));

struct frame {
	struct vm_insn *back;
	struct vm_prog *prog;
	uint64_t saved[4];            /* r6..r9 */
	uint32_t may_goto;
};

/* Linux v6.12 kernel/bpf/core.c, ___bpf_prog_run() and the verifier's patches round division: x / 0 = 0, x % 0 = x, MIN / -1 = MIN. */
static inline uint64_t div64(uint64_t a, uint64_t b) { return b ? a / b : 0; }
static inline uint64_t mod64(uint64_t a, uint64_t b) { return b ? a % b : a; }
static inline uint32_t div32(uint32_t a, uint32_t b) { return b ? a / b : 0; }
static inline uint32_t mod32(uint32_t a, uint32_t b) { return b ? a % b : a; }
static inline int64_t sdiv64(int64_t a, int64_t b) { return b == -1 ? -a : b ? a / b : 0; }
static inline int64_t smod64(int64_t a, int64_t b) { return b == -1 ? 0 : b ? a % b : a; }
static inline int32_t sdiv32(int32_t a, int32_t b) { return b == -1 ? -a : b ? a / b : 0; }
static inline int32_t smod32(int32_t a, int32_t b) { return b == -1 ? 0 : b ? a % b : a; }

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TO_LE(bits, value) ((uint##bits##_t)(value))
#define TO_BE(bits, value) __builtin_bswap##bits((uint##bits##_t)(value))
#else
#define TO_LE(bits, value) __builtin_bswap##bits((uint##bits##_t)(value))
#define TO_BE(bits, value) ((uint##bits##_t)(value))
#endif

#define DST reg[insn->dst]
#define SRC reg[insn->src]
#define KU64 ((uint64_t)(int64_t)insn->imm)
#define KU32 ((uint32_t)insn->imm)
#define NEXT do { insn++; goto *insn->go; } while (0)

#define ALU(NAME, with64, with32) \
L_##NAME##64_X: { uint64_t a = DST, b = SRC; DST = (uint64_t)(with64); } NEXT; \
L_##NAME##64_K: { uint64_t a = DST, b = KU64; DST = (uint64_t)(with64); } NEXT; \
L_##NAME##32_X: { uint32_t a = (uint32_t)DST, b = (uint32_t)SRC; DST = (uint32_t)(with32); } NEXT; \
L_##NAME##32_K: { uint32_t a = (uint32_t)DST, b = KU32; DST = (uint32_t)(with32); } NEXT;

/* Distances count from the following instruction. A jump to or before itself pays for what it repeats. */
#define JUMP(distance) do { \
		int32_t d = (distance); \
		if (d < 0) { \
			budget += d; \
			if (unlikely(budget < 0)) \
				goto spent; \
		} \
		insn += d; \
		NEXT; \
	} while (0)

#define JMP(NAME, type, cast, op) \
L_##NAME##_X: if ((cast)(type)DST op (cast)(type)SRC) JUMP(insn->off); NEXT; \
L_##NAME##_K: if ((cast)(type)DST op (cast)(type)KU64) JUMP(insn->off); NEXT; \
L_##NAME##32_X: if ((JMP32_##cast)DST op (JMP32_##cast)SRC) JUMP(insn->off); NEXT; \
L_##NAME##32_K: if ((JMP32_##cast)DST op (JMP32_##cast)insn->imm) JUMP(insn->off); NEXT;
typedef int32_t JMP32_int64_t;
typedef uint32_t JMP32_uint64_t;

/* Leaves the address in `at` and the region in `where`, or goes to the fault. */
#define REACH(address, log2_size, writes, remember) do { \
		at = (address); \
		where = (const struct vm_region *)(regions + insn->hint); \
		if (unlikely(!vm_region_hit(where, at, log2_size, writes))) { \
			where = vm_region_reach(cpu, at, log2_size, writes, remember); \
			if (unlikely(!where)) { \
				size = 1u << (log2_size); \
				stores = writes; \
				goto bad_access; \
			} \
		} \
	} while (0)
#define LOAD(NAME, log2_size, memory) \
L_LDX_##NAME: REACH(SRC + (int64_t)insn->off, log2_size, 0, &insn->hint); DST = *(memory *)(uintptr_t)at; NEXT;
#define LOAD_SIGNED(NAME, log2_size, memory, number) \
L_LDXSX_##NAME: REACH(SRC + (int64_t)insn->off, log2_size, 0, &insn->hint); \
	DST = (uint64_t)(int64_t)(number)*(memory *)(uintptr_t)at; NEXT;
#define STORE(NAME, log2_size, memory) \
L_STX_##NAME: REACH(DST + (int64_t)insn->off, log2_size, 1, &insn->hint); *(memory *)(uintptr_t)at = SRC; NEXT; \
L_ST_##NAME: \
	at = DST + (int64_t)insn->off; \
	where = (const struct vm_region *)regions + insn->src; \
	if (unlikely(!vm_region_hit(where, at, log2_size, 1))) { \
		uint32_t found = insn->src * sizeof(struct vm_region); \
		where = vm_region_reach(cpu, at, log2_size, 1, &found); \
		size = 1u << (log2_size); \
		stores = 1; \
		if (unlikely(!where)) \
			goto bad_access; \
		if (found / sizeof(struct vm_region) <= UINT8_MAX) \
			insn->src = found / sizeof(struct vm_region); \
	} \
	*(memory *)(uintptr_t)at = insn->imm; NEXT;

/* Atomics are for stacks and map values, naturally aligned (Linux v6.12 kernel/bpf/verifier.c, check_atomic()). */
#define REACH_ATOM(address, log2_size, writes) do { \
		REACH(address, log2_size, writes, &insn->hint); \
		if (unlikely(at & ((1u << (log2_size)) - 1) || where->kind == VM_REGION_PACKET || where->allowed)) { \
			size = 1u << (log2_size); \
			goto bad_atomic; \
		} \
	} while (0)
#define ATOM_OP(NAME, function, SIZE, log2_size, atom, register_type) \
L_##NAME##_##SIZE: REACH_ATOM(DST + (int64_t)insn->off, log2_size, 1); \
	__atomic_fetch_##function((atom *)(uintptr_t)at, (register_type)SRC, __ATOMIC_RELAXED); NEXT; \
L_FETCH_##NAME##_##SIZE: REACH_ATOM(DST + (int64_t)insn->off, log2_size, 1); \
	SRC = (register_type)__atomic_fetch_##function((atom *)(uintptr_t)at, (register_type)SRC, __ATOMIC_SEQ_CST); NEXT;
#define ATOM(SIZE, log2_size, atom, type) \
	ATOM_OP(ADD, add, SIZE, log2_size, atom, type) ATOM_OP(OR, or, SIZE, log2_size, atom, type) \
	ATOM_OP(AND, and, SIZE, log2_size, atom, type) ATOM_OP(XOR, xor, SIZE, log2_size, atom, type) \
L_XCHG_##SIZE: REACH_ATOM(DST + (int64_t)insn->off, log2_size, 1); \
	SRC = (type)__atomic_exchange_n((atom *)(uintptr_t)at, (type)SRC, __ATOMIC_SEQ_CST); NEXT; \
L_CMPXCHG_##SIZE: REACH_ATOM(DST + (int64_t)insn->off, log2_size, 1); { \
		type old = (type)reg[0]; \
		__atomic_compare_exchange_n((atom *)(uintptr_t)at, &old, (type)SRC, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
		reg[0] = old; \
	} NEXT;
#define ACQ_REL(SIZE, log2_size, atom) \
L_LOAD_ACQ_##SIZE: REACH_ATOM(SRC + (int64_t)insn->off, log2_size, 0); DST = __atomic_load_n((atom *)(uintptr_t)at, __ATOMIC_ACQUIRE); NEXT; \
L_STORE_REL_##SIZE: REACH_ATOM(DST + (int64_t)insn->off, log2_size, 1); __atomic_store_n((atom *)(uintptr_t)at, SRC, __ATOMIC_RELEASE); NEXT;

/* Bytes the packet does not have end the function with 0 (Linux v6.12 net/core/filter.c, bpf_gen_ld_abs()). */
#define PACKET(NAME, bytes) \
L_LD_ABS_##NAME: \
	if (unlikely(reg[6] != context)) goto no_skb; \
	if (!vm_load_packet(cpu, insn->imm, bytes, &reg[0])) { reg[0] = 0; goto L_EXIT; } \
	NEXT; \
L_LD_IND_##NAME: \
	if (unlikely(reg[6] != context)) goto no_skb; \
	if (!vm_load_packet(cpu, (int32_t)((uint32_t)SRC + KU32), bytes, &reg[0])) { reg[0] = 0; goto L_EXIT; } \
	NEXT;

static const void *const *label_table;

/* With cpu == NULL only publishes the label table. */
static int interpret(struct vm_cpu *cpu, struct vm_prog *prog, uint32_t start, const uint64_t args[5], uint32_t base, uint64_t *ret)
{
	static const void *const labels[VM_OPS] = {
#define ISA(NAME, code, match, src, off, imm, form, version) [VM_OP_##NAME] = &&L_##NAME,
#include "shmbpf/isa.def"
#undef ISA
		[VM_OP_TAIL_CALL] = &&L_TAIL_CALL,
		[VM_OP_MAP_LOOKUP] = &&L_MAP_LOOKUP,
	};
	struct frame frames[VM_MAX_FRAMES];
	uint64_t reg[11] = { 0 };
	struct vm_insn *insn;
	const struct vm_region *where;
	const char *regions;
	uint64_t at, context;
	int64_t budget;
	uint32_t depth = base, may_goto = VM_MAX_LOOPS, size, stores;
	int code;

	if (!cpu) {
		label_table = labels;
		return 0;
	}
	regions = (const char *)cpu->region;
	context = cpu->region[VM_REGION_CTX].base;
	budget = (int64_t)cpu->budget;
	memcpy(&reg[1], args, 5 * sizeof(args[0]));
	reg[10] = (uint64_t)(uintptr_t)cpu->stack + (VM_MAX_FRAMES - depth) * VM_STACK_BYTES;
	insn = &prog->code[start];
	goto *insn->go;

	ALU(ADD, a + b, a + b)
	ALU(SUB, a - b, a - b)
	ALU(MUL, a * b, a * b)
	ALU(DIV, div64(a, b), div32(a, b))
	ALU(MOD, mod64(a, b), mod32(a, b))
	ALU(SDIV, sdiv64((int64_t)a, (int64_t)b), sdiv32((int32_t)a, (int32_t)b))
	ALU(SMOD, smod64((int64_t)a, (int64_t)b), smod32((int32_t)a, (int32_t)b))
	ALU(OR, a | b, a | b)
	ALU(AND, a & b, a & b)
	ALU(XOR, a ^ b, a ^ b)
	ALU(LSH, a << (b & 63), a << (b & 31))
	ALU(RSH, a >> (b & 63), a >> (b & 31))
	ALU(ARSH, (int64_t)a >> (b & 63), (int32_t)a >> (b & 31))

L_MOV64_X: DST = SRC; NEXT;
L_MOV64_K: DST = KU64; NEXT;
L_MOV32_X: DST = (uint32_t)SRC; NEXT;
L_MOV32_K: DST = KU32; NEXT;
L_MOVSX64_8: DST = (uint64_t)(int64_t)(int8_t)SRC; NEXT;
L_MOVSX64_16: DST = (uint64_t)(int64_t)(int16_t)SRC; NEXT;
L_MOVSX64_32: DST = (uint64_t)(int64_t)(int32_t)SRC; NEXT;
L_MOVSX32_8: DST = (uint32_t)(int8_t)SRC; NEXT;
L_MOVSX32_16: DST = (uint32_t)(int16_t)SRC; NEXT;
L_NEG64: DST = -DST; NEXT;
L_NEG32: DST = (uint32_t)-(uint32_t)DST; NEXT;
L_LE16: DST = TO_LE(16, DST); NEXT;
L_LE32: DST = TO_LE(32, DST); NEXT;
L_LE64: DST = TO_LE(64, DST); NEXT;
L_BE16: DST = TO_BE(16, DST); NEXT;
L_BE32: DST = TO_BE(32, DST); NEXT;
L_BE64: DST = TO_BE(64, DST); NEXT;
L_BSWAP16: DST = __builtin_bswap16((uint16_t)DST); NEXT;
L_BSWAP32: DST = __builtin_bswap32((uint32_t)DST); NEXT;
L_BSWAP64: DST = __builtin_bswap64(DST); NEXT;

L_JA: JUMP(insn->off);
L_JA32: JUMP(insn->imm);
	JMP(JEQ, uint64_t, uint64_t, ==)
	JMP(JNE, uint64_t, uint64_t, !=)
	JMP(JGT, uint64_t, uint64_t, >)
	JMP(JGE, uint64_t, uint64_t, >=)
	JMP(JLT, uint64_t, uint64_t, <)
	JMP(JLE, uint64_t, uint64_t, <=)
	JMP(JSGT, uint64_t, int64_t, >)
	JMP(JSGE, uint64_t, int64_t, >=)
	JMP(JSLT, uint64_t, int64_t, <)
	JMP(JSLE, uint64_t, int64_t, <=)
L_JSET_X: if (DST & SRC) JUMP(insn->off); NEXT;
L_JSET_K: if (DST & KU64) JUMP(insn->off); NEXT;
L_JSET32_X: if ((uint32_t)DST & (uint32_t)SRC) JUMP(insn->off); NEXT;
L_JSET32_K: if ((uint32_t)DST & KU32) JUMP(insn->off); NEXT;
L_MAY_GOTO:
	if (!may_goto)
		JUMP(insn->off);
	may_goto--;
	NEXT;

	LOAD(B, 0, mem8) LOAD(H, 1, mem16) LOAD(W, 2, mem32) LOAD(DW, 3, mem64)
	LOAD_SIGNED(B, 0, mem8, int8_t) LOAD_SIGNED(H, 1, mem16, int16_t) LOAD_SIGNED(W, 2, mem32, int32_t)
	STORE(B, 0, mem8) STORE(H, 1, mem16) STORE(W, 2, mem32) STORE(DW, 3, mem64)
	ATOM(W, 2, atom32, uint32_t)
	ATOM(DW, 3, atom64, uint64_t)
	ACQ_REL(B, 0, atom8) ACQ_REL(H, 1, atom16) ACQ_REL(W, 2, atom32) ACQ_REL(DW, 3, atom64)
	PACKET(B, 1) PACKET(H, 2) PACKET(W, 4)

L_LD_IMM64:
L_LD_MAP_FD:
L_LD_MAP_VALUE:
L_LD_FUNC:
	DST = insn[1].imm64;
	insn++;
	NEXT;

L_MAP_LOOKUP: {
		struct map *map = prog->map[(uint16_t)insn->off];
		const struct vm_region *stack = &cpu->region[VM_REGION_STACK];

		/* the map this call site had last, with a small key in the stack: no generic argument checks */
		if (likely(reg[1] == (uint64_t)(uintptr_t)map && prog->plain_lookup[insn->off] && reg[2] - stack->base < stack->room[3] &&
			   !cpu->spin_lock)) {
			reg[0] = (uint64_t)(uintptr_t)map_prog_lookup(map, cpu->client, (const void *)(uintptr_t)reg[2]);
			NEXT;
		}
		for (uint32_t i = 0; i < prog->map_cnt; i++)
			if (reg[1] == (uint64_t)(uintptr_t)prog->map[i])
				insn->off = (int16_t)i;
	}
	/* fall through */
L_CALL: {
		const struct vm_helper *helper = prog->call[insn->imm];

		if (unlikely(cpu->spin_lock && helper->id != VM_HELPER_SPIN_UNLOCK))
			goto locked_call;
		code = vm_check_args(cpu, prog, helper, reg);
		if (unlikely(code))
			goto stopped;
		cpu->budget = (uint64_t)budget;
		cpu->frame = depth;
		reg[0] = helper->fn(cpu, reg[1], reg[2], reg[3], reg[4], reg[5]);
		budget = (int64_t)cpu->budget;
		code = (int)cpu->fault.code;
		if (unlikely(code))
			goto stopped;
	}
	NEXT;

L_TAIL_CALL: {
		struct vm_prog *target;

		if (unlikely(cpu->spin_lock))
			goto locked_call;
		code = vm_check_args(cpu, prog, prog->call[insn->imm], reg);
		if (unlikely(code))
			goto stopped;
		target = vm_tail_target(cpu, prog, reg[2], reg[3]);
		if (!target)
			NEXT;
		/* The target replaces this frame only: a tail call in a subprogram returns to the subprogram's caller, as with Linux's JITs. */
		prog = target;
		may_goto = VM_MAX_LOOPS;
		budget -= prog->sub[0].len;
		if (unlikely(budget < 0))
			goto spent_in_callee;
		insn = prog->code;
		goto *insn->go;
	}

L_CALL_LOCAL:
	if (unlikely(depth + 1 >= VM_MAX_FRAMES))
		goto too_deep;
	budget -= prog->sub[insn->off].len;
	if (unlikely(budget < 0))
		goto spent;
	frames[depth] = (struct frame){ insn, prog, { reg[6], reg[7], reg[8], reg[9] }, may_goto };
	depth++;
	may_goto = VM_MAX_LOOPS;
	reg[10] -= VM_STACK_BYTES;
	vm_stack_frame(cpu, depth);
	insn += insn->imm;
	NEXT;

L_EXIT:
	if (depth == base) {
		if (unlikely(cpu->spin_lock && depth == 0))
			goto locked_exit;
		if (unlikely(cpu->span_used && depth == 0))
			goto leaking_exit;
		cpu->budget = (uint64_t)budget;
		*ret = reg[0];
		return 0;
	}
	depth--;
	insn = frames[depth].back;
	memcpy(&reg[6], frames[depth].saved, sizeof(frames[depth].saved));
	may_goto = frames[depth].may_goto;
	reg[10] += VM_STACK_BYTES;
	vm_stack_frame(cpu, depth);
	if (unlikely(prog != frames[depth].prog)) {
		prog = frames[depth].prog;
		vm_prog_enter(cpu, prog);
	}
	NEXT;

L_CALL_KFUNC:
	code = vm_fault_set(cpu, VM_FAULT_OPCODE, "call of a weak function that nothing defines");
	goto stopped;

L_LD_BTF_ID:
L_LD_MAP_IDX:
L_LD_MAP_IDX_VALUE:
	code = vm_fault_set(cpu, VM_FAULT_OPCODE, "opcode that the decoder refuses: the program was changed while it ran");
	goto stopped;

spent:
	code = vm_fault_set(cpu, VM_FAULT_BUDGET, "instruction budget of %llu spent: the program does not end", (unsigned long long)cpu->budget_limit);
	goto stopped;
spent_in_callee:
	insn = prog->code;
	goto spent;
too_deep:
	code = vm_fault_set(cpu, VM_FAULT_STACK, "call would be frame %u: at most %u may be active", depth + 2, VM_MAX_FRAMES);
	goto stopped;
bad_access:
	code = vm_fault_access(cpu, at, size, stores);
	goto stopped;
bad_atomic:
	cpu->fault.addr = at;
	cpu->fault.size = size;
	cpu->fault.write = 1;
	code = vm_fault_set(cpu, VM_FAULT_MEMORY, at & (size - 1) ? "atomic operation on %u bytes at an address that is not a multiple of that"
								  : "atomic operation on %u bytes of packet or context: only stack and map values allow it", size);
	goto stopped;
no_skb:
	code = vm_fault_set(cpu, VM_FAULT_CTX, "packet load while r6 is not the context");
	goto stopped;
locked_call:
	code = vm_fault_set(cpu, VM_FAULT_LOCK, "helper bpf_%s called while holding a bpf_spin_lock: only bpf_spin_unlock is allowed",
			    prog->call[insn->imm]->name);
	goto stopped;
locked_exit:
	code = vm_fault_set(cpu, VM_FAULT_LOCK, "exit while holding a bpf_spin_lock: bpf_spin_unlock is missing");
	goto stopped;
leaking_exit:
	code = vm_fault_set(cpu, VM_FAULT_HELPER, "Unreleased reference: exit with %u ring buffer record(s) neither submitted nor discarded", cpu->span_used);
stopped:
	vm_fault_locate(cpu, prog, (uint32_t)(insn - prog->code));
	cpu->budget = budget > 0 ? (uint64_t)budget : 0;
	return code;
}

const void *const *vm_labels(void)
{
	if (!label_table)
		interpret(NULL, NULL, 0, NULL, 0, NULL);
	return label_table;
}

int vm_interpret(struct vm_cpu *cpu, struct vm_prog *prog, uint32_t start, const uint64_t args[5], uint32_t frame, uint64_t *ret)
{
	return interpret(cpu, prog, start, args, frame, ret);
}
