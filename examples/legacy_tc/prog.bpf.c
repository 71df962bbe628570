// SPDX-License-Identifier: Apache-2.0
/* A tc object as iproute2 has always loaded them: maps as `struct bpf_elf_map` in the section "maps", no BTF, and tail-call targets in sections
 * named <map id>/<slot>, which the loader stores into the program array with that id.
 *
 *   classifier --+-- jump[0] (section 1/0): TCP and UDP, by destination port below or above 1024
 *                `-- jump[1] (section 1/1): everything else */
#include "../include/shmbpf_bpf.h"

#define PIN_NONE 0
#define PIN_GLOBAL_NS 2

/* iproute2, include/bpf_elf.h */
struct bpf_elf_map {
	__u32 type;
	__u32 size_key;
	__u32 size_value;
	__u32 max_elem;
	__u32 flags;
	__u32 id;
	__u32 pinning;
	__u32 inner_id;
	__u32 inner_idx;
};

enum { JUMP_ID = 1, COUNTS_ID = 2 };
enum { TO_PORTS, TO_OTHER };
enum count { SEEN, LOW_PORT, HIGH_PORT, OTHER, FELL_THROUGH, COUNT_MAX };

struct bpf_elf_map SEC("maps") jump = {
	.type = BPF_MAP_TYPE_PROG_ARRAY,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u32),
	.max_elem = 2,
	.id = JUMP_ID,
	.pinning = PIN_NONE,
};

struct bpf_elf_map SEC("maps") counts = {
	.type = BPF_MAP_TYPE_ARRAY,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u64),
	.max_elem = COUNT_MAX,
	.id = COUNTS_ID,
	.pinning = PIN_GLOBAL_NS,
};

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &which);

	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("classifier")
int classify(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__u32 slot = TO_OTHER;

	count(SEEN);
	if ((void *)(ip + 1) <= data_end && eth->h_proto == bpf_htons(ETH_P_IP) && ip->ihl == 5 &&
	    !(ip->frag_off & bpf_htons(IP_OFFSET)) && (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP))
		slot = TO_PORTS;
	skb->mark = 0x100 + slot;
	bpf_tail_call(skb, &jump, slot);
	count(FELL_THROUGH);
	return TC_ACT_UNSPEC;
}

SEC("1/0")
int by_port(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct udphdr *ports = data + sizeof(struct ethhdr) + sizeof(struct iphdr); /* TCP has its ports in the same place */

	if ((void *)(ports + 1) > data_end)
		return TC_ACT_SHOT;
	count(bpf_ntohs(ports->dest) < 1024 ? LOW_PORT : HIGH_PORT);
	return TC_ACT_OK;
}

SEC("1/1")
int others(struct __sk_buff *skb)
{
	count(OTHER);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
