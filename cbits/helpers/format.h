/*
 * format.h - the one formatter behind trace_printk, trace_vprintk and snprintf.
 */
#ifndef SHMBPF_FORMAT_H
#define SHMBPF_FORMAT_H

#include "helpers.h"

enum {
	FORMAT_ARGS_MAX = 12,         /* MAX_BPRINTF_VARARGS */
	FORMAT_LINE_BYTES = 1024,     /* MAX_BPRINTF_BUF */
};

/*
 * Formats into `out`, NUL-terminated when out_bytes > 0, cut where it does not fit. Returns the length the whole text has, or
 * -EINVAL: no NUL within fmt_bytes, a control character, an unknown conversion, more conversions than arguments;
 * -ENOSPC: the arguments, strings included, need more than 512 bytes.
 */
int64_t format_text(struct vm_cpu *cpu, char *out, uint64_t out_bytes, const char *fmt, uint64_t fmt_bytes, const uint64_t *args, uint32_t arg_cnt);

#endif
