/*
 * call.c - crossing the border of a program: helper arguments, tail calls, callbacks, packet loads.
 */
#include <string.h>

#include "cpu/region.h"
#include "vm/program.h"

struct map *vm_prog_map(const struct vm_prog *prog, uint64_t handle)
{
	for (uint32_t i = 0; i < prog->map_cnt; i++)
		if ((uint64_t)(uintptr_t)prog->map[i] == handle)
			return prog->map[i];
	return NULL;
}

int vm_prog_enter(struct vm_cpu *cpu, struct vm_prog *prog)
{
	cpu->prog = prog;
	cpu->map_regions = prog->region;
	cpu->map_region_cnt = prog->map_cnt;
	cpu->other_cpus = prog->other_cpus;
	if (prog->ready_serial == cpu->serial)
		return 0;
	for (uint32_t i = 0; i < prog->map_cnt; i++) {
		int err = vm_region_add_map(cpu, prog->map[i]);

		if (err)
			return err;
	}
	prog->ready_serial = cpu->serial;
	return 0;
}

/*
 * Linux v6.12 kernel/bpf/core.c, bpf_tail_call(): an index past the end, an empty slot and the 34th call in a run all go on behind the call. A target of
 * another hook cannot be stored there (prog_array's owner type); it is treated like an empty slot.
 */
struct vm_prog *vm_tail_target(struct vm_cpu *cpu, struct vm_prog *prog, uint64_t map_handle, uint64_t index)
{
	struct map *map = vm_prog_map(prog, map_handle);
	struct vm_prog *target = NULL;
	struct vm_error error;
	uint32_t id;

	if (!map || (uint32_t)index >= map->max_entries || cpu->tail_calls >= VM_MAX_TAIL_CALLS)
		return NULL;
	id = prog_array_slot(map, (uint32_t)index);
	if (id)
		target = cpu->registry ? vm_registry_prog(cpu->registry, id, &error) : NULL;
	if (!target || target->hook != prog->hook || vm_prog_enter(cpu, target)) {
		cpu->tail_misses++;
		vm_prog_enter(cpu, prog);
		return NULL;
	}
	cpu->tail_calls++;
	return target;
}

/* Negative offsets name the network header (SKF_NET_OFF) or the MAC header (SKF_LL_OFF): Linux v6.12 include/linux/filter.h, bpf_internal_load_pointer_neg_helper(). */
int vm_load_packet(const struct vm_cpu *cpu, int32_t off, uint32_t size, uint64_t *value)
{
	enum { SKF_NET_OFF = -0x100000, SKF_LL_OFF = -0x200000 };
	const struct vm_packet *packet = &cpu->packet;
	const uint8_t *mac = packet->is_l2 ? packet->data : packet->data - packet->mac_len, *from = packet->data;
	uint64_t result = 0;
	int64_t at = off;

	if (off < 0 && off >= SKF_NET_OFF) {
		from = mac + packet->mac_len;
		at -= SKF_NET_OFF;
	} else if (off < 0) {
		from = mac;
		at -= SKF_LL_OFF;
	}
	if (at < 0 || from + at + size > packet->tail)
		return 0;
	for (uint32_t i = 0; i < size; i++)
		result = result << 8 | from[at + i];
	*value = result;
	return 1;
}

int vm_call_subprog(struct vm_cpu *cpu, uint64_t func, const uint64_t args[5], uint64_t *ret)
{
	struct vm_prog *prog = cpu->prog;
	uint32_t frame = cpu->frame;
	int sub = (func & VM_FUNC_MASK) == VM_FUNC_TAG ? vm_sub_at(prog, func & ~VM_FUNC_MASK) : -1;
	int code;

	if (sub < 0)
		return vm_fault_set(cpu, VM_FAULT_CALLBACK, "callback 0x%llx is not a function of this program", (unsigned long long)func);
	if (frame + 1 >= VM_MAX_FRAMES)
		return vm_fault_set(cpu, VM_FAULT_STACK, "callback would be frame %u: at most %u may be active", frame + 2, VM_MAX_FRAMES);
	if (cpu->budget < prog->sub[sub].len)
		return vm_fault_set(cpu, VM_FAULT_BUDGET, "instruction budget of %llu spent in callbacks", (unsigned long long)cpu->budget_limit);
	cpu->budget -= prog->sub[sub].len;
	cpu->in_callback++;
	vm_stack_frame(cpu, frame + 1);
	code = vm_interpret(cpu, prog, prog->sub[sub].start, args, frame + 1, ret);
	vm_stack_frame(cpu, frame);
	cpu->in_callback--;
	cpu->frame = frame;
	if (cpu->prog != prog)
		vm_prog_enter(cpu, prog);
	return code;
}
