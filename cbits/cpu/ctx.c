/*
 * ctx.c - ctx.def as byte tables: for each hook, one byte per context offset whose bit write * 4 + log2(size) says "allowed".
 *
 * The rules per kind of field are Linux's (v6.12 net/core/filter.c, bpf_skb_is_valid_access(), __is_valid_xdp_access(); include/linux/filter.h,
 * bpf_ctx_narrow_access_ok()): every access is aligned to its size; 8-byte fields and packet pointers only as a whole; 4-byte fields may be read in parts but
 * are written as a whole; cb[] may be touched in any size that stays inside.
 */
#include <stddef.h>

#include "cpu/region.h"

enum { HOOKS = 5, LOGS = 4, WHOLE_BIT = 8, TABLE_BYTES = sizeof(struct __sk_buff) };

struct field {
	uint16_t off;
	uint16_t bytes;
	uint8_t access;
	uint8_t hooks;
};

static const struct field fields[] = {
#define CTX(type, name, rights, bits) { offsetof(struct type, name), sizeof(((struct type *)0)->name), rights, bits },
#include "shmbpf/ctx.def"
#undef CTX
};

static uint8_t table[HOOKS][TABLE_BYTES];

/* Bits of one field at `off` for accesses of 1 << lg bytes. */
static uint8_t bits_of(const struct field *field, uint32_t off, uint32_t lg)
{
	uint32_t size = 1u << lg, whole = size == field->bytes;
	uint32_t any_size = field->bytes > sizeof(uint64_t), narrow = field->bytes <= sizeof(uint32_t) && !(field->access & WHOLE_BIT);
	uint8_t bits = 0;

	if (off % size || off + size > field->off + field->bytes)
		return 0;
	if (whole || any_size || narrow)
		bits |= 1u << lg;
	if ((field->access & CTX_RW) == CTX_RW && (whole || any_size))
		bits |= 1u << (LOGS + lg);
	return bits;
}

static __attribute__((constructor)) void fill_tables(void)
{
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		for (uint32_t hook = 0; hook < HOOKS; hook++)
			for (uint32_t off = fields[i].off; fields[i].hooks >> hook & 1 && off < fields[i].off + fields[i].bytes; off++)
				for (uint32_t lg = 0; lg < LOGS; lg++)
					table[hook][off] |= bits_of(&fields[i], off, lg);
}

const uint8_t *vm_ctx_table(uint32_t hook)
{
	return hook > VM_HOOK_NONE && hook < HOOKS ? table[hook] : NULL;
}

uint32_t vm_ctx_bytes(uint32_t hook)
{
	if (hook == VM_HOOK_XDP)
		return sizeof(struct xdp_md);
	return hook > VM_HOOK_NONE && hook < HOOKS ? sizeof(struct __sk_buff) : 0;
}

int vm_ctx_allowed(uint32_t hook, uint32_t off, uint32_t size, uint32_t write)
{
	uint32_t lg = 0;

	while (lg < LOGS && 1u << lg != size)
		lg++;
	if (lg == LOGS || off >= vm_ctx_bytes(hook))
		return 0;
	return table[hook][off] >> (!!write * LOGS + lg) & 1;
}
