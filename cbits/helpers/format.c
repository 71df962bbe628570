/*
 * format.c - Linux's restricted printf: %d %i %u %x %X with l and ll, %c, %s (%ks %us), %p (%px %pK %ps %pS %pB), %pI4 %pi4 %pI6 %pi6, flags "0+- ", a width.
 *
 * Linux v6.12 kernel/bpf/helpers.c, bpf_bprintf_prepare(), and lib/vsprintf.c, bstr_printf(): the format is checked as a whole before anything is written, so
 * a bad one gives an errno and no text. Two things differ, for want of a kernel: a plain %p shows the address, not a hash of it, and the symbol
 * conversions show an address, which is what Linux does for one that has no symbol.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"

enum { ARG_BYTES = 512 };             /* MAX_BPRINTF_BIN_ARGS: where Linux keeps the fetched arguments of one call */

enum conversion { CONV_NUMBER, CONV_CHAR, CONV_STRING, CONV_POINTER, CONV_SYMBOL, CONV_IP };

/* One conversion. `length` is what it takes in the format, from '%' on. */
struct spec {
	enum conversion kind;
	uint32_t length;
	uint32_t width;
	uint32_t left, plus, space, zero;
	uint32_t bytes;               /* numbers: 4 or 8 */
	char letter;                  /* numbers: d u x X; addresses: I or i */
	char version;                 /* addresses: 4 or 6 */
};

struct text {
	char *out;
	uint64_t room;
	uint64_t length;
};

static void put(struct text *text, const char *bytes, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++, text->length++)
		if (text->length < text->room)
			text->out[text->length] = bytes[i];
}

static void put_padded(struct text *text, const struct spec *spec, const char *bytes, uint64_t count)
{
	uint64_t pad = spec->width > count ? spec->width - count : 0;

	for (uint64_t i = 0; !spec->left && i < pad; i++)
		put(text, " ", 1);
	put(text, bytes, count);
	for (uint64_t i = 0; spec->left && i < pad; i++)
		put(text, " ", 1);
}

/* Nothing but an end, a space or punctuation may follow a pointer or string conversion. */
static int ends(char c)
{
	return c == '\0' || isspace((unsigned char)c) || ispunct((unsigned char)c);
}

static const char *parse_flags(const char *at, struct spec *spec)
{
	for (;; at++) {
		if (*at == '0')
			spec->zero = 1;
		else if (*at == '+')
			spec->plus = 1;
		else if (*at == '-')
			spec->left = 1;
		else if (*at == ' ')
			spec->space = 1;
		else
			break;
	}
	if (*at < '1' || *at > '9')
		return at;
	/* Linux v6.12 lib/vsprintf.c, FIELD_WIDTH_MAX */
	for (; isdigit((unsigned char)*at); at++)
		spec->width = spec->width >= (1 << 23) / 10 ? (1 << 23) - 1 : spec->width * 10 + (uint32_t)(*at - '0');
	return at;
}

/* `at` is behind "%...p". Returns the end of the conversion, NULL when there is none such. */
static const char *parse_pointer(const char *at, struct spec *spec)
{
	if ((at[0] == 'k' || at[0] == 'u') && at[1] == 's') {
		spec->kind = CONV_STRING;
		return ends(at[2]) ? at + 2 : NULL;
	}
	spec->kind = CONV_POINTER;
	if (ends(at[0]))
		return at;
	if (at[0] == 'K' || at[0] == 'x')
		return at + 1;
	if (at[0] == 's' || at[0] == 'S' || at[0] == 'B') {
		spec->kind = CONV_SYMBOL;
		return at + 1;
	}
	if ((at[0] != 'i' && at[0] != 'I') || (at[1] != '4' && at[1] != '6'))
		return NULL;
	spec->kind = CONV_IP;
	spec->letter = at[0];
	spec->version = at[1];
	return at + 2;
}

static const char *parse_number(const char *at, struct spec *spec)
{
	spec->kind = CONV_NUMBER;
	spec->bytes = 4;
	for (int i = 0; i < 2 && *at == 'l'; i++, at++)
		spec->bytes = 8;
	if (!*at || !strchr("diuxX", *at))
		return NULL;
	spec->letter = *at == 'i' ? 'd' : *at;
	return at + 1;
}

/* 0 or -EINVAL. `fmt` points at a '%' that is not "%%". */
static int parse_spec(const char *fmt, struct spec *spec)
{
	const char *at;

	memset(spec, 0, sizeof(*spec));
	at = parse_flags(fmt + 1, spec);
	if (*at == 'p') {
		at = parse_pointer(at + 1, spec);
	} else if (*at == 's') {
		spec->kind = CONV_STRING;
		at = ends(at[1]) ? at + 1 : NULL;
	} else if (*at == 'c') {
		spec->kind = CONV_CHAR;
		at = at + 1;
	} else {
		at = parse_number(at, spec);
	}
	if (!at)
		return -EINVAL;
	spec->length = (uint32_t)(at - fmt);
	return 0;
}

/* Copies the program's string at `addr`; an address it may not read ends the string. Returns bytes with the NUL. */
static uint64_t fetch_string(struct vm_cpu *cpu, uint64_t addr, char *out, uint64_t room)
{
	uint64_t count = 0;

	while (count < room - 1) {
		const uint8_t *byte = vm_memory(cpu, addr + count, 1, 0);

		/* Linux copies all or nothing (strncpy_from_kernel_nofault()) */
		if (!byte)
			count = 0;
		if (!byte || !*byte)
			break;
		out[count++] = (char)*byte;
	}
	out[count] = '\0';
	return count + 1;
}

static void put_number(struct text *text, const struct spec *spec, uint64_t value)
{
	char digits[32];
	int64_t number = spec->bytes == 8 ? (int64_t)value : (int32_t)value;
	uint64_t magnitude = spec->bytes == 8 ? value : (uint32_t)value;
	const char *sign = "";
	uint64_t count;

	if (spec->letter == 'd') {
		magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
		sign = number < 0 ? "-" : spec->plus ? "+" : spec->space ? " " : "";
	}
	count = (uint64_t)snprintf(digits, sizeof(digits), spec->letter == 'x' ? "%lx" : spec->letter == 'X' ? "%lX" : "%lu", (unsigned long)magnitude);
	if (spec->zero && !spec->left) {
		put(text, sign, strlen(sign));
		for (uint64_t have = strlen(sign) + count; have < spec->width; have++)
			put(text, "0", 1);
		put(text, digits, count);
		return;
	}
	memmove(digits + strlen(sign), digits, count);
	memcpy(digits, sign, strlen(sign));
	put_padded(text, spec, digits, count + strlen(sign));
}

/* A pointer is a hex number of 16 digits, or as wide as asked for (pointer_string()); a symbol that is not known is its address. */
static void put_pointer(struct text *text, const struct spec *spec, uint64_t value)
{
	struct spec number = *spec;
	char digits[32];

	if (spec->kind == CONV_SYMBOL) {
		put_padded(text, spec, digits, (uint64_t)snprintf(digits, sizeof(digits), "0x%lx", (unsigned long)value));
		return;
	}
	number.bytes = 8;
	number.letter = 'x';
	if (!number.width) {
		number.width = 16;
		number.zero = 1;
	}
	put_number(text, &number, value);
}

/* RFC 5952 has no part in %pI6: all groups, all digits (Linux v6.12 lib/vsprintf.c, ip6_string() and ip4_string()). */
static uint64_t ip_text(const struct spec *spec, const uint8_t *ip, char *out)
{
	uint64_t count = 0;

	if (spec->version == '4')
		return (uint64_t)sprintf(out, spec->letter == 'i' ? "%03u.%03u.%03u.%03u" : "%u.%u.%u.%u", ip[0], ip[1], ip[2], ip[3]);
	for (int i = 0; i < 16; i += 2)
		count += (uint64_t)sprintf(out + count, "%s%02x%02x", i && spec->letter == 'I' ? ":" : "", ip[i], ip[i + 1]);
	return count;
}

static int64_t put_ip(struct vm_cpu *cpu, struct text *text, const struct spec *spec, uint64_t addr, uint64_t room)
{
	uint64_t bytes = spec->version == '4' ? 4 : 16, count;
	const uint8_t *from = vm_memory(cpu, addr, bytes, 0);
	uint8_t ip[16] = { 0 };
	char digits[64];

	if (room < bytes)
		return -ENOSPC;
	if (from)
		memcpy(ip, from, bytes);
	count = ip_text(spec, ip, digits);
	if (count >= room)
		count = room - 1;
	put(text, digits, count);
	return (int64_t)count + 1;
}

/* Writes one conversion. Returns what it needs of the argument space, or -ENOSPC. */
static int64_t put_spec(struct vm_cpu *cpu, struct text *text, const struct spec *spec, uint64_t arg, uint64_t used)
{
	char string[ARG_BYTES];
	uint64_t aligned = (used + 3) & ~(uint64_t)3, bytes = spec->kind == CONV_NUMBER ? spec->bytes : 8;

	if (spec->kind == CONV_STRING || spec->kind == CONV_CHAR) {
		if (used >= ARG_BYTES)
			return -ENOSPC;
		if (spec->kind == CONV_CHAR) {
			string[0] = (char)arg;
			put_padded(text, spec, string, 1);
			return 1;
		}
		bytes = fetch_string(cpu, arg, string, ARG_BYTES - used);
		put_padded(text, spec, string, bytes - 1);
		return (int64_t)bytes;
	}
	if (spec->kind == CONV_IP)
		return put_ip(cpu, text, spec, arg, ARG_BYTES - used);
	if (aligned + bytes > ARG_BYTES)
		return -ENOSPC;
	if (spec->kind == CONV_NUMBER)
		put_number(text, spec, arg);
	else
		put_pointer(text, spec, arg);
	return (int64_t)(aligned - used + bytes);
}

/* Control characters are refused; UTF-8 passes since v6.16. */
static int is_text(char c)
{
	return !isascii((unsigned char)c) || isprint((unsigned char)c) || isspace((unsigned char)c);
}

/* One pass over a checked-for-NUL format. Returns the text's length or -errno. */
static int64_t run_format(struct vm_cpu *cpu, struct text *text, const char *fmt, const uint64_t *args, uint32_t arg_cnt)
{
	uint64_t used = 0;
	uint32_t next = 0;

	while (*fmt) {
		struct spec spec;
		int64_t taken;

		if (!is_text(*fmt))
			return -EINVAL;
		if (*fmt != '%' || fmt[1] == '%') {
			put(text, fmt, 1);
			fmt += *fmt == '%' ? 2 : 1;
			continue;
		}
		if (next >= arg_cnt || parse_spec(fmt, &spec))
			return -EINVAL;
		taken = put_spec(cpu, text, &spec, args[next++], used);
		if (taken < 0)
			return taken;
		used += (uint64_t)taken;
		fmt += spec.length;
		/* bstr_printf() takes whatever letters follow a pointer for part of the conversion */
		while (spec.kind >= CONV_POINTER && isalnum((unsigned char)*fmt))
			fmt++;
	}
	return (int64_t)text->length;
}

int64_t format_text(struct vm_cpu *cpu, char *out, uint64_t out_bytes, const char *fmt, uint64_t fmt_bytes, const uint64_t *args, uint32_t arg_cnt)
{
	struct text dry = { .out = out }, text = { .out = out, .room = out_bytes ? out_bytes - 1 : 0 };
	uint64_t fmt_length = strnlen(fmt, fmt_bytes);
	int64_t length;
	char *copy;

	if (fmt_length == fmt_bytes)
		return -EINVAL;
	/* the format may lie in a map that another process writes: a private copy keeps its end where it was found */
	copy = malloc(fmt_length + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, fmt, fmt_length);
	copy[fmt_length] = '\0';
	/* a dry run first: `out` stays as it was when the format turns out to be bad */
	length = run_format(cpu, &dry, copy, args, arg_cnt);
	if (length >= 0)
		length = run_format(cpu, &text, copy, args, arg_cnt);
	free(copy);
	if (length >= 0 && out_bytes)
		out[text.length < text.room ? text.length : text.room] = '\0';
	return length;
}
