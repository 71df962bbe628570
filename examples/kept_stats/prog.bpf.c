// SPDX-License-Identifier: Apache-2.0
/* Statistics that outlive their loader.
 *
 * `totals` asks to be pinned by its name (libbpf's LIBBPF_PIN_BY_NAME): the first load makes the pin, every later one goes on with the map it finds there, whatever became
 * of the processes in between. `this_run` is an ordinary map beside it. */
#include "../include/shmbpf_bpf.h"

#define LIBBPF_PIN_BY_NAME 1

struct total {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct total);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct total);
} this_run SEC(".maps");

static __always_inline void add(struct total *total, __u32 bytes)
{
	if (!total)
		return;
	total->packets++;
	total->bytes += bytes;
}

SEC("xdp")
int kept_stats(struct xdp_md *ctx)
{
	__u32 zero = 0, bytes = ctx->data_end - ctx->data;

	add(bpf_map_lookup_elem(&totals, &zero), bytes);
	add(bpf_map_lookup_elem(&this_run, &zero), bytes);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
