/*
 * bpf_api.h - what a BPF C program in these tests needs, in one file, so that no kernel or libbpf headers have to be installed.
 * Names are Linux's and libbpf's, so the programs look like anybody's.
 */
#ifndef BPF_API_H
#define BPF_API_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#define BPF_API_CAT_(a, b) a##b
#define BPF_API_CAT(a, b) BPF_API_CAT_(a, b)
#define __ulong(name, val) enum { BPF_API_CAT(__unique_value, __COUNTER__) = val } name
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define __weak __attribute__((weak))
#define __kconfig __attribute__((section(".kconfig")))
#define __ksym __attribute__((section(".ksyms")))
#define barrier_var(var) asm volatile("" : "+r"(var))
#define bpf_htons(x) ((__be16)__builtin_bswap16((__u16)(x)))
#define bpf_ntohs(x) bpf_htons(x)
#define bpf_htonl(x) ((__be32)__builtin_bswap32((__u32)(x)))
#define bpf_ntohl(x) bpf_htonl(x)
#ifndef NULL
#define NULL ((void *)0)
#endif

enum {
	BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PROG_ARRAY = 3, BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_HASH = 5, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LRU_HASH = 9, BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
	BPF_MAP_TYPE_LPM_TRIE = 11, BPF_MAP_TYPE_ARRAY_OF_MAPS = 12, BPF_MAP_TYPE_HASH_OF_MAPS = 13, BPF_MAP_TYPE_DEVMAP = 14,
	BPF_MAP_TYPE_SOCKMAP = 15, BPF_MAP_TYPE_CPUMAP = 16, BPF_MAP_TYPE_QUEUE = 22, BPF_MAP_TYPE_STACK = 23, BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_BLOOM_FILTER = 30,
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2, BPF_F_LOCK = 4 };
enum { BPF_F_NO_PREALLOC = 1, BPF_F_NUMA_NODE = 4, BPF_F_MMAPABLE = 0x400 };
enum { LIBBPF_PIN_NONE = 0, LIBBPF_PIN_BY_NAME = 1 };
enum xdp_action { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };
enum { TC_ACT_UNSPEC = -1, TC_ACT_OK = 0, TC_ACT_RECLASSIFY = 1, TC_ACT_SHOT = 2, TC_ACT_PIPE = 3, TC_ACT_STOLEN = 4, TC_ACT_REDIRECT = 7 };
enum { BPF_F_CURRENT_CPU = 0xffffffff, BPF_F_INGRESS = 1, BPF_F_PSEUDO_HDR = 0x10, BPF_F_MARK_MANGLED_0 = 0x20, BPF_F_RECOMPUTE_CSUM = 1 };
enum { ETH_P_IP = 0x0800, ETH_P_ARP = 0x0806, ETH_P_8021Q = 0x8100, ETH_P_IPV6 = 0x86dd };
enum { IPPROTO_ICMP = 1, IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_ICMPV6 = 58 };

struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex, tc_index;
	__u32 cb[5];
	__u32 hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len, gso_segs;
	__u64 sk;
	__u32 gso_size;
	__u8 tstamp_type;
	__u32 : 24;
	__u64 hwtstamp;
};

struct bpf_spin_lock {
	__u32 val;
};

struct ethhdr {
	__u8 h_dest[6], h_source[6];
	__be16 h_proto;
} __attribute__((packed));

struct iphdr {
	__u8 ihl : 4, version : 4;
	__u8 tos;
	__be16 tot_len, id, frag_off;
	__u8 ttl, protocol;
	__u16 check;
	__be32 saddr, daddr;
};

struct ipv6hdr {
	__be32 version_class_flow;
	__be16 payload_len;
	__u8 nexthdr, hop_limit;
	__u8 saddr[16], daddr[16];
};

struct tcphdr {
	__be16 source, dest;
	__be32 seq, ack_seq;
	__be16 flags, window;
	__u16 check;
	__be16 urg_ptr;
};

struct udphdr {
	__be16 source, dest, len;
	__u16 check;
};

/* helpers, by Linux's numbers (include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER) */
#define BPF_HELPER(id, ret, name, ...) static ret (*const name)(__VA_ARGS__) __attribute__((unused)) = (void *)id
BPF_HELPER(1, void *, bpf_map_lookup_elem, const void *map, const void *key);
BPF_HELPER(2, long, bpf_map_update_elem, const void *map, const void *key, const void *value, __u64 flags);
BPF_HELPER(3, long, bpf_map_delete_elem, const void *map, const void *key);
BPF_HELPER(5, __u64, bpf_ktime_get_ns, void);
BPF_HELPER(6, long, bpf_trace_printk, const char *fmt, __u32 size, ...);
BPF_HELPER(7, __u32, bpf_get_prandom_u32, void);
BPF_HELPER(8, __u32, bpf_get_smp_processor_id, void);
BPF_HELPER(9, long, bpf_skb_store_bytes, struct __sk_buff *skb, __u32 off, const void *from, __u32 len, __u64 flags);
BPF_HELPER(10, long, bpf_l3_csum_replace, struct __sk_buff *skb, __u32 off, __u64 from, __u64 to, __u64 size);
BPF_HELPER(11, long, bpf_l4_csum_replace, struct __sk_buff *skb, __u32 off, __u64 from, __u64 to, __u64 flags);
BPF_HELPER(12, long, bpf_tail_call, void *ctx, const void *map, __u32 index);
BPF_HELPER(13, long, bpf_clone_redirect, struct __sk_buff *skb, __u32 ifindex, __u64 flags);
BPF_HELPER(18, long, bpf_skb_vlan_push, struct __sk_buff *skb, __be16 proto, __u16 tci);
BPF_HELPER(19, long, bpf_skb_vlan_pop, struct __sk_buff *skb);
BPF_HELPER(23, long, bpf_redirect, __u32 ifindex, __u64 flags);
BPF_HELPER(25, long, bpf_perf_event_output, void *ctx, const void *map, __u64 flags, void *data, __u64 size);
BPF_HELPER(26, long, bpf_skb_load_bytes, const void *skb, __u32 off, void *to, __u32 len);
BPF_HELPER(28, __s64, bpf_csum_diff, const void *from, __u32 from_size, const void *to, __u32 to_size, __u32 seed);
BPF_HELPER(31, long, bpf_skb_change_proto, struct __sk_buff *skb, __be16 proto, __u64 flags);
BPF_HELPER(32, long, bpf_skb_change_type, struct __sk_buff *skb, __u32 type);
BPF_HELPER(34, __u32, bpf_get_hash_recalc, struct __sk_buff *skb);
BPF_HELPER(38, long, bpf_skb_change_tail, struct __sk_buff *skb, __u32 len, __u64 flags);
BPF_HELPER(39, long, bpf_skb_pull_data, struct __sk_buff *skb, __u32 len);
BPF_HELPER(40, __s64, bpf_csum_update, struct __sk_buff *skb, __u32 csum);
BPF_HELPER(42, long, bpf_get_numa_node_id, void);
BPF_HELPER(43, long, bpf_skb_change_head, struct __sk_buff *skb, __u32 len, __u64 flags);
BPF_HELPER(44, long, bpf_xdp_adjust_head, struct xdp_md *ctx, int delta);
BPF_HELPER(50, long, bpf_skb_adjust_room, struct __sk_buff *skb, __s32 delta, __u32 mode, __u64 flags);
BPF_HELPER(51, long, bpf_redirect_map, const void *map, __u64 key, __u64 flags);
BPF_HELPER(54, long, bpf_xdp_adjust_meta, struct xdp_md *ctx, int delta);
BPF_HELPER(65, long, bpf_xdp_adjust_tail, struct xdp_md *ctx, int delta);
BPF_HELPER(68, long, bpf_skb_load_bytes_relative, const void *skb, __u32 off, void *to, __u32 len, __u32 start);
BPF_HELPER(87, long, bpf_map_push_elem, const void *map, const void *value, __u64 flags);
BPF_HELPER(88, long, bpf_map_pop_elem, const void *map, void *value);
BPF_HELPER(89, long, bpf_map_peek_elem, const void *map, void *value);
BPF_HELPER(93, long, bpf_spin_lock, struct bpf_spin_lock *lock);
BPF_HELPER(94, long, bpf_spin_unlock, struct bpf_spin_lock *lock);
BPF_HELPER(105, long, bpf_strtol, const char *buf, unsigned long len, __u64 flags, long *res);
BPF_HELPER(106, long, bpf_strtoul, const char *buf, unsigned long len, __u64 flags, unsigned long *res);
BPF_HELPER(118, __u64, bpf_jiffies64, void);
BPF_HELPER(125, __u64, bpf_ktime_get_boot_ns, void);
BPF_HELPER(130, long, bpf_ringbuf_output, void *ringbuf, void *data, __u64 size, __u64 flags);
BPF_HELPER(131, void *, bpf_ringbuf_reserve, void *ringbuf, __u64 size, __u64 flags);
BPF_HELPER(132, void, bpf_ringbuf_submit, void *data, __u64 flags);
BPF_HELPER(133, void, bpf_ringbuf_discard, void *data, __u64 flags);
BPF_HELPER(135, long, bpf_csum_level, struct __sk_buff *skb, __u64 level);
BPF_HELPER(160, __u64, bpf_ktime_get_coarse_ns, void);
BPF_HELPER(164, long, bpf_for_each_map_elem, const void *map, void *callback, void *ctx, __u64 flags);
BPF_HELPER(165, long, bpf_snprintf, char *str, __u32 size, const char *fmt, __u64 *data, __u32 data_len);
BPF_HELPER(177, long, bpf_trace_vprintk, const char *fmt, __u32 size, const void *data, __u32 data_len);
BPF_HELPER(181, long, bpf_loop, __u32 count, void *callback, void *ctx, __u64 flags);
BPF_HELPER(182, long, bpf_strncmp, const char *s1, __u32 size, const char *s2);
BPF_HELPER(188, __u64, bpf_xdp_get_buff_len, struct xdp_md *ctx);
BPF_HELPER(189, long, bpf_xdp_load_bytes, struct xdp_md *ctx, __u32 off, void *buf, __u32 len);
BPF_HELPER(190, long, bpf_xdp_store_bytes, struct xdp_md *ctx, __u32 off, void *buf, __u32 len);
BPF_HELPER(195, void *, bpf_map_lookup_percpu_elem, const void *map, const void *key, __u32 cpu);
BPF_HELPER(208, __u64, bpf_ktime_get_tai_ns, void);

#endif
