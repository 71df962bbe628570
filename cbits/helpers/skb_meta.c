/*
 * skb_meta.c - what is known about the packet beside its bytes: type and flow hash.
 *
 * Linux v6.12 net/core/filter.c, bpf_get_hash_recalc() and neighbours. Linux hashes flows with a random key of each boot, so no program can expect a value:
 * only that a flow keeps its hash, that both directions share it (net/core/flow_dissector.c, __flow_hash_consistentify()) and that it is not 0.
 */
#include "skb.h"

enum { PACKET_OTHERHOST = 3, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_DCCP = 33, PROTO_SCTP = 132 };

uint64_t bpf_skb_change_type(struct vm_cpu *cpu, uint64_t skb, uint64_t pkt_type, uint64_t r3, uint64_t r4, uint64_t r5)
{
	if (cpu->skb.pkt_type > PACKET_OTHERHOST || (uint32_t)pkt_type > PACKET_OTHERHOST)
		return result(-EINVAL);
	cpu->skb.pkt_type = (uint32_t)pkt_type;
	return 0;
}

static uint64_t mix(uint64_t sum, uint64_t word)
{
	sum = (sum ^ word) * 0xff51afd7ed558ccdu;
	return sum ^ (sum >> 32);
}

/* Hash of `bytes` bytes, in 8-byte steps. */
static uint64_t mix_bytes(const uint8_t *data, uint32_t bytes)
{
	uint64_t sum = bytes, word;

	for (; bytes >= 8; data += 8, bytes -= 8) {
		memcpy(&word, data, 8);
		sum = mix(sum, word);
	}
	word = 0;
	memcpy(&word, data, bytes);
	return mix(sum, word);
}

static int has_ports(uint8_t protocol)
{
	return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_DCCP || protocol == PROTO_SCTP;
}

/* Addresses, ports and protocol; adding the two ends' hashes makes the order of the ends not matter. */
static uint64_t flow_hash(const uint8_t *ends, uint32_t addr_bytes, uint8_t protocol, const uint8_t *ports)
{
	uint16_t port[2] = { 0, 0 };

	if (ports)
		memcpy(port, ports, 4);
	return mix(mix(mix_bytes(ends, addr_bytes), port[0]) + mix(mix_bytes(ends + addr_bytes, addr_bytes), port[1]), protocol);
}

static uint64_t hash_ipv4(const uint8_t *ip, const uint8_t *tail)
{
	uint32_t header = (ip[0] & 15u) * 4;
	int fragment = (ip[6] & 0x3f) || ip[7];
	const uint8_t *ports = !fragment && has_ports(ip[9]) && tail - ip >= (int64_t)header + 4 ? ip + header : NULL;

	return flow_hash(ip + 12, 4, ip[9], ports);
}

static uint64_t hash_ipv6(const uint8_t *ip, const uint8_t *tail)
{
	const uint8_t *ports = has_ports(ip[6]) && tail - ip >= IPV6_HLEN + 4 ? ip + IPV6_HLEN : NULL;

	return flow_hash(ip + 8, 16, ip[6], ports);
}

static uint32_t packet_hash(const struct vm_cpu *cpu)
{
	const struct vm_packet *packet = &cpu->packet;
	const uint8_t *ip = packet->data + (packet->is_l2 ? packet->mac_len : 0);
	int64_t left = packet->tail - ip;
	uint64_t hash;

	if (cpu->skb.protocol == BE_ETH_P_IP && left >= IPV4_HLEN && ip[0] >> 4 == 4)
		hash = hash_ipv4(ip, packet->tail);
	else if (cpu->skb.protocol == BE_ETH_P_IPV6 && left >= IPV6_HLEN && ip[0] >> 4 == 6)
		hash = hash_ipv6(ip, packet->tail);
	else
		hash = mix(cpu->skb.protocol, 0);
	hash = (uint32_t)(hash >> 16);
	return hash ? (uint32_t)hash : 1;
}

uint64_t bpf_get_hash_recalc(struct vm_cpu *cpu, uint64_t skb, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	if (!cpu->packet.hash_set) {
		cpu->skb.hash = packet_hash(cpu);
		cpu->packet.hash_set = 1;
	}
	return cpu->skb.hash;
}

uint64_t bpf_set_hash_invalid(struct vm_cpu *cpu, uint64_t skb, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	skb_clear_hash(cpu);
	return 0;
}

uint64_t bpf_set_hash(struct vm_cpu *cpu, uint64_t skb, uint64_t hash, uint64_t r3, uint64_t r4, uint64_t r5)
{
	cpu->skb.hash = (uint32_t)hash;
	cpu->packet.hash_set = 1;
	return 0;
}
