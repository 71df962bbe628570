/*
 * str.c - strings and numbers in text.
 *
 * Linux v6.12 kernel/bpf/helpers.c, __bpf_strtoull() and bpf_strncmp(); lib/kstrtox.c, _parse_integer_fixup_radix() and _parse_integer_limit().
 */
#include <ctype.h>
#include <limits.h>
#include <string.h>

#include "helpers.h"

enum {
	BPF_STRTOX_BASE_MASK = 0x1f,
	DIGITS_MAX = 63,              /* Linux copies the number to char str[64] first: later digits do not exist */
};

struct number {
	uint64_t magnitude;
	uint32_t negative;
};

/* Position in `text`, which ends at `end`; a NUL is what Linux's copy has behind the end. */
static char at(const char *text, const char *end)
{
	return text < end ? *text : '\0';
}

/* Value of a digit, or 16. */
static uint32_t digit(char c)
{
	if (c >= '0' && c <= '9')
		return (uint32_t)(c - '0');
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10) : 16;
}

/* Skips "0x" where it is a prefix and decides base 0. */
static const char *skip_prefix(const char *text, const char *end, uint32_t *base)
{
	int x = at(text, end) == '0' && (at(text + 1, end) | 0x20) == 'x';

	if (*base == 0) {
		if (at(text, end) != '0')
			*base = 10;
		else
			*base = x && digit(at(text + 2, end)) < 16 ? 16 : 8;
	}
	return *base == 16 && x ? text + 2 : text;
}

/* Bytes consumed, -EINVAL or -ERANGE. */
static int64_t parse_number(const char *buf, uint64_t buf_len, uint64_t flags, struct number *out)
{
	const char *text = buf, *end = buf + buf_len, *first;
	uint32_t base = flags & BPF_STRTOX_BASE_MASK, overflow = 0;

	if ((base != 0 && base != 8 && base != 10 && base != 16) || flags & ~(uint64_t)BPF_STRTOX_BASE_MASK)
		return -EINVAL;
	while (text < end && isspace((unsigned char)*text))
		text++;
	out->negative = at(text, end) == '-';
	text += out->negative;
	if (text == end)
		return -EINVAL;
	if (end - text > DIGITS_MAX)
		end = text + DIGITS_MAX;
	text = skip_prefix(text, end, &base);
	out->magnitude = 0;
	for (first = text; digit(at(text, end)) < base; text++) {
		uint32_t value = digit(*text);

		overflow |= out->magnitude > (UINT64_MAX - value) / base;
		out->magnitude = out->magnitude * base + value;
	}
	if (overflow)
		return -ERANGE;
	return text == first ? -EINVAL : text - buf;
}

uint64_t bpf_strtol(struct vm_cpu *cpu, uint64_t buf, uint64_t buf_len, uint64_t flags, uint64_t res, uint64_t r5)
{
	struct number number;
	int64_t *out = host(res), signed_value;
	int64_t consumed;

	*out = 0;
	consumed = parse_number(host(buf), buf_len, flags, &number);
	if (consumed < 0)
		return result(consumed);
	signed_value = (int64_t)(number.negative ? -number.magnitude : number.magnitude);
	if (number.negative ? signed_value > 0 : signed_value < 0)
		return result(-ERANGE);
	*out = signed_value;
	return result(consumed);
}

uint64_t bpf_strtoul(struct vm_cpu *cpu, uint64_t buf, uint64_t buf_len, uint64_t flags, uint64_t res, uint64_t r5)
{
	struct number number;
	uint64_t *out = host(res);
	int64_t consumed;

	*out = 0;
	consumed = parse_number(host(buf), buf_len, flags, &number);
	if (consumed < 0)
		return result(consumed);
	if (number.negative)
		return result(-EINVAL);
	*out = number.magnitude;
	return result(consumed);
}

/* -1, 0 or 1, as Linux's generic strncmp() gives them; programs compare with these. */
uint64_t bpf_strncmp(struct vm_cpu *cpu, uint64_t s1, uint64_t s1_sz, uint64_t s2, uint64_t r4, uint64_t r5)
{
	int order = strncmp(host(s1), host(s2), s1_sz);

	return result((order > 0) - (order < 0));
}
