/*
 * prog.c - the layout of a program segment (prog.h), and what a decoded program says about itself.
 */
#include <errno.h>
#include <string.h>

#include "vm/program.h"

static uint64_t data_bytes(uint32_t insn_cnt, uint32_t map_cnt, uint32_t line_cnt, uint32_t func_cnt, uint32_t strings_bytes)
{
	return (uint64_t)insn_cnt * sizeof(struct bpf_insn) + (uint64_t)map_cnt * sizeof(uint32_t) + (uint64_t)line_cnt * sizeof(struct prog_line) +
	       (uint64_t)func_cnt * sizeof(struct prog_func) + strings_bytes;
}

uint64_t prog_segment_bytes(uint32_t insn_cnt, uint32_t map_cnt, uint32_t line_cnt, uint32_t func_cnt, uint32_t strings_bytes)
{
	enum { MAX_STRINGS = 1 << 28 };
	uint64_t data = data_bytes(insn_cnt, map_cnt, line_cnt, func_cnt, strings_bytes);

	_Static_assert(sizeof(struct shm_prog) <= SHM_PAGE, "the control block is one page");
	if (!insn_cnt || insn_cnt > PROG_MAX_INSNS || map_cnt > PROG_MAX_MAPS || strings_bytes > MAX_STRINGS)
		return 0;
	/* more lines or functions than instructions cannot be sorted by instruction */
	if (line_cnt > insn_cnt || func_cnt > insn_cnt)
		return 0;
	return (data + SHM_PAGE - 1) / SHM_PAGE * SHM_PAGE + SHM_PAGE;
}

struct shm_prog *prog_ctl_of(uint8_t *base, uint64_t bytes)
{
	if (bytes < SHM_PAGE || bytes % SHM_PAGE)
		return NULL;
	return (struct shm_prog *)(base + bytes - SHM_PAGE);
}

int prog_image_of(struct prog_image *image, uint8_t *base, uint64_t bytes)
{
	const struct shm_prog *ctl = prog_ctl_of(base, bytes);
	struct shm_prog copy;

	if (!ctl)
		return -EINVAL;
	copy = *ctl;
	if (prog_segment_bytes(copy.insn_cnt, copy.map_cnt, copy.line_cnt, copy.func_cnt, copy.strings_bytes) != bytes)
		return -EINVAL;
	memset(image, 0, sizeof(*image));
	image->ctl = ctl;
	image->insns = (const struct bpf_insn *)base;
	image->map_ids = (const uint32_t *)(image->insns + copy.insn_cnt);
	image->lines = (const struct prog_line *)(image->map_ids + copy.map_cnt);
	image->funcs = (const struct prog_func *)(image->lines + copy.line_cnt);
	image->strings = (const char *)(image->funcs + copy.func_cnt);
	image->insn_cnt = copy.insn_cnt;
	image->map_cnt = copy.map_cnt;
	image->line_cnt = copy.line_cnt;
	image->func_cnt = copy.func_cnt;
	image->strings_bytes = copy.strings_bytes;
	image->type = copy.head.type;
	image->id = copy.head.id;
	return 0;
}

uint32_t vm_prog_hook(const struct vm_prog *prog)
{
	return prog->hook;
}

uint32_t vm_prog_id(const struct vm_prog *prog)
{
	return prog->image.id;
}

const struct prog_image *vm_prog_image(const struct vm_prog *prog)
{
	return &prog->image;
}

uint32_t vm_hook_of(uint32_t prog_type)
{
	static const uint8_t hooks[] = {
#define PROG(NAME, number, ctx, hook) [number] = VM_HOOK_##hook,
#define PROG_KNOWN(NAME, number) [number] = VM_HOOK_NONE,
#include "shmbpf/progs.def"
#undef PROG
#undef PROG_KNOWN
	};

	return prog_type < sizeof(hooks) ? hooks[prog_type] : VM_HOOK_NONE;
}

uint64_t vm_abort_verdict(uint32_t hook)
{
	static const uint64_t verdicts[] = { [VM_HOOK_XDP] = XDP_ABORTED, [VM_HOOK_TC] = TC_ACT_SHOT, [VM_HOOK_ACT] = TC_ACT_SHOT };

	return hook < sizeof(verdicts) / sizeof(verdicts[0]) ? verdicts[hook] : 0;
}
