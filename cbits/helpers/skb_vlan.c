/*
 * skb_vlan.c - VLAN tags. The outermost tag is not in the packet's bytes but beside them (vlan_tci, vlan_proto), as a network card's offload leaves it; a
 * second push puts the first tag into the bytes, a pop brings the next one out.
 *
 * Linux v6.12 net/core/skbuff.c, skb_vlan_push() and skb_vlan_pop(); include/linux/if_vlan.h, vlan_set_encap_proto().
 */
#include "csum.h"
#include "skb.h"

enum { MAC_ADDRESSES = 12, VLAN_ETH_HLEN = ETH_HLEN + VLAN_HLEN, ETH_P_802_3_MIN = 0x600 };

static int is_vlan(uint32_t protocol)
{
	return protocol == BE_ETH_P_8021Q || protocol == BE_ETH_P_8021AD;
}

static uint16_t load16(const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, 2);
	return value;
}

/* A tag of zeros counts as none, for Linux too (skb->vlan_all). */
static void set_tag(struct __sk_buff *skb, uint32_t proto, uint32_t tci)
{
	skb->vlan_proto = proto;
	skb->vlan_tci = tci;
	skb->vlan_present = proto || tci;
}

/* Puts the tag beside the packet into its bytes, between the addresses and the type. */
static int insert_tag(struct vm_cpu *cpu)
{
	struct vm_packet *packet = &cpu->packet;
	uint16_t proto = (uint16_t)cpu->skb.vlan_proto, tci = __builtin_bswap16((uint16_t)cpu->skb.vlan_tci);
	int error;

	/* no Linux device delivers less than a MAC header, but a capture can */
	if (skb_len(packet) < ETH_HLEN)
		return -EINVAL;
	error = skb_push(packet, VLAN_HLEN);
	if (error)
		return error;
	packet->mac_len -= VLAN_HLEN;
	memmove(packet->data, packet->data + VLAN_HLEN, MAC_ADDRESSES);
	memcpy(packet->data + MAC_ADDRESSES, &proto, 2);
	memcpy(packet->data + MAC_ADDRESSES + 2, &tci, 2);
	packet_csum_push(packet, packet->data + MAC_ADDRESSES, VLAN_HLEN, 0);
	cpu->skb.protocol = proto;
	return 0;
}

/* Protocol behind a tag: an Ethernet type, or one of the two ways a length field is read, for which Linux looks behind the packet if it must. */
static uint32_t protocol_behind(const uint8_t *type, const uint8_t *hard_end)
{
	if (__builtin_bswap16(load16(type)) >= ETH_P_802_3_MIN)
		return load16(type);
	return hard_end - type >= 4 && load16(type + 2) == 0xffff ? BE_ETH_P_802_3 : BE_ETH_P_802_2;
}

/* Takes the tag out of the bytes. */
static int remove_tag(struct vm_cpu *cpu, uint32_t *tci)
{
	struct vm_packet *packet = &cpu->packet;
	uint32_t mac_len = packet->mac_len;

	if (skb_len(packet) < VLAN_ETH_HLEN)
		return -ENOMEM;
	packet_csum_pull(packet, packet->data + MAC_ADDRESSES, VLAN_HLEN, 0);
	*tci = __builtin_bswap16(load16(packet->data + ETH_HLEN));
	cpu->skb.protocol = protocol_behind(packet->data + ETH_HLEN + 2, packet->hard_end);
	memmove(packet->data + VLAN_HLEN, packet->data, MAC_ADDRESSES);
	skb_pull(packet, VLAN_HLEN);
	/* the network header never lies inside the Ethernet header */
	packet->mac_len = mac_len - VLAN_HLEN < ETH_HLEN ? ETH_HLEN : mac_len - VLAN_HLEN;
	return 0;
}

static int vlan_push(struct vm_cpu *cpu, uint16_t proto, uint16_t tci)
{
	int error = cpu->skb.vlan_present ? insert_tag(cpu) : 0;

	if (!error)
		set_tag(&cpu->skb, is_vlan(proto) ? proto : BE_ETH_P_8021Q, tci);
	return error;
}

static int vlan_pop(struct vm_cpu *cpu)
{
	uint32_t tci, proto;
	int error;

	if (cpu->skb.vlan_present) {
		set_tag(&cpu->skb, 0, 0);
	} else {
		error = is_vlan(cpu->skb.protocol) ? remove_tag(cpu, &tci) : 0;
		if (error)
			return error;
	}
	proto = cpu->skb.protocol;
	if (!is_vlan(proto))
		return 0;
	error = remove_tag(cpu, &tci);
	if (!error)
		set_tag(&cpu->skb, proto, tci);
	return error;
}

uint64_t bpf_skb_vlan_push(struct vm_cpu *cpu, uint64_t skb, uint64_t vlan_proto, uint64_t vlan_tci, uint64_t r4, uint64_t r5)
{
	int error = vlan_push(cpu, (uint16_t)vlan_proto, (uint16_t)vlan_tci);

	vm_packet_sync(cpu);
	return result(error);
}

uint64_t bpf_skb_vlan_pop(struct vm_cpu *cpu, uint64_t skb, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	int error = vlan_pop(cpu);

	vm_packet_sync(cpu);
	return result(error);
}
