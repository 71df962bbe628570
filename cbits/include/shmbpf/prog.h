/*
 * prog.h - a loaded program, as it lies in its segment.
 *
 *   +----------------------------+ 0
 *   | struct bpf_insn[insn_cnt]  |  linked; ld_imm64 with PSEUDO_MAP_FD / PSEUDO_MAP_VALUE carry map ids in imm
 *   | uint32_t map_ids[map_cnt]  |
 *   | struct prog_line[line_cnt] |  sorted by insn
 *   | struct prog_func[func_cnt] |  sorted by insn
 *   | strings                    |  NUL-terminated, named by offset
 *   +----------------------------+ page
 *   | struct shm_prog            |
 *   +----------------------------+ bytes
 *
 * Immutable once published, but for the run counters. An opener trusts none of it: the decoder checks every instruction again.
 */
#ifndef SHMBPF_PROG_H
#define SHMBPF_PROG_H

#include "shm.h"

enum prog_limits {
	PROG_MAX_INSNS = 1000000,     /* BPF_COMPLEXITY_LIMIT_INSNS */
	PROG_MAX_MAPS = 64,           /* MAX_USED_MAPS */
};

struct prog_line {
	uint32_t insn;
	uint32_t file;                /* offset in strings */
	uint32_t line;
	uint32_t text;                /* offset in strings: the source line */
};

struct prog_func {
	uint32_t insn;
	uint32_t name;                /* offset in strings */
	uint32_t type_id;
	uint32_t proto;               /* offset in strings: the C prototype, "" = not known */
};

struct shm_prog {
	struct shm_head head;         /* type = enum bpf_prog_type, name = first 15 bytes of the function's name */
	uint32_t insn_cnt;
	uint32_t map_cnt;
	uint32_t line_cnt;
	uint32_t func_cnt;
	uint32_t strings_bytes;
	uint32_t attach_type;         /* expected_attach_type */
	uint32_t gpl;
	uint32_t flags;
	uint32_t btf_id;
	uint32_t reserved;
	uint8_t tag[8];               /* first 8 bytes of SHA-256 over the instructions, map numbers zeroed */
	uint64_t load_time_ns;        /* CLOCK_BOOTTIME */
	uint64_t run_cnt;             /* atomic */
	uint64_t run_time_ns;         /* atomic */
	uint64_t pad[4];
};

/* Pointers into a mapped program segment, bounds-checked once. */
struct prog_image {
	const struct shm_prog *ctl;
	const struct bpf_insn *insns;
	const uint32_t *map_ids;
	const struct prog_line *lines;
	const struct prog_func *funcs;
	const char *strings;
	uint32_t insn_cnt;
	uint32_t map_cnt;
	uint32_t line_cnt;
	uint32_t func_cnt;
	uint32_t strings_bytes;
	uint32_t type;
	uint32_t id;
	uint32_t reserved;
};

/* File size of a program segment, 0 when a count is out of range. */
uint64_t prog_segment_bytes(uint32_t insn_cnt, uint32_t map_cnt, uint32_t line_cnt, uint32_t func_cnt, uint32_t strings_bytes);
/* Finds the parts of a mapped (not necessarily published) segment of these counts. 0 or -EINVAL. */
int prog_image_of(struct prog_image *image, uint8_t *base, uint64_t bytes);
struct shm_prog *prog_ctl_of(uint8_t *base, uint64_t bytes);

#endif
