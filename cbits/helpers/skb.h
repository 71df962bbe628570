/*
 * skb.h - the packet of an skb hook, for the helpers that change it.
 *
 * What Linux keeps in struct sk_buff is here relative to packet.data, where the MAC header is (for is_l2): mac_len is the network header's place,
 * transport_off the transport header's. Linux keeps header places absolute, so moving data moves the ones that a helper does not mention: skb_push() and
 * skb_pull() do that, and a helper sets again what is to stay.
 */
#ifndef SHMBPF_SKB_H
#define SHMBPF_SKB_H

#include <string.h>

#include "helpers.h"

enum {
	ETH_HLEN = 14,
	VLAN_HLEN = 4,
	IPV4_HLEN = 20,
	IPV6_HLEN = 40,
	/* BPF_SKB_MAX_LEN = SKB_MAX_ALLOC: four pages without struct skb_shared_info (Linux v6.12 include/linux/skbuff.h) */
	SKB_LEN_MAX = 16064,
};

/* Ethernet types as skb->protocol has them: network byte order in memory. */
enum protocol_be16 {
	BE_ETH_P_802_3 = 0x0100,
	BE_ETH_P_802_2 = 0x0400,
	BE_ETH_P_IP = 0x0008,
	BE_ETH_P_IPV6 = 0xdd86,
	BE_ETH_P_8021Q = 0x0081,
	BE_ETH_P_8021AD = 0xa888,
};

static inline uint32_t skb_len(const struct vm_packet *packet)
{
	return (uint32_t)(packet->tail - packet->data);
}

static inline void skb_reset_csum_unnecessary(struct vm_packet *packet)
{
	packet->csum_unnecessary = 0;
	packet->csum_level = 0;
}

static inline void skb_clear_hash(struct vm_cpu *cpu)
{
	cpu->packet.hash_set = 0;
	cpu->skb.hash = 0;
}

/* Moves data `bytes` to the front; the new bytes are uninitialised. -ENOMEM when the arena has no room. */
int skb_push(struct vm_packet *packet, uint32_t bytes);
/* Drops `bytes` at the front. -ENOMEM when the packet is shorter, as pskb_may_pull()'s callers give it. */
int skb_pull(struct vm_packet *packet, uint32_t bytes);
/* Moves the end to `length` bytes; bytes that come to the packet are zero. -ENOMEM when the arena has no room. */
int skb_set_length(struct vm_packet *packet, uint32_t length);

#endif
