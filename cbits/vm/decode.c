/*
 * decode.c - from an image to a runnable program: check, resolve maps and subprograms, translate.
 *
 * The image lies in memory that others can write. Its instructions are copied first, and everything is checked and translated from the copy.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/program.h"

static int add_map(struct vm_prog *prog, uint32_t at, uint32_t id, struct map **out, struct vm_error *error)
{
	struct map *map;
	int number = 0;

	for (uint32_t i = 0; i < prog->map_cnt; i++) {
		if (prog->map[i]->id == id) {
			*out = prog->map[i];
			return 0;
		}
	}
	if (prog->map_cnt == PROG_MAX_MAPS)
		return vm_refuse(error, at, "the program refers to more than %d maps", PROG_MAX_MAPS);
	map = prog->registry ? vm_registry_map(prog->registry, id, &number) : NULL;
	if (!map)
		return vm_refuse(error, at, "map id %u cannot be opened: %s", id, number ? strerror(-number) : "there is no namespace");
	prog->plain_lookup[prog->map_cnt] = map->ops->caps & MAP_CAP_VALUE_PTR && map->ops->lookup && map->key_size <= 8 &&
					    !(map->flags & BPF_F_WRONLY_PROG);
	prog->region[prog->map_cnt] = VM_REGION_MAP + map->region;
	prog->map[prog->map_cnt++] = map;
	*out = map;
	return 0;
}

/* Linux v6.12 kernel/bpf/arraymap.c, array_map_direct_value_addr(): arrays of one element only, any offset inside its value. */
static int value_address(const struct map *map, uint32_t at, uint32_t off, uint64_t *address, struct vm_error *error)
{
	uint32_t caps = map->ops->caps;

	if (!(caps & MAP_CAP_INDEXED) || !(caps & MAP_CAP_VALUE_PTR) || caps & MAP_CAP_PERCPU || map->max_entries != 1)
		return vm_refuse(error, at, "direct value access to map id %u: only arrays with max_entries 1 have it", map->id);
	if (off >= map->value_size)
		return vm_refuse(error, at, "invalid access to map value pointer, value_size=%u off=%u", map->value_size, off);
	*address = (uint64_t)(uintptr_t)map->values + off;
	return 0;
}

static int decode_imm64(struct vm_prog *prog, uint32_t at, uint32_t op, struct vm_error *error)
{
	const struct bpf_insn *insn = &prog->image.insns[at];
	uint64_t *value = &prog->code[at + 1].imm64;
	struct map *map = NULL;
	int err;

	if (op == VM_OP_LD_IMM64) {
		*value = (uint32_t)insn[0].imm | (uint64_t)(uint32_t)insn[1].imm << 32;
		return 0;
	}
	if (op == VM_OP_LD_FUNC) {
		*value = VM_FUNC_TAG | (uint32_t)(at + insn->imm + 1);
		return 0;
	}
	err = add_map(prog, at, (uint32_t)insn->imm, &map, error);
	if (err)
		return err;
	if (op == VM_OP_LD_MAP_VALUE)
		return value_address(map, at, (uint32_t)insn[1].imm, value, error);
	*value = (uint64_t)(uintptr_t)map;
	return 0;
}

static void decode_call(struct vm_prog *prog, struct vm_insn *code, uint32_t id, const void *const *labels)
{
	uint32_t index = 0;

	while (index < prog->call_cnt && prog->call[index]->id != id)
		index++;
	if (index == prog->call_cnt)
		prog->call[prog->call_cnt++] = vm_helper_of(id);
	code->imm = (int32_t)index;
	if (id == VM_HELPER_TAIL_CALL)
		code->go = labels[VM_OP_TAIL_CALL];
	if (id == VM_HELPER_MAP_LOOKUP)
		code->go = labels[VM_OP_MAP_LOOKUP];
	if (id == VM_HELPER_PERCPU_ELEM)
		prog->other_cpus = 1;
}

static int decode_one(struct vm_prog *prog, uint32_t at, const void *const *labels, struct vm_error *error)
{
	const struct bpf_insn *insn = &prog->image.insns[at];
	const struct vm_isa_row *row = vm_isa_of(insn);
	struct vm_insn *code = &prog->code[at];

	*code = (struct vm_insn){ .go = labels[row->op], .dst = insn_dst(insn), .src = insn_src(insn), .off = insn->off, .imm = insn->imm };
	switch (row->form) {
	case ISA_CALL:
		decode_call(prog, code, (uint32_t)insn->imm, labels);
		return 0;
	case ISA_CALL_LOCAL:
		code->off = (int16_t)vm_sub_at(prog, (uint64_t)(at + 1 + insn->imm));
		return 0;
	case ISA_IMM64:
		return decode_imm64(prog, at, row->op, error);
	case ISA_ST:
		code->src = VM_REGION_STACK;
		return 0;
	case ISA_LDX:
	case ISA_STX:
	case ISA_ATOMIC:
	case ISA_ATOMIC_FETCH:
	case ISA_CMPXCHG:
	case ISA_LOAD_ACQ:
	case ISA_STORE_REL:
		code->hint = VM_REGION_STACK;
		return 0;
	}
	return 0;
}

static int translate(struct vm_prog *prog, struct vm_error *error)
{
	const void *const *labels = vm_labels();

	for (uint32_t at = 0; at < prog->image.insn_cnt; at++) {
		int err = decode_one(prog, at, labels, error);

		if (err)
			return err;
		if (prog->image.insns[at].code == CODE_LD_IMM64)
			at++;
	}
	return 0;
}

/* Distinct helpers, at most one for each row of the table. */
static uint32_t helper_rows(void)
{
	uint32_t count = 0;

	while (vm_helper_at(count))
		count++;
	return count;
}

static struct vm_prog *allocate(const struct prog_image *image)
{
	struct vm_prog *prog = calloc(1, sizeof(*prog));
	struct bpf_insn *insns = calloc(image->insn_cnt, sizeof(*insns));

	if (prog && insns) {
		memcpy(insns, image->insns, image->insn_cnt * sizeof(*insns));
		prog->image = *image;
		prog->image.insns = insns;
		prog->code = calloc(image->insn_cnt, sizeof(*prog->code));
		prog->call = calloc(helper_rows(), sizeof(*prog->call));
		if (prog->code && prog->call)
			return prog;
		vm_prog_free(prog);
		return NULL;
	}
	free(insns);
	free(prog);
	return NULL;
}

static int check_and_translate(struct vm_prog *prog, struct vm_error *error)
{
	int err = vm_check_insns(prog, error);

	if (!err)
		err = vm_find_subprogs(prog, error);
	if (!err)
		err = vm_check_flow(prog, error);
	return err ? err : translate(prog, error);
}

struct vm_prog *vm_prog_new(struct vm_registry *registry, const struct prog_image *image, struct vm_error *error)
{
	uint32_t hook = vm_hook_of(image->type);
	struct vm_prog *prog;

	memset(error, 0, sizeof(*error));
	if (image->type != BPF_PROG_TYPE_UNSPEC && hook == VM_HOOK_NONE) {
		vm_refuse(error, 0, "programs of type %u have no hook here", image->type);
		return NULL;
	}
	if (!image->insn_cnt || image->insn_cnt > PROG_MAX_INSNS) {
		vm_refuse(error, 0, "a program has 1 to %d instructions, this one %u", PROG_MAX_INSNS, image->insn_cnt);
		return NULL;
	}
	prog = allocate(image);
	if (!prog) {
		vm_refuse(error, 0, "out of memory for %u instructions", image->insn_cnt);
		return NULL;
	}
	prog->registry = registry;
	prog->hook = hook;
	if (!check_and_translate(prog, error))
		return prog;
	vm_prog_free(prog);
	return NULL;
}

void vm_prog_free(struct vm_prog *prog)
{
	if (!prog)
		return;
	free((void *)prog->image.insns);
	free(prog->code);
	free(prog->call);
	free(prog);
}
