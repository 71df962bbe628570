// SPDX-License-Identifier: Apache-2.0
/* Packets and bytes of every flow (one direction of a 5-tuple, IPv4 and IPv6).
 *
 * `flows` is a per-CPU hash: all CPUs share the keys, each adds to a value of its own, and a reader sums up. `totals` is the same for the
 * whole capture, and says what is missing in `flows`. */
#include "../include/shmbpf_bpf.h"

struct flow_key {
	__u8 saddr[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 daddr[16];
	__u16 sport; /* host order; 0 without ports */
	__u16 dport;
	__u16 vlan; /* VLAN id; 0 untagged */
	__u8 protocol;
	__u8 version; /* 4 or 6 */
};

struct flow_value {
	__u64 packets;
	__u64 bytes;
	__u32 tcp_flags; /* all that were seen */
	__u32 largest;   /* frame, bytes */
};

struct totals {
	__u64 packets;
	__u64 bytes;
	__u64 flows;   /* created here */
	__u64 not_ip;
	__u64 no_room; /* packets of flows that did not fit */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

/* Where the parser is, and what it has found. */
struct cursor {
	void *at;
	void *end;
};

static __always_inline void copy_v4(__u8 *to, __be32 address)
{
	to[10] = to[11] = 0xff;
	__builtin_memcpy(to + 12, &address, 4);
}

/* 0 and the cursor at the transport header, or -1 for anything but a whole IP header. */
static __always_inline int parse_network(struct cursor *c, struct flow_key *key)
{
	struct ethhdr *eth = c->at;
	struct vlan_hdr *vlan = (void *)(eth + 1);
	__be16 proto;

	if ((void *)(eth + 1) > c->end)
		return -1;
	proto = eth->h_proto;
	c->at = eth + 1;
	if (proto == bpf_htons(ETH_P_8021Q)) {
		if ((void *)(vlan + 1) > c->end)
			return -1;
		key->vlan = bpf_ntohs(vlan->h_vlan_TCI) & 0xfff;
		proto = vlan->h_vlan_encapsulated_proto;
		c->at = vlan + 1;
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = c->at;

		if ((void *)(ip + 1) > c->end || ip->ihl < 5)
			return -1;
		key->version = 4;
		key->protocol = ip->protocol;
		copy_v4(key->saddr, ip->saddr);
		copy_v4(key->daddr, ip->daddr);
		c->at += ip->ihl * 4;
		if (ip->frag_off & bpf_htons(IP_OFFSET))
			c->end = c->at; /* no transport header in a later fragment */
		return 0;
	}
	if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = c->at;

		if ((void *)(ip6 + 1) > c->end)
			return -1;
		key->version = 6;
		key->protocol = ip6->nexthdr;
		__builtin_memcpy(key->saddr, &ip6->saddr, 16);
		__builtin_memcpy(key->daddr, &ip6->daddr, 16);
		c->at = ip6 + 1;
		return 0;
	}
	return -1;
}

/* Ports into the key; returns the TCP flags, 0 for other protocols. */
static __always_inline __u32 parse_transport(struct cursor *c, void *data_end, struct flow_key *key)
{
	struct tcphdr *tcp = c->at;
	struct udphdr *udp = c->at;

	if (c->end != data_end)
		return 0;
	if (key->protocol == IPPROTO_TCP && (void *)(tcp + 1) <= data_end) {
		key->sport = bpf_ntohs(tcp->source);
		key->dport = bpf_ntohs(tcp->dest);
		return tcp->flags;
	}
	if (key->protocol == IPPROTO_UDP && (void *)(udp + 1) <= data_end) {
		key->sport = bpf_ntohs(udp->source);
		key->dport = bpf_ntohs(udp->dest);
	}
	return 0;
}

static __always_inline struct flow_value *find_or_add(struct flow_key *key, struct totals *totals)
{
	struct flow_value fresh = {}, *value = bpf_map_lookup_elem(&flows, key);

	if (value)
		return value;
	/* Another CPU may be first: then this fails, and its element serves us as well. */
	if (bpf_map_update_elem(&flows, key, &fresh, BPF_NOEXIST) == 0)
		totals->flows++;
	return bpf_map_lookup_elem(&flows, key);
}

SEC("xdp")
int flow_stats(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct cursor c = { data, data_end };
	struct flow_key key = {};
	struct flow_value *flow;
	__u32 zero = 0, flags, bytes = data_end - data;
	struct totals *sum = bpf_map_lookup_elem(&totals, &zero);

	if (!sum)
		return XDP_PASS;
	sum->packets++;
	sum->bytes += bytes;
	if (parse_network(&c, &key) < 0) {
		sum->not_ip++;
		return XDP_PASS;
	}
	flags = parse_transport(&c, data_end, &key);
	flow = find_or_add(&key, sum);
	if (!flow) {
		sum->no_room++;
		return XDP_PASS;
	}
	flow->packets++;
	flow->bytes += bytes;
	flow->tcp_flags |= flags;
	if (bytes > flow->largest)
		flow->largest = bytes;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
