/*
 * csum.c - checksums in and beside the packet.
 *
 * Linux v6.12 net/core/filter.c, bpf_l3_csum_replace() and its neighbours; net/core/utils.c, inet_proto_csum_replace4(); include/linux/skbuff.h,
 * __skb_incr_checksum_unnecessary(). Two later changes are in, because programs built for newer headers rely on them and older ones cannot tell:
 * bpf_csum_diff() folds its result to 16 bits and takes any size, odd ones too (v6.13), BPF_F_IPV6 (v6.16).
 */
#include "csum.h"
#include "skb.h"

enum l4_csum_flags {
	BPF_F_HDR_FIELD_MASK = 0xf,   /* size of the replaced field: 2, 4, or 0 when `to` is a difference */
	BPF_F_PSEUDO_HDR = 0x10,
	BPF_F_MARK_MANGLED_0 = 0x20,
	BPF_F_MARK_ENFORCE = 0x40,
	BPF_F_IPV6 = 0x80,
	L4_FLAGS = 0xff,
};

enum csum_level_op { BPF_CSUM_LEVEL_QUERY = 0, BPF_CSUM_LEVEL_INC = 1, BPF_CSUM_LEVEL_DEC = 2, BPF_CSUM_LEVEL_RESET = 3, SKB_MAX_CSUM_LEVEL = 3 };

enum { CSUM_MANGLED_0 = 0xffff, CSUM_OFFSET_MAX = 0xffff };

uint64_t bpf_csum_diff(struct vm_cpu *cpu, uint64_t from, uint64_t from_size, uint64_t to, uint64_t to_size, uint64_t seed)
{
	uint32_t from_bytes = (uint32_t)from_size, to_bytes = (uint32_t)to_size, sum = (uint32_t)seed;

	if (to_bytes)
		sum = csum_partial(host(to), to_bytes, sum);
	if (from_bytes)
		sum = csum_sub(sum, csum_partial(host(from), from_bytes, 0));
	return csum_fold16(sum);
}

uint64_t bpf_csum_update(struct vm_cpu *cpu, uint64_t skb, uint64_t csum, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct vm_packet *packet = &cpu->packet;

	if (!packet->csum_complete)
		return result(-ENOTSUPP);
	packet->csum = csum_add(packet->csum, (uint32_t)csum);
	return packet->csum;
}

static void csum_level_inc(struct vm_packet *packet)
{
	if (packet->csum_unnecessary) {
		packet->csum_level += packet->csum_level < SKB_MAX_CSUM_LEVEL;
	} else if (!packet->csum_complete) {
		packet->csum_unnecessary = 1;
		packet->csum_level = 0;
	}
}

static void csum_level_dec(struct vm_packet *packet)
{
	if (packet->csum_unnecessary && packet->csum_level)
		packet->csum_level--;
	else
		packet->csum_unnecessary = 0;
}

uint64_t bpf_csum_level(struct vm_cpu *cpu, uint64_t skb, uint64_t level, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct vm_packet *packet = &cpu->packet;

	switch (level) {
	case BPF_CSUM_LEVEL_QUERY:
		return packet->csum_unnecessary ? packet->csum_level : result(-EACCES);
	case BPF_CSUM_LEVEL_INC:
		csum_level_inc(packet);
		return 0;
	case BPF_CSUM_LEVEL_DEC:
		csum_level_dec(packet);
		return 0;
	case BPF_CSUM_LEVEL_RESET:
		skb_reset_csum_unnecessary(packet);
		return 0;
	default:
		return result(-EINVAL);
	}
}

/* The checksum field at `offset`, NULL when it is not in the packet. */
static uint8_t *checksum_field(struct vm_cpu *cpu, uint32_t offset)
{
	if (offset > CSUM_OFFSET_MAX || offset & 1 || offset + 2 > skb_len(&cpu->packet))
		return NULL;
	return cpu->packet.data + offset;
}

/* Difference to add to a (not inverted) sum when a field of `size` bytes changes; -EINVAL for a size that is no field. */
static int field_difference(uint32_t size, uint64_t from, uint64_t to, uint32_t *diff)
{
	if (size == 0 && from == 0)
		*diff = (uint32_t)to;
	else if (size == 2)
		*diff = csum_sub((uint16_t)to, (uint16_t)from);
	else if (size == 4)
		*diff = csum_sub((uint32_t)to, (uint32_t)from);
	else
		return -EINVAL;
	return 0;
}

static uint16_t replaced(uint16_t field, uint32_t diff)
{
	return (uint16_t)~csum_fold16(csum_add(diff, (uint16_t)~field));
}

uint64_t bpf_l3_csum_replace(struct vm_cpu *cpu, uint64_t skb, uint64_t offset, uint64_t from, uint64_t to, uint64_t flags)
{
	uint8_t *field;
	uint16_t value;
	uint32_t diff;

	if (flags & ~(uint64_t)BPF_F_HDR_FIELD_MASK)
		return result(-EINVAL);
	field = checksum_field(cpu, (uint32_t)offset);
	if (!field)
		return result(-EFAULT);
	if (field_difference((uint32_t)flags, from, to, &diff))
		return result(-EINVAL);
	memcpy(&value, field, 2);
	value = replaced(value, diff);
	memcpy(field, &value, 2);
	return 0;
}

uint64_t bpf_l4_csum_replace(struct vm_cpu *cpu, uint64_t skb, uint64_t offset, uint64_t from, uint64_t to, uint64_t flags)
{
	struct vm_packet *packet = &cpu->packet;
	uint8_t *field;
	uint16_t value;
	uint32_t diff;

	if (flags & ~(uint64_t)L4_FLAGS)
		return result(-EINVAL);
	field = checksum_field(cpu, (uint32_t)offset);
	if (!field)
		return result(-EFAULT);
	memcpy(&value, field, 2);
	if (flags & BPF_F_MARK_MANGLED_0 && !(flags & BPF_F_MARK_ENFORCE) && !value)
		return 0;
	if (field_difference(flags & BPF_F_HDR_FIELD_MASK, from, to, &diff))
		return result(-EINVAL);
	value = replaced(value, diff);
	/* the pseudo header is not in the packet: its change shows in skb->csum; with IPv6's, the address in the header takes it back */
	if (packet->csum_complete && flags & BPF_F_PSEUDO_HDR && !((flags & BPF_F_IPV6) && !(flags & BPF_F_HDR_FIELD_MASK)))
		packet->csum = ~csum_add(~packet->csum, diff);
	if (flags & BPF_F_MARK_MANGLED_0 && !value)
		value = CSUM_MANGLED_0;
	memcpy(field, &value, 2);
	return 0;
}
