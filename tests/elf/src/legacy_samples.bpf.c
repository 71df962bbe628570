/* An object as the kernel's samples were written for bpf_load.c. */
#include "bpf_api.h"

struct bpf_map_def {
	unsigned int type, key_size, value_size, max_entries, map_flags, inner_map_idx, numa_node;
};

struct bpf_map_def SEC("maps") a_inner = { .type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 8, .max_entries = 2 };
struct bpf_map_def SEC("maps") b_outer = {
	.type = BPF_MAP_TYPE_HASH_OF_MAPS, .key_size = 4, .value_size = 4, .max_entries = 3, .inner_map_idx = 0,
};
struct bpf_map_def SEC("maps") c_near = {
	.type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 9, .map_flags = BPF_F_NUMA_NODE, .numa_node = 1,
};

SEC("xdp1")
int xdp_prog1(struct xdp_md *ctx)
{
	__u32 key = 0;

	bpf_map_lookup_elem(&a_inner, &key);
	bpf_map_lookup_elem(&b_outer, &key);
	bpf_map_lookup_elem(&c_near, &key);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
int _version SEC("version") = 0x40a00;
