/*
 * skb_shape.c - growing and shrinking the packet: change_head, change_tail, change_proto, adjust_room.
 *
 * Linux v6.12 net/core/filter.c, the functions of these names. Each ends with vm_packet_sync(), refused or not, as Linux recomputes the data pointers.
 */

#include "csum.h"
#include "skb.h"

enum adjust_room_flags {
	BPF_F_ADJ_ROOM_FIXED_GSO = 0x1,
	BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 = 0x2,
	BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 = 0x4,
	BPF_F_ADJ_ROOM_ENCAP_L4_GRE = 0x8,
	BPF_F_ADJ_ROOM_ENCAP_L4_UDP = 0x10,
	BPF_F_ADJ_ROOM_NO_CSUM_RESET = 0x20,
	BPF_F_ADJ_ROOM_ENCAP_L2_ETH = 0x40,
	BPF_F_ADJ_ROOM_DECAP_L3_IPV4 = 0x80,
	BPF_F_ADJ_ROOM_DECAP_L3_IPV6 = 0x100,
	ENCAP_L3 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
	ENCAP_L4 = BPF_F_ADJ_ROOM_ENCAP_L4_GRE | BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
	DECAP_L3 = BPF_F_ADJ_ROOM_DECAP_L3_IPV4 | BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
	LOW_FLAGS = 0x1ff,
	SHRINK_FLAGS = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | DECAP_L3,
	BPF_ADJ_ROOM_ENCAP_L2_SHIFT = 56,
};

enum adjust_room_mode { BPF_ADJ_ROOM_NET = 0, BPF_ADJ_ROOM_MAC = 1, ADJUST_MAX = 0xfff };

/* Headers that are known stay where they are relative to data, but a transport header beyond the network header keeps its bytes. */
static void restore_network(struct vm_packet *packet, uint32_t mac_len, int same)
{
	packet->mac_len = mac_len;
	if (same)
		packet->transport_off = (int32_t)mac_len;
}

/* bpf_skb_net_hdr_push(): opens `bytes` zero bytes at `off`. */
static int open_gap(struct vm_packet *packet, uint32_t off, uint32_t bytes)
{
	uint32_t mac_len = packet->mac_len;
	int same = packet->transport_off == (int32_t)mac_len;
	int error;

	error = skb_push(packet, bytes);
	if (error)
		return error;
	/* headers that were cut off are moved all the same, from behind the packet as on Linux, but not from behind the buffer */
	if ((uint64_t)off + bytes > (uint64_t)(packet->hard_end - packet->data))
		off = skb_len(packet) - bytes;
	memmove(packet->data, packet->data + bytes, off);
	memset(packet->data + off, 0, bytes);
	restore_network(packet, mac_len, same);
	return 0;
}

/* bpf_skb_net_hdr_pop(): takes `bytes` bytes at `off` out. */
static int close_gap(struct vm_packet *packet, uint32_t off, uint32_t bytes)
{
	uint32_t mac_len = packet->mac_len;
	int same = packet->transport_off == (int32_t)mac_len;

	if (off + bytes > skb_len(packet))
		return -ENOMEM;
	packet_csum_pull(packet, packet->data + off, bytes, 0);
	memmove(packet->data + bytes, packet->data, off);
	skb_pull(packet, bytes);
	restore_network(packet, mac_len, same);
	return 0;
}

static int change_head(struct vm_packet *packet, uint32_t head_room, uint64_t flags)
{
	uint32_t len = skb_len(packet), new_len = len + head_room;
	int error;

	if (flags || new_len > SKB_LEN_MAX || new_len < len)
		return -EINVAL;
	error = skb_push(packet, head_room);
	if (!error)
		memset(packet->data, 0, head_room);
	return error;
}

uint64_t bpf_skb_change_head(struct vm_cpu *cpu, uint64_t skb, uint64_t head_room, uint64_t flags, uint64_t r4, uint64_t r5)
{
	int error = change_head(&cpu->packet, (uint32_t)head_room, flags);

	vm_packet_sync(cpu);
	return result(error);
}

/* The shortest packet change_tail() makes: the headers up to the last one known stay. */
static uint32_t minimum_length(const struct vm_packet *packet)
{
	return packet->transport_off > 0 ? (uint32_t)packet->transport_off : packet->mac_len;
}

static int change_tail(struct vm_packet *packet, uint32_t new_len, uint64_t flags)
{
	uint32_t len = skb_len(packet);

	if (flags || new_len > SKB_LEN_MAX || new_len < minimum_length(packet))
		return -EINVAL;
	if (packet->encapsulation)
		return -ENOTSUPP;
	if (new_len == len)
		return 0;
	/* either way the sum over the old length is worth nothing (__skb_grow_rcsum(), __skb_trim_rcsum()) */
	packet->csum_complete = 0;
	return skb_set_length(packet, new_len);
}

uint64_t bpf_skb_change_tail(struct vm_cpu *cpu, uint64_t skb, uint64_t new_len, uint64_t flags, uint64_t r4, uint64_t r5)
{
	int error = change_tail(&cpu->packet, (uint32_t)new_len, flags);

	vm_packet_sync(cpu);
	return result(error);
}

static int change_proto(struct vm_cpu *cpu, uint16_t to)
{
	struct vm_packet *packet = &cpu->packet;
	uint16_t from = (uint16_t)cpu->skb.protocol;
	int error;

	if (from == BE_ETH_P_IP && to == BE_ETH_P_IPV6)
		error = open_gap(packet, packet->mac_len, IPV6_HLEN - IPV4_HLEN);
	else if (from == BE_ETH_P_IPV6 && to == BE_ETH_P_IP)
		error = close_gap(packet, packet->mac_len, IPV6_HLEN - IPV4_HLEN);
	else
		return -ENOTSUPP;
	if (error)
		return error;
	cpu->skb.protocol = to;
	skb_clear_hash(cpu);
	return 0;
}

uint64_t bpf_skb_change_proto(struct vm_cpu *cpu, uint64_t skb, uint64_t proto, uint64_t flags, uint64_t r4, uint64_t r5)
{
	int error = flags ? -EINVAL : change_proto(cpu, (uint16_t)proto);

	vm_packet_sync(cpu);
	return result(error);
}

/* What a tunnel asked for must make sense before anything moves (bpf_skb_net_grow()). */
static int check_encap(const struct vm_packet *packet, uint32_t bytes, uint64_t flags)
{
	uint32_t inner_mac_len = (uint32_t)(flags >> BPF_ADJ_ROOM_ENCAP_L2_SHIFT);

	if ((flags & ENCAP_L3) == ENCAP_L3 || (flags & ENCAP_L4) == ENCAP_L4)
		return -EINVAL;
	if (flags & BPF_F_ADJ_ROOM_ENCAP_L2_ETH && inner_mac_len < ETH_HLEN)
		return -EINVAL;
	if (packet->encapsulation)
		return -EALREADY;
	return inner_mac_len > bytes ? -EINVAL : 0;
}

static int grow(struct vm_cpu *cpu, uint32_t off, uint32_t bytes, uint64_t flags)
{
	struct vm_packet *packet = &cpu->packet;
	int ipv6 = !!(flags & BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
	int error = flags & ENCAP_L3 ? check_encap(packet, bytes, flags) : 0;

	if (!error)
		error = open_gap(packet, off, bytes);
	if (error || !(flags & ENCAP_L3))
		return error;
	packet->encapsulation = 1;
	if (flags & ENCAP_L4)
		packet->transport_off = (int32_t)packet->mac_len + (ipv6 ? IPV6_HLEN : IPV4_HLEN);
	cpu->skb.protocol = ipv6 ? BE_ETH_P_IPV6 : BE_ETH_P_IP;
	return 0;
}

static int shrink(struct vm_cpu *cpu, uint32_t off, uint32_t bytes, uint64_t flags)
{
	int error = flags & ~(uint64_t)SHRINK_FLAGS ? -EINVAL : close_gap(&cpu->packet, off, bytes);

	if (!error && flags & DECAP_L3)
		cpu->skb.protocol = flags & BPF_F_ADJ_ROOM_DECAP_L3_IPV6 ? BE_ETH_P_IPV6 : BE_ETH_P_IP;
	return error;
}

/* Bytes of network header that must remain, -EINVAL for flags that contradict each other or the direction. */
static int64_t minimum_network(uint64_t flags, uint32_t base, int shrinks)
{
	if (!(flags & DECAP_L3))
		return base;
	if (!shrinks || (flags & DECAP_L3) == DECAP_L3)
		return -EINVAL;
	return flags & BPF_F_ADJ_ROOM_DECAP_L3_IPV6 ? IPV6_HLEN : IPV4_HLEN;
}

static int adjust_room(struct vm_cpu *cpu, int32_t len_diff, uint32_t mode, uint64_t flags)
{
	struct vm_packet *packet = &cpu->packet;
	uint32_t base = cpu->skb.protocol == BE_ETH_P_IP ? IPV4_HLEN : IPV6_HLEN;
	uint32_t bytes = (uint32_t)(len_diff < 0 ? -(int64_t)len_diff : len_diff);
	int64_t have = (int64_t)skb_len(packet) - packet->mac_len, least;

	if (flags & ~((uint64_t)0xff << BPF_ADJ_ROOM_ENCAP_L2_SHIFT | LOW_FLAGS))
		return -EINVAL;
	if (bytes > ADJUST_MAX)
		return -EFAULT;
	if ((cpu->skb.protocol != BE_ETH_P_IP && cpu->skb.protocol != BE_ETH_P_IPV6) || mode > BPF_ADJ_ROOM_MAC)
		return -ENOTSUPP;
	least = minimum_network(flags, base, len_diff < 0);
	if (least < 0)
		return (int)least;
	if (len_diff < 0 ? have <= bytes || have - bytes < least : skb_len(packet) + bytes > SKB_LEN_MAX)
		return -ENOTSUPP;
	mode = packet->mac_len + (mode == BPF_ADJ_ROOM_NET ? base : 0);
	return len_diff < 0 ? shrink(cpu, mode, bytes, flags) : grow(cpu, mode, bytes, flags);
}

uint64_t bpf_skb_adjust_room(struct vm_cpu *cpu, uint64_t skb, uint64_t len_diff, uint64_t mode, uint64_t flags, uint64_t r5)
{
	int error = adjust_room(cpu, (int32_t)len_diff, (uint32_t)mode, flags);

	if (!error && !(flags & BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		skb_reset_csum_unnecessary(&cpu->packet);
	vm_packet_sync(cpu);
	return result(error);
}
