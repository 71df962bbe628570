/*
 * args.c - a helper's arguments, checked by its row in helpers.def. One function for each kind; a helper finds every pointer usable for as many bytes as its
 * kind says, and never sees a map the program does not refer to.
 */
#include <stdio.h>
#include <string.h>

#include "cpu/region.h"
#include "cpu/span.h"
#include "vm/program.h"

struct call {
	struct vm_cpu *cpu;
	const struct vm_prog *prog;
	const struct vm_helper *helper;
	const uint64_t *reg;          /* r0..r10 */
	struct map *map;              /* of the ARG_MAP before */
};

enum { READ = 0, WRITE = 1 };

static int bad(struct call *call, uint32_t arg, const char *expected)
{
	return vm_fault_set(call->cpu, VM_FAULT_HELPER, "bpf_%s: r%u = 0x%llx, expected %s", call->helper->name, arg,
			    (unsigned long long)call->reg[arg], expected);
}

static int check_memory(struct call *call, uint32_t arg, uint64_t bytes, uint32_t write, const char *what)
{
	char expected[96];

	if (vm_memory(call->cpu, call->reg[arg], bytes, write))
		return 0;
	call->cpu->fault.addr = call->reg[arg];
	call->cpu->fault.size = (uint32_t)bytes;
	call->cpu->fault.write = write;
	snprintf(expected, sizeof(expected), "%s: %llu %s bytes", what, (unsigned long long)bytes, write ? "writable" : "readable");
	return bad(call, arg, expected);
}

static int arg_any(struct call *call, uint32_t arg)
{
	(void)call, (void)arg;
	return 0;
}

static int arg_ctx(struct call *call, uint32_t arg)
{
	const struct vm_region *context = &call->cpu->region[VM_REGION_CTX];

	return context->allowed && call->reg[arg] == context->base ? 0 : bad(call, arg, "the context");
}

/* Which maps a helper works on (Linux v6.12 kernel/bpf/verifier.c, check_map_func_compatibility()), as far as the types here differ. */
static int map_suits(const struct vm_helper *helper, const struct map *map)
{
	uint32_t caps = map->ops->caps;

	switch (helper->id) {
	case VM_HELPER_TAIL_CALL:
		return (caps & MAP_CAP_HOLDS_PROGS) != 0;
	case VM_HELPER_PERF_OUTPUT:
		return (caps & MAP_CAP_HOLDS_RINGS) != 0;
	case VM_HELPER_PERCPU_ELEM:
		return caps & MAP_CAP_PERCPU && map->ops->lookup_cpu;
	case VM_HELPER_MAP_LOOKUP:
		return caps & MAP_CAP_VALUE_PTR && map->ops->lookup;
	case VM_HELPER_MAP_UPDATE:
		return caps & MAP_CAP_VALUE_PTR && map->ops->update;
	case VM_HELPER_MAP_DELETE:
		return caps & MAP_CAP_VALUE_PTR && map->ops->remove;
	case VM_HELPER_RINGBUF_OUTPUT:
	case VM_HELPER_RINGBUF_RESERVE:
	case VM_HELPER_RINGBUF_QUERY:
	case VM_HELPER_RINGBUF_RESERVE_DYNPTR:
		return (caps & MAP_CAP_RINGBUF) != 0;
	case VM_HELPER_USER_RINGBUF_DRAIN:
		return (caps & MAP_CAP_USER_RINGBUF) != 0;
	}
	return (caps & MAP_CAP_VALUE_PTR) != 0;
}

/* Linux v6.12 kernel/bpf/verifier.c, record_func_map() */
static int map_permits(const struct vm_helper *helper, const struct map *map)
{
	int writes = helper->id == VM_HELPER_MAP_UPDATE || helper->id == VM_HELPER_MAP_DELETE;

	return !(map->flags & (writes ? BPF_F_RDONLY_PROG : BPF_F_WRONLY_PROG));
}

static int arg_map(struct call *call, uint32_t arg)
{
	call->map = vm_prog_map(call->prog, call->reg[arg]);
	if (!call->map)
		return bad(call, arg, "a map of this program");
	if (!map_suits(call->helper, call->map))
		return vm_fault_set(call->cpu, VM_FAULT_HELPER, "cannot pass map id %u (%s) into bpf_%s", call->map->id, call->map->ops->name,
				    call->helper->name);
	if (!map_permits(call->helper, call->map))
		return vm_fault_set(call->cpu, VM_FAULT_HELPER, "bpf_%s: map id %u was created with BPF_F_%s_PROG", call->helper->name, call->map->id,
				    call->map->flags & BPF_F_RDONLY_PROG ? "RDONLY" : "WRONLY");
	/* Linux v6.12 kernel/bpf/verifier.c, check_helper_call(): the program called to cannot give back what this one holds */
	if (call->helper->id == VM_HELPER_TAIL_CALL && call->cpu->span_used)
		return vm_fault_set(call->cpu, VM_FAULT_HELPER, "tail_call would lead to reference leak: submit or discard the reserved ring buffer record first");
	return 0;
}

static int arg_map_key(struct call *call, uint32_t arg)
{
	return call->map ? check_memory(call, arg, call->map->key_size, READ, "a key") : bad(call, arg, "a key behind a map");
}

static int arg_map_value(struct call *call, uint32_t arg)
{
	return call->map ? check_memory(call, arg, call->map->value_size, READ, "a value") : bad(call, arg, "a value behind a map");
}

/* Sizes are 32-bit signed in Linux's verifier: BPF_MAX_VAR_SIZ. */
static int memory_of_size(struct call *call, uint32_t arg, uint32_t write)
{
	enum { MAX_SIZE = 1 << 29 };
	uint64_t size = call->reg[arg + 1];

	if (size >= MAX_SIZE)
		return bad(call, arg + 1, "a size below 2^29");
	return size ? check_memory(call, arg, size, write, "memory") : 0;
}

static int arg_mem_read(struct call *call, uint32_t arg)
{
	return memory_of_size(call, arg, READ);
}

static int arg_mem_write(struct call *call, uint32_t arg)
{
	return memory_of_size(call, arg, WRITE);
}

static int arg_mem_read_or_null(struct call *call, uint32_t arg)
{
	return !call->reg[arg] && !call->reg[arg + 1] ? 0 : memory_of_size(call, arg, READ);
}

static int arg_mem_write_or_null(struct call *call, uint32_t arg)
{
	return !call->reg[arg] && !call->reg[arg + 1] ? 0 : memory_of_size(call, arg, WRITE);
}

static int arg_size(struct call *call, uint32_t arg)
{
	return call->reg[arg] ? 0 : bad(call, arg, "a size above 0");
}

static int arg_spin_lock(struct call *call, uint32_t arg)
{
	for (uint32_t i = 0; i < call->prog->map_cnt; i++) {
		const struct map *map = call->prog->map[i];
		const struct vm_region *region = &call->cpu->region[call->prog->region[i]];
		uint64_t off = call->reg[arg] - region->base;

		if (map->spin_lock_off == MAP_NO_SPIN_LOCK || off >= region->bytes || !region->stride)
			continue;
		if (off % region->stride == map->spin_lock_off)
			return 0;
	}
	return bad(call, arg, "the bpf_spin_lock of a map value");
}

static int arg_func(struct call *call, uint32_t arg)
{
	uint64_t func = call->reg[arg];

	if ((func & VM_FUNC_MASK) == VM_FUNC_TAG && vm_sub_at(call->prog, func & ~VM_FUNC_MASK) >= 0)
		return 0;
	return bad(call, arg, "a function of this program");
}

static int arg_stack_or_null(struct call *call, uint32_t arg)
{
	const struct vm_region *stack = &call->cpu->region[VM_REGION_STACK];

	/* r10 itself, the end of the first frame, is a stack pointer too */
	return !call->reg[arg] || call->reg[arg] - stack->base <= stack->bytes ? 0 : bad(call, arg, "a stack address or NULL");
}

static int arg_const_str(struct call *call, uint32_t arg)
{
	for (uint32_t i = 0; i < call->prog->map_cnt; i++) {
		const struct vm_region *region = &call->cpu->region[call->prog->region[i]];
		uint64_t off = call->reg[arg] - region->base;

		if (!(call->prog->map[i]->flags & BPF_F_RDONLY_PROG) || off >= region->bytes)
			continue;
		if (memchr((const void *)(uintptr_t)call->reg[arg], 0, region->bytes - off))
			return 0;
	}
	return bad(call, arg, "a NUL-terminated string in a read-only map");
}

static int arg_long_write(struct call *call, uint32_t arg)
{
	return call->reg[arg] % sizeof(uint64_t) ? bad(call, arg, "an address that is a multiple of 8")
						 : check_memory(call, arg, sizeof(uint64_t), WRITE, "a long");
}

static int arg_record(struct call *call, uint32_t arg)
{
	return vm_span_record(call->cpu, call->reg[arg]) ? 0 : bad(call, arg, "the start of a reserved ring buffer record");
}

static int arg_dynptr_new(struct call *call, uint32_t arg)
{
	const struct vm_region *stack = &call->cpu->region[VM_REGION_STACK];
	uint64_t off = call->reg[arg] - stack->base;

	if (off % 8 || off >= stack->bytes || stack->bytes - off < VM_DYNPTR_BYTES)
		return bad(call, arg, "16 bytes of stack at a multiple of 8, for a dynptr");
	if (vm_dynptr_holds_record(call->cpu, call->reg[arg]))
		return bad(call, arg, "other memory: cannot overwrite the dynptr of a reserved record");
	return 0;
}

static int arg_dynptr(struct call *call, uint32_t arg)
{
	return vm_dynptr_at(call->cpu, call->reg[arg]) ? 0 : bad(call, arg, "an initialised dynptr");
}

static int arg_dynptr_record(struct call *call, uint32_t arg)
{
	return vm_dynptr_holds_record(call->cpu, call->reg[arg]) ? 0 : bad(call, arg, "the dynptr of a reserved ring buffer record");
}

typedef int (*check_fn)(struct call *call, uint32_t arg);

static const check_fn checks[] = {
	[ARG_NONE] = arg_any,
	[ARG_ANY] = arg_any,
	[ARG_CTX] = arg_ctx,
	[ARG_MAP] = arg_map,
	[ARG_MAP_KEY] = arg_map_key,
	[ARG_MAP_VALUE] = arg_map_value,
	[ARG_MEM_READ] = arg_mem_read,
	[ARG_MEM_READ_OR_NULL] = arg_mem_read_or_null,
	[ARG_MEM_WRITE] = arg_mem_write,
	[ARG_SIZE] = arg_size,
	[ARG_SIZE_OR_ZERO] = arg_any,
	[ARG_SPIN_LOCK] = arg_spin_lock,
	[ARG_FUNC] = arg_func,
	[ARG_STACK_OR_NULL] = arg_stack_or_null,
	[ARG_CONST_STR] = arg_const_str,
	[ARG_LONG_WRITE] = arg_long_write,
	[ARG_MEM_WRITE_OR_NULL] = arg_mem_write_or_null,
	[ARG_RECORD] = arg_record,
	[ARG_DYNPTR_NEW] = arg_dynptr_new,
	[ARG_DYNPTR] = arg_dynptr,
	[ARG_DYNPTR_RECORD] = arg_dynptr_record,
};

int vm_check_args(struct vm_cpu *cpu, const struct vm_prog *prog, const struct vm_helper *helper, const uint64_t *reg)
{
	struct call call = { cpu, prog, helper, reg, NULL };

	for (uint32_t i = 0; i < 5 && helper->arg[i] != ARG_NONE; i++) {
		int code = checks[helper->arg[i]](&call, i + 1);

		if (code)
			return code;
	}
	return 0;
}
