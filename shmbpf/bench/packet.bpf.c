// SPDX-License-Identifier: Apache-2.0
/* The smallest program, and a small one with a map: what is left of a packet's time is the path's. packet.o is made by
 *
 *   clang-19 -O2 -g -fdebug-compilation-dir=. -target bpf -mcpu=v3 -c packet.bpf.c -o packet.o */
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum { XDP_DROP = 1, XDP_PASS = 2 };

struct xdp_md;

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;

struct {
	__uint(type, 6); /* PERCPU_ARRAY */
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

SEC("xdp") int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp") int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp") int count(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *seen = bpf_map_lookup_elem(&packets, &key);

	if (seen)
		++*seen;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
