// SPDX-License-Identifier: Apache-2.0
/* One packet in `every`, with its first bytes, to whoever listens.
 *
 * A record is struct sample followed by packet bytes: the helper appends them itself, as many as the upper half of its flags says, from wherever the packet
 * lies. Each CPU writes the ring in the slot of its own number; a slot without a ring costs a failed call and no more. */
#include "../include/shmbpf_bpf.h"

enum { SNAP_BYTES = 96 };

struct sample {
	__u32 len;      /* of the packet on the wire */
	__u32 captured; /* packet bytes that follow */
	__u64 number;   /* of this sample on its CPU: a gap means lost samples */
};

/* Keeps the type in the object's BTF, for `shmbpf events --type sample`: compilers drop what only local variables have. */
const struct sample *unused_sample __attribute__((unused));

struct settings {
	__u32 every; /* 1 = all packets */
	__u32 reserved;
};

struct count {
	__u64 seen;
	__u64 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} samples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

SEC("tc")
int sampler(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *settings_now = bpf_map_lookup_elem(&settings, &zero);
	struct count *count = bpf_map_lookup_elem(&counts, &zero);
	struct sample sample = { skb->len };

	if (!settings_now || !count)
		return TC_ACT_OK;
	if (settings_now->every > 1 && count->seen++ % settings_now->every)
		return TC_ACT_OK;
	sample.captured = skb->len < SNAP_BYTES ? skb->len : SNAP_BYTES;
	sample.number = count->sent++;
	bpf_perf_event_output(skb, &samples, BPF_F_CURRENT_CPU | (__u64)sample.captured << BPF_F_CTXLEN_SHIFT, &sample, sizeof(sample));
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
