/*
 * cpu.c - what a program may ask about the CPU it runs on. The CPU is the simulated one, never the host's.
 */
#include "helpers.h"

uint64_t bpf_get_smp_processor_id(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return cpu->cpu;
}

/* The simulated machine has one memory node. */
uint64_t bpf_get_numa_node_id(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return 0;
}

/* One splitmix64 step: turns neighbouring seeds (CPU numbers, clock readings) into unrelated states, never 0. */
static uint64_t seed_of(uint64_t entropy)
{
	entropy += 0x9e3779b97f4a7c15u;
	entropy = (entropy ^ (entropy >> 30)) * 0xbf58476d1ce4e5b9u;
	entropy = (entropy ^ (entropy >> 27)) * 0x94d049bb133111ebu;
	return (entropy ^ (entropy >> 31)) | 1;
}

/* xorshift64*, one state for each CPU: no sharing, and a run with a given cpu->random repeats. */
uint64_t bpf_get_prandom_u32(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	uint64_t state = cpu->random;

	if (!state)
		state = seed_of(shm_clock_ns(1) + ((uint64_t)cpu->cpu << 32));
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	cpu->random = state;
	return (state * 0x2545f4914f6cdd1du) >> 32;
}
