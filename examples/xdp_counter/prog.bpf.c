// SPDX-License-Identifier: Apache-2.0
/* Count packets by protocol, drop UDP to one port.
 *
 *   counters     shared by all CPUs: atomic adds, so the sums are exact
 *   cpu_packets  one slot per CPU: nothing shared, so plain adds are enough
 *   config       element 0 is the UDP port to drop, in host order; 0 drops nothing. Written from outside while the program runs. */
#include "../include/shmbpf_bpf.h"

enum protocol { PROTO_OTHER, PROTO_ARP, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, PROTO_DROPPED, PROTO_MAX };

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROTO_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counter);
} cpu_packets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} config SEC(".maps");

static __always_inline void count(__u32 protocol, __u64 bytes)
{
	__u32 zero = 0;
	struct counter *shared = bpf_map_lookup_elem(&counters, &protocol);
	struct counter *own = bpf_map_lookup_elem(&cpu_packets, &zero);

	if (shared) {
		__sync_fetch_and_add(&shared->packets, 1);
		__sync_fetch_and_add(&shared->bytes, bytes);
	}
	if (own) {
		own->packets++;
		own->bytes += bytes;
	}
}

static __always_inline __u32 classify_l4(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_ICMP:
		return PROTO_ICMP;
	case IPPROTO_ICMPV6:
		return PROTO_ICMPV6;
	case IPPROTO_TCP:
		return PROTO_TCP;
	case IPPROTO_UDP:
		return PROTO_UDP;
	default:
		return PROTO_OTHER;
	}
}

static __always_inline int is_blocked(struct udphdr *udp, void *data_end)
{
	__u32 zero = 0;
	__u32 *port = bpf_map_lookup_elem(&config, &zero);

	return port && *port && (void *)(udp + 1) <= data_end && bpf_ntohs(udp->dest) == *port;
}

/* The class of the packet whose network header is at `at`. */
static __always_inline __u32 classify(void *at, void *data_end, __be16 proto)
{
	struct iphdr *ip = at;
	struct ipv6hdr *ip6 = at;
	struct udphdr *udp;
	__u32 class;

	if (proto == bpf_htons(ETH_P_ARP))
		return PROTO_ARP;
	if (proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= data_end) {
		class = classify_l4(ip->protocol);
		udp = at + ip->ihl * 4;
		if (ip->frag_off & bpf_htons(IP_OFFSET))
			return class; /* a later fragment has no ports */
	} else if (proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= data_end) {
		class = classify_l4(ip6->nexthdr);
		udp = (void *)(ip6 + 1);
	} else {
		return PROTO_OTHER;
	}
	return class == PROTO_UDP && is_blocked(udp, data_end) ? PROTO_DROPPED : class;
}

SEC("xdp")
int xdp_counter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	void *at = eth + 1;
	__u32 class = PROTO_OTHER;

	if (at <= data_end) {
		__be16 proto = eth->h_proto;
		struct vlan_hdr *vlan = at;

		if (proto == bpf_htons(ETH_P_8021Q) && (void *)(vlan + 1) <= data_end) {
			proto = vlan->h_vlan_encapsulated_proto;
			at = vlan + 1;
		}
		class = classify(at, data_end, proto);
	}
	count(class, data_end - data);
	return class == PROTO_DROPPED ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
