/*
 * run.c - one run of a program: everything that is per run set up, and after a fault everything given back.
 */
#include "cpu/region.h"
#include "cpu/span.h"
#include "vm/program.h"

static void start_run(struct vm_cpu *cpu, uint32_t hook)
{
	cpu->hook = hook;
	cpu->budget = cpu->budget_limit;
	cpu->frame = 0;
	cpu->tail_calls = 0;
	cpu->in_callback = 0;
	cpu->spin_lock = NULL;
	cpu->call = vm_call_subprog;
	cpu->fault.code = VM_OK;
	cpu->fault.insn = VM_NOWHERE;
	cpu->fault.addr = 0;
	cpu->fault.size = 0;
	cpu->fault.write = 0;
}

/* The memory r1 points to: a context with its table of fields, or plain memory for bare programs. */
static void set_context(struct vm_cpu *cpu, const void *base, uint64_t bytes, const uint8_t *allowed)
{
	struct vm_region *region = &cpu->region[VM_REGION_CTX];

	if (region->base == (uint64_t)(uintptr_t)base && region->bytes == bytes && region->allowed == allowed)
		return;
	vm_region_span(region, (uint64_t)(uintptr_t)base, bytes, 1, 1);
	region->allowed = allowed;
	region->check = allowed ? VM_CHECK_FULL : VM_CHECK_NONE;
}

static int finish_run(struct vm_cpu *cpu, int code, uint64_t *ret)
{
	if (!code)
		return 0;
	if (cpu->spin_lock) {
		shm_unlock(cpu->client, cpu->spin_lock);
		cpu->spin_lock = NULL;
	}
	vm_span_drop_all(cpu);
	vm_stack_frame(cpu, 0);
	cpu->faults++;
	*ret = vm_abort_verdict(cpu->hook);
	return code;
}

static int run(struct vm_cpu *cpu, struct vm_prog *prog, uint64_t r1, uint64_t r2, uint64_t *ret)
{
	uint64_t args[5] = { r1, r2 };
	int code;

	if (vm_prog_enter(cpu, prog)) {
		code = vm_fault_set(cpu, VM_FAULT_MEMORY, "the maps of this program do not fit: at most %d are open on a CPU", VM_MAX_MAPS);
		vm_fault_locate(cpu, prog, 0);
	} else {
		code = vm_interpret(cpu, prog, 0, args, 0, ret);
	}
	return finish_run(cpu, code, ret);
}

int vm_run(struct vm_cpu *cpu, struct vm_prog *prog, void *ctx, uint64_t *ret)
{
	start_run(cpu, prog->hook);
	set_context(cpu, ctx, vm_ctx_bytes(prog->hook), vm_ctx_table(prog->hook));
	return run(cpu, prog, (uint64_t)(uintptr_t)ctx, 0, ret);
}

int vm_run_bare(struct vm_cpu *cpu, struct vm_prog *prog, uint8_t *mem, uint64_t len, uint64_t *ret)
{
	start_run(cpu, VM_HOOK_NONE);
	set_context(cpu, mem, len, NULL);
	vm_region_span(&cpu->region[VM_REGION_PACKET], 0, 0, 0, 0);
	return run(cpu, prog, (uint64_t)(uintptr_t)mem, len, ret);
}
