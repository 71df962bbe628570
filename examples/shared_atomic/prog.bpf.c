// SPDX-License-Identifier: Apache-2.0
/* The same packet counter three times, to see what concurrency does to it:
 *
 *   atomic   one shared value, an atomic add       exact
 *   plain    one shared value, read - add - write  loses updates when CPUs meet
 *   percpu   one value per CPU, a plain ++         exact in the sum, because nobody else writes there */
#include "../include/shmbpf_bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} atomic SEC(".maps"), plain SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} percpu SEC(".maps");

SEC("xdp")
int shared_atomic(struct xdp_md *ctx)
{
	__u32 zero = 0;
	volatile __u64 *unsafe = bpf_map_lookup_elem(&plain, &zero);
	__u64 *safe = bpf_map_lookup_elem(&atomic, &zero);
	__u64 *own, seen;

	if (!unsafe || !safe)
		return XDP_ABORTED;
	seen = *unsafe;
	__sync_fetch_and_add(safe, 1);
	own = bpf_map_lookup_elem(&percpu, &zero);
	if (own)
		(*own)++;
	/* Whatever others stored since `seen` was read is overwritten here. */
	*unsafe = seen + 1;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
