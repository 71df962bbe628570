/*
 * trace.c - text out of a program: to the trace (trace_printk, trace_vprintk) or into its own memory (snprintf).
 *
 * Linux v6.12 kernel/trace/bpf_trace.c, bpf_trace_printk() and bpf_trace_vprintk(); kernel/bpf/helpers.c, bpf_snprintf().
 */
#include "format.h"

enum { PRINTK_ARGS = 3 };

/* Formats and emits one line; a trailing newline is the reader's business. Returns the text's full length or -errno. */
static int64_t trace_line(struct vm_cpu *cpu, const char *fmt, uint64_t fmt_bytes, const uint64_t *args, uint32_t arg_cnt)
{
	char line[FORMAT_LINE_BYTES];
	int64_t length = format_text(cpu, line, sizeof(line), fmt, fmt_bytes, args, arg_cnt);
	uint32_t shown;

	if (length < 0 || !cpu->trace)
		return length;
	shown = length < (int64_t)sizeof(line) ? (uint32_t)length : sizeof(line) - 1;
	if (shown && line[shown - 1] == '\n')
		shown--;
	cpu->trace(cpu, line, shown);
	return length;
}

uint64_t bpf_trace_printk(struct vm_cpu *cpu, uint64_t fmt, uint64_t fmt_size, uint64_t arg1, uint64_t arg2, uint64_t arg3)
{
	uint64_t args[PRINTK_ARGS] = { arg1, arg2, arg3 };

	return result(trace_line(cpu, host(fmt), fmt_size, args, PRINTK_ARGS));
}

/* Arguments as an array of u64: Linux allows 12, and NULL when there are none. */
static int bad_args(uint64_t args, uint64_t args_bytes)
{
	return args_bytes & 7 || args_bytes > 8 * FORMAT_ARGS_MAX || (args_bytes && !args);
}

uint64_t bpf_trace_vprintk(struct vm_cpu *cpu, uint64_t fmt, uint64_t fmt_size, uint64_t args, uint64_t data_len, uint64_t r5)
{
	if (bad_args(args, data_len))
		return result(-EINVAL);
	return result(trace_line(cpu, host(fmt), fmt_size, host(args), (uint32_t)(data_len / 8)));
}

/* Unlike C's, the result counts the NUL. */
uint64_t bpf_snprintf(struct vm_cpu *cpu, uint64_t str, uint64_t str_size, uint64_t fmt, uint64_t args, uint64_t data_len)
{
	int64_t length;

	if (bad_args(args, data_len))
		return result(-EINVAL);
	length = format_text(cpu, host(str), str_size, host(fmt), UINT64_MAX >> 1, host(args), (uint32_t)(data_len / 8));
	return result(length < 0 ? length : length + 1);
}
