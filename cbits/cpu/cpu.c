/*
 * cpu.c - making a CPU: its stack, and its packet arena at addresses that fit the 32-bit pointers of the contexts.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/region.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* Behind everything that a program may name as a map's key, SLACK bytes can be read (maps/lookup.h). Maps have their control block there. */
enum { STACK_BYTES = VM_MAX_FRAMES * VM_STACK_BYTES, SLACK = 64, ARENA_BYTES = VM_PACKET_ARENA + SHM_PAGE };

#define DEFAULT_BUDGET ((uint64_t)1 << 28)

/*
 * Where an arena may lie: below 4 GiB, above what mmap_min_addr and non-PIE programs use. Many candidates, because other CPUs of this process, a sanitizer
 * or a JIT may sit there already. Kernels before 4.17 take the address as a hint only, hence the comparison.
 */
static uint8_t *map_arena(void)
{
	for (uint64_t at = 0x20000000; at < 0xf0000000; at += 0x100000) {
		void *got = mmap((void *)(uintptr_t)at, ARENA_BYTES, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (got == (void *)(uintptr_t)at)
			return got;
		if (got != MAP_FAILED)
			munmap(got, ARENA_BYTES);
		else if (errno == ENOMEM)
			return NULL;
	}
	errno = EADDRNOTAVAIL;
	return NULL;
}

struct vm_cpu *vm_cpu_new(struct shm_client *client, struct vm_registry *registry, uint32_t number)
{
	static uint64_t serials;
	struct vm_cpu *cpu = calloc(1, sizeof(*cpu));

	if (!cpu)
		return NULL;
	cpu->client = client;
	cpu->registry = registry;
	cpu->cpu = number;
	cpu->serial = __atomic_add_fetch(&serials, 1, __ATOMIC_RELAXED);
	cpu->region_cnt = VM_REGION_MAP;
	cpu->budget_limit = DEFAULT_BUDGET;
	cpu->stack = aligned_alloc(64, STACK_BYTES + SLACK);
	cpu->scratch = aligned_alloc(64, VM_SCRATCH_BYTES + SLACK);
	cpu->packet.arena = map_arena();
	if (!cpu->stack || !cpu->scratch || !cpu->packet.arena) {
		int number_of_error = errno;

		vm_cpu_free(cpu);
		errno = number_of_error;
		return NULL;
	}
	memset(cpu->stack, 0, STACK_BYTES + SLACK);
	memset(cpu->scratch, 0, VM_SCRATCH_BYTES + SLACK);
	cpu->region[VM_REGION_PACKET].kind = VM_REGION_PACKET;
	cpu->region[VM_REGION_CTX].kind = VM_REGION_CTX;
	vm_stack_frame(cpu, 0);
	return cpu;
}

void vm_cpu_free(struct vm_cpu *cpu)
{
	if (!cpu)
		return;
	if (cpu->packet.arena)
		munmap(cpu->packet.arena, ARENA_BYTES);
	free(cpu->scratch);
	free(cpu->stack);
	free(cpu);
}
