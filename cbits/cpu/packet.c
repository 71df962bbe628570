/*
 * packet.c - the packet in hand and the contexts that describe it.
 *
 * The arena has growth room on both sides of the packet. What a helper may really use of it is the hook's business: an XDP frame is one page with 256 bytes
 * of headroom and 320 bytes kept for struct skb_shared_info, a socket buffer grows as far as the arena goes.
 */
#include <errno.h>
#include <string.h>

#include "cpu/region.h"

enum {
	FRONT_ROOM = 67584,             /* bytes of the arena before the packet */
	XDP_FRAME_BYTES = 4096 - 320,   /* Linux v6.12 net/bpf/test_run.c, bpf_prog_test_run_xdp() */
	MAC_BYTES = 14,
	LOOPBACK_IFINDEX = 1,
	ETH_P_802_3_MIN = 0x600,
	ETH_P_802_3 = 0x0001,
	ETH_P_802_2 = 0x0004,
};

enum packet_type { PACKET_HOST = 0, PACKET_MULTICAST = 2, PACKET_OTHERHOST = 3 };

static uint32_t low_address(const uint8_t *at)
{
	return (uint32_t)(uintptr_t)at;
}

void vm_packet_sync(struct vm_cpu *cpu)
{
	struct vm_packet *packet = &cpu->packet;
	uint32_t data = low_address(packet->data), end = low_address(packet->tail), meta = low_address(packet->meta);
	/* socket filters have no packet pointers (ctx.def), only LD_ABS and helpers */
	uint64_t from = (uint64_t)(uintptr_t)packet->meta;

	vm_region_span(&cpu->region[VM_REGION_PACKET], from, (uint64_t)(uintptr_t)packet->tail - from, 1, 1);
	if (cpu->hook == VM_HOOK_XDP) {
		cpu->xdp.data = data;
		cpu->xdp.data_end = end;
		cpu->xdp.data_meta = meta;
		return;
	}
	cpu->skb.data = data;
	cpu->skb.data_end = end;
	cpu->skb.data_meta = meta;
	cpu->skb.len = end - data;
}

static void place_packet(struct vm_cpu *cpu, const uint8_t *bytes, uint32_t len)
{
	struct vm_packet *packet = &cpu->packet;
	uint8_t *arena = packet->arena, *data = arena + FRONT_ROOM;
	uint32_t frame = VM_HEADROOM + len > XDP_FRAME_BYTES ? VM_HEADROOM + len : XDP_FRAME_BYTES;

	memmove(data, bytes, len);   /* from hook to hook, the bytes lie in this arena already */
	memset(packet, 0, sizeof(*packet));
	packet->arena = arena;
	packet->meta = data;
	packet->data = data;
	packet->tail = data + len;
	packet->hard_start = arena;
	packet->hard_end = arena + VM_PACKET_ARENA;
	if (cpu->hook == VM_HOOK_XDP) {
		packet->hard_start = data - VM_HEADROOM;
		packet->frame_bytes = frame;
		packet->hard_end = packet->hard_start + frame;
	}
}

/*
 * Linux v6.12 include/linux/etherdevice.h, eth_skb_pkt_type(), on the loopback device of a test run: its own and its broadcast address are all zeroes, so
 * ff:ff:ff:ff:ff:ff is a multicast address like any other.
 */
static uint32_t packet_type(const uint8_t *mac)
{
	static const uint8_t ours[6];

	if (mac[0] & 1)
		return PACKET_MULTICAST;
	return memcmp(mac, ours, 6) ? PACKET_OTHERHOST : PACKET_HOST;
}

/* Network byte order in memory, as skb->protocol. */
static uint32_t packet_protocol(const uint8_t *frame, uint32_t len)
{
	uint32_t type = (uint32_t)frame[12] << 8 | frame[13];
	int raw_ipx = len >= MAC_BYTES + 2 && frame[14] == 0xff && frame[15] == 0xff;

	if (type < ETH_P_802_3_MIN)
		type = raw_ipx ? ETH_P_802_3 : ETH_P_802_2;
	return __builtin_bswap16((uint16_t)type);
}

static void fill_skb(struct vm_cpu *cpu, uint32_t len, uint32_t is_l2)
{
	struct vm_packet *packet = &cpu->packet;
	struct __sk_buff *skb = &cpu->skb;

	memset(skb, 0, sizeof(*skb));
	packet->mac_len = len < MAC_BYTES ? len : MAC_BYTES;
	packet->is_l2 = is_l2;
	if (len >= MAC_BYTES) {
		skb->pkt_type = packet_type(packet->data);
		skb->protocol = packet_protocol(packet->data, len);
	}
	if (!is_l2) {
		packet->data += packet->mac_len;
		packet->meta = packet->data;
	}
	skb->ifindex = LOOPBACK_IFINDEX;
	skb->wire_len = (uint32_t)(packet->tail - packet->data);
}

int vm_packet_load(struct vm_cpu *cpu, uint32_t hook, const uint8_t *bytes, uint32_t len, uint32_t is_l2)
{
	if (len > VM_PACKET_MAX)
		return -E2BIG;
	if (!vm_ctx_bytes(hook))
		return -EINVAL;
	cpu->hook = hook;
	place_packet(cpu, bytes, len);
	if (hook == VM_HOOK_XDP) {
		memset(&cpu->xdp, 0, sizeof(cpu->xdp));
		cpu->xdp.ingress_ifindex = LOOPBACK_IFINDEX;
	} else {
		fill_skb(cpu, len, is_l2);
	}
	vm_packet_sync(cpu);
	return 0;
}
