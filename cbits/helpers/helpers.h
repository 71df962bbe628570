/*
 * helpers.h - what the files of this directory share: the prototypes of all helpers, made from helpers.def, and how a helper reports.
 *
 * Every helper has the same C signature, r1..r5 under their Linux names. The caller has checked the arguments by the table's ARG_* kinds, so a pointer
 * argument is a host address that may be used for as many bytes as its kind says. Scalars are whatever the program left in the register: a helper
 * narrows them first, to the width of the parameter in Linux's BPF_CALL_x().
 *
 * A result is a count, a pointer, or a negative errno sign-extended to 64 bits. Only what Linux's verifier rules out stops the program: helper_fault().
 */
#ifndef SHMBPF_HELPERS_H
#define SHMBPF_HELPERS_H

#include <errno.h>

#include "shmbpf/helper.h"

/* Kernel-internal, but programs see it (Linux v6.12 include/linux/errno.h). */
enum { ENOTSUPP = 524 };

#define HELPER(id, name, hooks, gpl, ret, a1, a2, a3, a4, a5) \
	uint64_t bpf_##name(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
#define HELPER_KNOWN(id, name)
#include "shmbpf/helpers.def"
#undef HELPER
#undef HELPER_KNOWN

static inline uint64_t result(int64_t value)
{
	return (uint64_t)value;
}

static inline void *host(uint64_t pointer)
{
	return (void *)(uintptr_t)pointer;
}

/* Stops the running program: the interpreter looks at cpu->fault after each helper. Returns 0, for `return helper_fault(...)`. */
uint64_t helper_fault(struct vm_cpu *cpu, enum vm_fault_code code, const char *detail);

#endif
