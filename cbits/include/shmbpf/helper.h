/*
 * helper.h - the helper table, compiled from helpers.def.
 */
#ifndef SHMBPF_HELPER_H
#define SHMBPF_HELPER_H

#include "cpu.h"

enum vm_arg {
	ARG_NONE = 0,
	ARG_ANY = 1,                  /* a scalar; not checked */
	ARG_CTX = 2,                  /* the running program's context */
	ARG_MAP = 3,                  /* a struct map handle the program refers to */
	ARG_MAP_KEY = 4,              /* key_size readable bytes */
	ARG_MAP_VALUE = 5,            /* value_size readable bytes */
	ARG_MEM_READ = 6,             /* readable; the next argument is its size */
	ARG_MEM_READ_OR_NULL = 7,     /* as above; NULL allowed when the size is 0 */
	ARG_MEM_WRITE = 8,            /* writable; the next argument is its size */
	ARG_SIZE = 9,                 /* size of the previous memory argument, > 0 */
	ARG_SIZE_OR_ZERO = 10,
	ARG_SPIN_LOCK = 11,           /* address of the spin lock in a map value */
	ARG_FUNC = 12,                /* callback address from ld_imm64 PSEUDO_FUNC */
	ARG_STACK_OR_NULL = 13,       /* a stack address or NULL: callback context */
	ARG_CONST_STR = 14,           /* NUL-terminated string in read-only map memory */
	ARG_LONG_WRITE = 15,          /* 8 writable, aligned bytes */
	ARG_MEM_WRITE_OR_NULL = 16,   /* writable; NULL allowed when the size, the next argument, is 0 */
	ARG_RECORD = 17,              /* start of a reserved ring buffer record, which the helper gives up */
	ARG_DYNPTR_NEW = 18,          /* 16 aligned bytes of stack that become a dynptr */
	ARG_DYNPTR = 19,              /* an initialised dynptr */
	ARG_DYNPTR_RECORD = 20,       /* the dynptr of a reserved ring buffer record, which the helper gives up */
};

enum vm_ret {
	RET_INT = 0,
	RET_VOID = 1,
	RET_MAP_VALUE_OR_NULL = 2,
	RET_RECORD_OR_NULL = 3,       /* memory of a ring buffer record that must be submitted or discarded */
	RET_DYNPTR_MEM_OR_NULL = 4,   /* memory a dynptr stands for */
};

typedef uint64_t (*vm_helper_fn)(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);

struct vm_helper {
	uint32_t id;
	uint32_t hooks;               /* enum vm_hook_bits that may call it; 0 = known by name only */
	const char *name;             /* without bpf_ */
	vm_helper_fn fn;              /* NULL: not here, or done by the interpreter itself (tail_call) */
	uint8_t gpl;
	uint8_t ret;
	uint8_t arg[5];
	uint8_t pad;
};

/* Row of a helper id, NULL for a number Linux does not know. */
const struct vm_helper *vm_helper_of(uint32_t id);
/* i-th row of the table in id order, NULL past the end. */
const struct vm_helper *vm_helper_at(uint32_t index);

#endif
