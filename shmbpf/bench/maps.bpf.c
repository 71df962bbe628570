// SPDX-License-Identifier: Apache-2.0
/* Map operations in a loop inside the kernel, one program per map type and operation, for BPF_PROG_TEST_RUN. The same keys in the same order as
 * cbits/bench/bench.c makes.
 *
 * A run does BATCH operations and notes in its context how far it is, so the runs of one BPF_PROG_TEST_RUN go on where the last one stopped. Plain loops: a
 * call of bpf_loop() goes through a retpoline where the CPU needs one, which keeps the processor from overlapping operations.
 *
 *   skb->mark      number of keys - 1 (a power of two minus 1)
 *   skb->cb[0]     number of the next operation
 *   skb->cb[2]     key multiplier, odd
 *   returns        the last run's operations that went wrong
 *
 * maps.o is made by
 *
 *   clang-19 -O2 -g -fdebug-compilation-dir=. -target bpf -mcpu=v3 -c maps.bpf.c -o maps.o */
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex, tc_index, cb[5];
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;

enum { BATCH = 1024, OFFSET = 0x1000000, ANY = 0, NOEXIST = 1 };

#define MAP(kind, number)                                                \
	struct {                                                         \
		__uint(type, number);                                    \
		__uint(max_entries, 2048);                               \
		__type(key, __u32);                                      \
		__type(value, __u64);                                    \
	} kind SEC(".maps");

#define PROGRAM(name, body)                                              \
	SEC("tc") int name(struct __sk_buff *skb)                        \
	{                                                                \
		__u32 mask = skb->mark, start = skb->cb[0], factor = skb->cb[2], wrong = 0;\
		__u64 sum = 0;                                           \
		_Pragma("clang loop unroll(disable)")                    \
		for (__u32 i = 0; i < BATCH; i++) {                      \
			__u32 key = (start + i) * factor & mask;         \
			__u64 value = key;                               \
			body;                                            \
		}                                                        \
		skb->cb[0] = start + BATCH;                              \
		skb->cb[1] = (__u32)sum;                                 \
		return wrong;                                            \
	}

#define LOOKUP(kind)                                                     \
	PROGRAM(kind##_lookup, {                                         \
		__u64 *found = bpf_map_lookup_elem(&kind, &key);         \
		if (found)                                               \
			sum += *found;                            \
		else                                                     \
			wrong++;                                  \
	})

#define UPDATE(kind)                                                     \
	PROGRAM(kind##_update, {                                         \
		if (bpf_map_update_elem(&kind, &key, &value, ANY))       \
			wrong++;                                  \
	})

#define INSERT_DELETE(kind)                                              \
	PROGRAM(kind##_insert_delete, {                                  \
		key += OFFSET;                                           \
		if (bpf_map_update_elem(&kind, &key, &value, NOEXIST) || bpf_map_delete_elem(&kind, &key)) \
			wrong++;                                  \
	})

MAP(hash, 1)
MAP(array, 2)
MAP(percpu_hash, 5)
MAP(percpu_array, 6)

LOOKUP(array)
LOOKUP(percpu_array)
LOOKUP(hash)
LOOKUP(percpu_hash)
UPDATE(array)
UPDATE(percpu_array)
UPDATE(hash)
UPDATE(percpu_hash)
INSERT_DELETE(hash)
INSERT_DELETE(percpu_hash)

char _license[] SEC("license") = "GPL";
