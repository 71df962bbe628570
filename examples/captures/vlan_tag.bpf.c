// SPDX-License-Identifier: Apache-2.0
/* What a VLAN port of a switch does, as two tc programs: frames leave with 802.1Q tag 5 and lose it on arrival.
 * record.sh puts them on a host's own interface, so its traffic is tagged on the wire even where the kernel has no VLAN devices. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

static long (*bpf_skb_vlan_push)(struct __sk_buff *skb, __be16 proto, __u16 tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*bpf_skb_vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;

SEC("egress")
int tag(struct __sk_buff *skb)
{
	bpf_skb_vlan_push(skb, __builtin_bswap16(ETH_P_8021Q), 5);
	return TC_ACT_OK;
}

SEC("ingress")
int untag(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		bpf_skb_vlan_pop(skb);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
