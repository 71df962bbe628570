// SPDX-License-Identifier: Apache-2.0
/* A tc classifier made of small programs joined by tail calls.
 *
 *   classify --+-- arp
 *              +-- ipv4 --+-- tcp    drops telnet
 *              |          +-- udp    drops the discard service
 *              +-- ipv6 --+-- icmp   drops echo requests above ECHO_LIMIT
 *
 * The object itself fills `jump`. Programs share nothing but the packet: skb->cb[] carries the offset of the next header and the protocol
 * from one to the next, skb->mark the class to whoever comes behind tc. */
#include "../include/shmbpf_bpf.h"

enum slot { SLOT_ARP, SLOT_IPV4, SLOT_IPV6, SLOT_TCP, SLOT_UDP, SLOT_ICMP, SLOT_MAX };
enum { CB_OFFSET, CB_PROTOCOL, CB_VLAN };

#define ECHO_LIMIT 1400
#define PORT_TELNET 23
#define PORT_DISCARD 9

struct class_key {
	__u16 ethertype; /* host order */
	__u8 protocol;
	__u8 dropped;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct class_key);
	__type(value, __u64);
} classes SEC(".maps");

int handle_arp(struct __sk_buff *skb);
int handle_ipv4(struct __sk_buff *skb);
int handle_ipv6(struct __sk_buff *skb);
int handle_tcp(struct __sk_buff *skb);
int handle_udp(struct __sk_buff *skb);
int handle_icmp(struct __sk_buff *skb);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, SLOT_MAX);
	__type(key, __u32);
	__array(values, int(struct __sk_buff *));
} jump SEC(".maps") = {
	.values = {
		[SLOT_ARP] = &handle_arp,
		[SLOT_IPV4] = &handle_ipv4,
		[SLOT_IPV6] = &handle_ipv6,
		[SLOT_TCP] = &handle_tcp,
		[SLOT_UDP] = &handle_udp,
		[SLOT_ICMP] = &handle_icmp,
	},
};

/* Count the packet in its class and give the verdict back. */
static __always_inline int finish(struct __sk_buff *skb, int verdict)
{
	struct class_key key = { skb->mark, skb->cb[CB_PROTOCOL], verdict == TC_ACT_SHOT };
	__u64 *value = bpf_map_lookup_elem(&classes, &key), one = 1;

	if (!value) {
		/* Another CPU may be first; then there is a value to add to. */
		if (bpf_map_update_elem(&classes, &key, &one, BPF_NOEXIST) == 0)
			return verdict;
		value = bpf_map_lookup_elem(&classes, &key);
	}
	if (value)
		__sync_fetch_and_add(value, 1);
	return verdict;
}

/* Go on in the program for `protocol`, its header at `offset`; a protocol without one ends here. */
static __always_inline int next_protocol(struct __sk_buff *skb, __u8 protocol, __u32 offset)
{
	skb->cb[CB_OFFSET] = offset;
	skb->cb[CB_PROTOCOL] = protocol;
	if (protocol == IPPROTO_TCP)
		bpf_tail_call(skb, &jump, SLOT_TCP);
	else if (protocol == IPPROTO_UDP)
		bpf_tail_call(skb, &jump, SLOT_UDP);
	else if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		bpf_tail_call(skb, &jump, SLOT_ICMP);
	return finish(skb, TC_ACT_OK);
}

SEC("tc")
int classify(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct vlan_hdr *vlan = (void *)(eth + 1);
	__u32 offset = sizeof(*eth);
	__be16 proto;

	if ((void *)(eth + 1) > data_end)
		return TC_ACT_SHOT;
	proto = eth->h_proto;
	skb->cb[CB_VLAN] = 0;
	if (proto == bpf_htons(ETH_P_8021Q) && (void *)(vlan + 1) <= data_end) {
		skb->cb[CB_VLAN] = bpf_ntohs(vlan->h_vlan_TCI) & 0xfff;
		proto = vlan->h_vlan_encapsulated_proto;
		offset += sizeof(*vlan);
	}
	skb->mark = bpf_ntohs(proto);
	skb->cb[CB_OFFSET] = offset;
	skb->cb[CB_PROTOCOL] = 0;
	if (proto == bpf_htons(ETH_P_ARP))
		bpf_tail_call(skb, &jump, SLOT_ARP);
	else if (proto == bpf_htons(ETH_P_IP))
		bpf_tail_call(skb, &jump, SLOT_IPV4);
	else if (proto == bpf_htons(ETH_P_IPV6))
		bpf_tail_call(skb, &jump, SLOT_IPV6);
	return finish(skb, TC_ACT_OK);
}

SEC("tc")
int handle_arp(struct __sk_buff *skb)
{
	return finish(skb, TC_ACT_OK);
}

SEC("tc")
int handle_ipv4(struct __sk_buff *skb)
{
	__u32 offset = skb->cb[CB_OFFSET];
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) < 0 || ip.ihl < 5)
		return finish(skb, TC_ACT_SHOT);
	if (ip.frag_off & bpf_htons(IP_OFFSET)) {
		skb->cb[CB_PROTOCOL] = ip.protocol;
		return finish(skb, TC_ACT_OK); /* a later fragment has no transport header */
	}
	return next_protocol(skb, ip.protocol, offset + ip.ihl * 4);
}

SEC("tc")
int handle_ipv6(struct __sk_buff *skb)
{
	__u32 offset = skb->cb[CB_OFFSET];
	struct ipv6hdr ip6;

	if (bpf_skb_load_bytes(skb, offset, &ip6, sizeof(ip6)) < 0)
		return finish(skb, TC_ACT_SHOT);
	return next_protocol(skb, ip6.nexthdr, offset + sizeof(ip6));
}

/* Destination port of TCP and UDP alike, -1 when the header is cut off. */
static __always_inline int destination_port(struct __sk_buff *skb)
{
	__be16 port;

	if (bpf_skb_load_bytes(skb, skb->cb[CB_OFFSET] + 2, &port, sizeof(port)) < 0)
		return -1;
	return bpf_ntohs(port);
}

SEC("tc")
int handle_tcp(struct __sk_buff *skb)
{
	int port = destination_port(skb);

	return finish(skb, port < 0 || port == PORT_TELNET ? TC_ACT_SHOT : TC_ACT_OK);
}

SEC("tc")
int handle_udp(struct __sk_buff *skb)
{
	int port = destination_port(skb);

	return finish(skb, port < 0 || port == PORT_DISCARD ? TC_ACT_SHOT : TC_ACT_OK);
}

SEC("tc")
int handle_icmp(struct __sk_buff *skb)
{
	__u8 type;

	if (bpf_skb_load_bytes(skb, skb->cb[CB_OFFSET], &type, sizeof(type)) < 0)
		return finish(skb, TC_ACT_SHOT);
	return finish(skb, (type == 8 || type == 128) && skb->len > ECHO_LIMIT ? TC_ACT_SHOT : TC_ACT_OK);
}

char _license[] SEC("license") = "GPL";
