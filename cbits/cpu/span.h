/*
 * span.h - memory a program holds for a while (ring buffer records, samples of a drain), and dynptrs.
 */
#ifndef SHMBPF_CPU_SPAN_H
#define SHMBPF_CPU_SPAN_H

#include "shmbpf/cpu.h"

enum { VM_DYNPTR_BYTES = 16 };

/* 1: there is room for one more. */
int vm_span_room(const struct vm_cpu *cpu);
/* Makes `bytes` at `base` reachable until vm_span_release(). base 0: a record that could not be reserved but has to be given back. NULL: no room. */
struct vm_span *vm_span_add(struct vm_cpu *cpu, uint32_t kind, struct map *map, uint8_t *base, uint64_t bytes);
/* The reserved record that starts at `addr`, NULL for anything else. */
struct vm_span *vm_span_record(struct vm_cpu *cpu, uint64_t addr);
void vm_span_release(struct vm_cpu *cpu, struct vm_span *span);
/* 1: the bytes lie inside of one span. */
int vm_span_reaches(const struct vm_cpu *cpu, uint64_t addr, uint64_t size, uint32_t write);
/* Discards every record still reserved; the end of a run that was stopped. */
void vm_span_drop_all(struct vm_cpu *cpu);

/* Turns the 16 bytes at `addr`, which are stack or scratch memory, into a dynptr. */
void vm_dynptr_make(struct vm_cpu *cpu, uint64_t addr, const struct vm_dynptr *dynptr);
/* What the 16 bytes at `addr` stand for; NULL: they are no dynptr, or not any more. */
struct vm_dynptr *vm_dynptr_at(struct vm_cpu *cpu, uint64_t addr);
/* The record, if any (or that could not be had), of the dynptr at `addr`. */
struct vm_span *vm_dynptr_holds_record(struct vm_cpu *cpu, uint64_t addr);
/* Whatever lies there is no dynptr any more. */
void vm_dynptr_forget(struct vm_cpu *cpu, uint64_t addr);

#endif
