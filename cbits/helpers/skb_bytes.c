/*
 * skb_bytes.c - copying to and from the packet.
 *
 * Linux v6.12 net/core/filter.c, bpf_skb_load_bytes(), bpf_skb_load_bytes_relative(), bpf_skb_store_bytes() and bpf_skb_pull_data(). The packet is always
 * linear, so there is never anything to pull: what remains of "make it writable" is the check of the length.
 */
#include <limits.h>

#include "csum.h"
#include "skb.h"

enum store_flags { BPF_F_RECOMPUTE_CSUM = 1, BPF_F_INVALIDATE_HASH = 2, STORE_FLAGS = 3 };

enum header_start { BPF_HDR_START_MAC = 0, BPF_HDR_START_NET = 1, RELATIVE_OFFSET_MAX = 0xffff };

/* A refused load leaves zeros, never what was in the program's buffer. */
static uint64_t refuse(void *to, uint32_t bytes)
{
	memset(to, 0, bytes);
	return result(-EFAULT);
}

uint64_t bpf_skb_load_bytes(struct vm_cpu *cpu, uint64_t skb, uint64_t offset, uint64_t to, uint64_t len, uint64_t r5)
{
	const struct vm_packet *packet = &cpu->packet;
	uint32_t from = (uint32_t)offset, bytes = (uint32_t)len;

	if (from > INT_MAX || (uint64_t)from + bytes > skb_len(packet))
		return refuse(host(to), bytes);
	memmove(host(to), packet->data + from, bytes);
	return 0;
}

uint64_t bpf_skb_load_bytes_relative(struct vm_cpu *cpu, uint64_t skb, uint64_t offset, uint64_t to, uint64_t len, uint64_t start_header)
{
	const struct vm_packet *packet = &cpu->packet;
	uint32_t from = (uint32_t)offset, bytes = (uint32_t)len, header = (uint32_t)start_header;
	const uint8_t *start;

	if (from > RELATIVE_OFFSET_MAX || header > BPF_HDR_START_NET)
		return refuse(host(to), bytes);
	if (packet->is_l2)
		start = packet->data + (header == BPF_HDR_START_NET ? packet->mac_len : 0);
	else
		start = packet->data - (header == BPF_HDR_START_NET ? 0 : ETH_HLEN);
	if ((int64_t)from + bytes > packet->tail - start)
		return refuse(host(to), bytes);
	memmove(host(to), start + from, bytes);
	return 0;
}

uint64_t bpf_skb_store_bytes(struct vm_cpu *cpu, uint64_t skb, uint64_t offset, uint64_t from, uint64_t len, uint64_t flags)
{
	struct vm_packet *packet = &cpu->packet;
	uint32_t to = (uint32_t)offset, bytes = (uint32_t)len;

	if (flags & ~(uint64_t)STORE_FLAGS)
		return result(-EINVAL);
	if (to > INT_MAX || (uint64_t)to + bytes > skb_len(packet))
		return result(-EFAULT);
	if (flags & BPF_F_RECOMPUTE_CSUM)
		packet_csum_pull(packet, packet->data + to, bytes, to);
	/* the source may be the packet itself */
	memmove(packet->data + to, host(from), bytes);
	if (flags & BPF_F_RECOMPUTE_CSUM)
		packet_csum_push(packet, packet->data + to, bytes, to);
	if (flags & BPF_F_INVALIDATE_HASH)
		skb_clear_hash(cpu);
	return 0;
}

uint64_t bpf_skb_pull_data(struct vm_cpu *cpu, uint64_t skb, uint64_t len, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return result((uint32_t)len > skb_len(&cpu->packet) ? -ENOMEM : 0);
}
