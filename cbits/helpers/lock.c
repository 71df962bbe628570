/*
 * lock.c - bpf_spin_lock in map values.
 *
 * The program's four bytes are an owner word (shm.h), so a CPU that dies inside its critical section blocks nobody: the next one takes the lock over.
 * There is no structure to recover: a half-written value is the program's, as on a Linux that loses a CPU. Linux's verifier allows one lock at a time
 * and demands the unlock; here both are checked while the program runs (Linux v6.12 kernel/bpf/verifier.c, process_spin_lock()).
 */
#include "helpers.h"

uint64_t bpf_spin_lock(struct vm_cpu *cpu, uint64_t lock, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	uint32_t *word = host(lock);
	int error;

	if (cpu->spin_lock)
		return helper_fault(cpu, VM_FAULT_LOCK, "bpf_spin_lock() while the program holds a lock already: unlock it first");
	error = shm_lock(cpu->client, word);
	if (error == -EDEADLK)
		return helper_fault(cpu, VM_FAULT_LOCK, "bpf_spin_lock() on a lock that an earlier run of this CPU never unlocked");
	if (error < 0)
		return helper_fault(cpu, VM_FAULT_LOCK, "bpf_spin_lock() gave up: another CPU that is alive kept the lock too long");
	cpu->spin_lock = word;
	return 0;
}

uint64_t bpf_spin_unlock(struct vm_cpu *cpu, uint64_t lock, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	if (cpu->spin_lock != host(lock))
		return helper_fault(cpu, VM_FAULT_LOCK, "bpf_spin_unlock() of a lock that the program does not hold");
	cpu->spin_lock = NULL;
	shm_unlock(cpu->client, host(lock));
	return 0;
}
