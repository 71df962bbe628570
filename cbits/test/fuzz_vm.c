/*
 * fuzz_vm.c - libFuzzer target: any bytes as a program, bare and as XDP; whatever the decoder accepts must end by itself, by a fault or by its budget.
 *
 *   clang -g -O1 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -fno-sanitize=shift,alignment -fwrapv -fno-strict-aliasing -Icbits/include -Icbits \
 *     cbits/test/fuzz_vm.c cbits/{shm,maps,cpu,helpers,vm}/\*.c -o fuzz_vm
 */
#include <stdlib.h>
#include <string.h>

#include "shmbpf/vm.h"

enum { MEMORY_BYTES = 64, MAX_INSNS = 512, BUDGET = 20000 };

/* Opcodes out of the table more often than not: random ones are nearly always refused. */
static void repair(struct bpf_insn *insns, uint32_t count)
{
	uint32_t rows = 0;

	while (vm_isa_at(rows))
		rows++;
	for (uint32_t i = 0; i < count; i++) {
		const struct vm_isa_row *row = vm_isa_at(insns[i].code % rows);

		insns[i].code = row->code;
		if (row->match & ISA_SRC)
			insns[i].regs = (uint8_t)((insns[i].regs & 15) | row->src << 4);
		if (row->match & ISA_OFF)
			insns[i].off = row->off;
		if (row->match & ISA_IMM)
			insns[i].imm = row->imm;
	}
}

static void run_one(struct vm_cpu *cpu, const struct prog_image *image, uint8_t *memory)
{
	struct vm_error error;
	struct vm_prog *prog = vm_prog_new(NULL, image, &error);
	struct vm_test_run run = { .data_in = memory, .data_in_bytes = MEMORY_BYTES };
	uint64_t ret;

	if (!prog)
		return;
	if (vm_prog_hook(prog) == VM_HOOK_NONE)
		vm_run_bare(cpu, prog, memory, MEMORY_BYTES, &ret);
	else
		vm_test_run(cpu, prog, &run);
	vm_prog_free(prog);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vm_cpu *cpu;
	static const uint32_t types[] = { BPF_PROG_TYPE_UNSPEC, BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SOCKET_FILTER };
	struct shm_prog ctl = { .gpl = 1 };
	uint32_t count = (uint32_t)(size / sizeof(struct bpf_insn));
	struct bpf_insn *insns;
	uint8_t memory[MEMORY_BYTES] = { 2, 0, 0, 0, 0, 1 };
	char text[128];

	if (!cpu) {
		cpu = vm_cpu_new(NULL, NULL, 0);
		cpu->budget_limit = BUDGET;
	}
	if (count < 2 || count > MAX_INSNS)
		return 0;
	/* an allocation of its own, so that a read behind the instructions is seen */
	insns = malloc(count * sizeof(*insns));
	memcpy(insns, data, count * sizeof(*insns));
	if (data[size - 1] & 1)
		repair(insns, count);
	for (uint32_t i = 0; i < count; i++)
		vm_disasm(&insns[i], count - i, text, sizeof(text));
	for (uint32_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct prog_image image = { .ctl = &ctl, .insns = insns, .insn_cnt = count, .type = types[i] };

		run_one(cpu, &image, memory);
	}
	free(insns);
	return 0;
}
