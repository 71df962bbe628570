/* An object of the tc of 2017: struct bpf_elf_map, a tail call by section name, a map in a map by id. */
#include "bpf_api.h"

struct bpf_elf_map {
	__u32 type, size_key, size_value, max_elem, flags, id, pinning, inner_id, inner_idx;
};

struct bpf_elf_map SEC("maps") counts = {
	.type = BPF_MAP_TYPE_ARRAY, .size_key = 4, .size_value = 8, .max_elem = 10, .pinning = 2,
};
struct bpf_elf_map SEC("maps") jumps = {
	.type = BPF_MAP_TYPE_PROG_ARRAY, .size_key = 4, .size_value = 4, .max_elem = 10, .id = 0xabc,
};
struct bpf_elf_map SEC("maps") inner = {
	.type = BPF_MAP_TYPE_ARRAY, .size_key = 4, .size_value = 4, .max_elem = 1, .id = 9, .inner_idx = 3,
};
struct bpf_elf_map SEC("maps") outer = {
	.type = BPF_MAP_TYPE_ARRAY_OF_MAPS, .size_key = 4, .size_value = 4, .max_elem = 5, .inner_id = 9,
};

struct ____btf_map_counts {
	__u32 key;
	__u64 value;
};
struct ____btf_map_counts SEC(".maps.counts") ____btf_map_counts = {};

SEC("0xabc/1")
int one(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("2748/07")
int seven(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

SEC("classifier")
int main_entry(struct __sk_buff *skb)
{
	__u32 key = 1;
	__u64 *count = bpf_map_lookup_elem(&counts, &key);

	if (count)
		__sync_fetch_and_add(count, 1);
	bpf_map_lookup_elem(&outer, &key);
	bpf_tail_call(skb, &jumps, 1);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
