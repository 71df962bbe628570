// SPDX-License-Identifier: Apache-2.0
/* A record for each TCP connection that is opened, refused or closed, through one ring buffer that all CPUs share.
 *
 * A record is reserved in the ring itself, filled there and submitted; when the ring is full the packet goes on and `dropped` counts. */
#include "../include/shmbpf_bpf.h"

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };
enum what { OPENED, ACCEPTED, CLOSED, RESET };

struct connection {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__be32 saddr;
	__be32 daddr;
	__u16 sport; /* host order */
	__u16 dport;
	__u32 what; /* enum what */
};

/* Keeps the type in the object's BTF, for `shmbpf events --type connection`: compilers drop what only local variables have. */
const struct connection *unused_connection __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

static __always_inline int what_of(__u8 flags)
{
	if (flags & TCP_RST)
		return RESET;
	if (flags & TCP_SYN)
		return flags & TCP_ACK ? ACCEPTED : OPENED;
	return flags & TCP_FIN ? CLOSED : -1;
}

static __always_inline void count_dropped(void)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&dropped, &zero);

	if (value)
		(*value)++;
}

SEC("xdp")
int event_log(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	struct connection *record;
	int what;

	if ((void *)(tcp + 1) > data_end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	what = what_of(tcp->flags);
	if (what < 0)
		return XDP_PASS;
	record = bpf_ringbuf_reserve(&connections, sizeof(*record), 0);
	if (!record) {
		count_dropped();
		return XDP_PASS;
	}
	record->time_ns = bpf_ktime_get_ns();
	record->saddr = ip->saddr;
	record->daddr = ip->daddr;
	record->sport = bpf_ntohs(tcp->source);
	record->dport = bpf_ntohs(tcp->dest);
	record->what = what;
	bpf_ringbuf_submit(record, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
