/* Everything the linker has to join: static and global subprograms, callbacks, several programs in one section, code in two sections. */
#include "bpf_api.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 16);
} flows SEC(".maps");

static struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 3);
} hidden SEC(".maps");

int total;
const volatile int limit = 7;

static __noinline int add(int x)
{
	total += x;
	return total * 4;
}

__noinline int twice(int x)
{
	return add(x) + add(x + 1);
}

static int visit(__u32 index, void *context)
{
	*(int *)context += index + twice(index);
	return 0;
}

static long each(void *map, __u32 *key, __u64 *value, void *context)
{
	*(int *)context += *value;
	return 0;
}

SEC("xdp")
int first(struct xdp_md *ctx)
{
	__u32 key = 1;
	int sum = 0;

	bpf_map_lookup_elem(&flows, &key);
	bpf_map_lookup_elem(&hidden, &key);
	bpf_loop(3, visit, &sum, 0);
	bpf_for_each_map_elem(&flows, each, &sum, 0);
	return twice(sum) + add(7) > limit ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
static __noinline int local(int x)
{
	return x * total;
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	return local(ctx->ingress_ifindex) ? XDP_PASS : XDP_DROP;
}

SEC("?tc/egress")
int third(struct __sk_buff *skb)
{
	return twice(skb->len) & 1 ? TC_ACT_SHOT : TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
