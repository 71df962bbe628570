"""Whole C programs with maps, callbacks and locks: the same object here and in Linux, equal in result, packet and map contents.

To add a case, add a function to PROGRAMS: (name, section, body). Bodies see the maps below as `array`, `hash`, `per_array`, `per_hash`, `locked`.
"""

from __future__ import annotations

import helper_packets as packets
import pytest
from support.compile import compile_bpf
from support.kernel import load_object as load_into_kernel
from support.kernel import possible_cpus

import shmbpf
from shmbpf.elf import load_object

MAPS = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct locked { struct bpf_spin_lock lock; __u32 n; __u64 sum; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, __u64); __uint(max_entries, 16); } array SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __type(key, __u32); __type(value, __u64); __uint(max_entries, 64); } hash SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __type(key, __u32); __type(value, __u64); __uint(max_entries, 4); } per_array SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_HASH); __type(key, __u64); __type(value, __u64); __uint(max_entries, 8); } per_hash SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, struct locked); __uint(max_entries, 2); } locked SEC(".maps");
static __always_inline void fill_hash(int n) { for (__u32 i = 0; i < n; i++) { __u32 k = i; __u64 v = i * 3; bpf_map_update_elem(&hash, &k, &v, 0); } }
struct bag { __u64 calls, sum, stop; } bag; /* global: Linux's verifier would follow every value of a local one */
static __always_inline void store(__u32 at, __u64 value) { bpf_map_update_elem(&array, &at, &value, 0); }
static __always_inline void fill(void *map, int n) { for (__u64 i = 0; i < n; i++) { __u64 v = i * i + 1; bpf_map_update_elem(map, &i, &v, 0); } }
static int stops(__u64 amount) { bag.calls++; bag.sum += amount; return bag.stop && bag.calls >= bag.stop; }
static long add(void *map, const void *key, __u64 *value, void *ctx) { return stops(value ? *(const __u32 *)key * 1000 + *value : 0); }
static long drop(void *map, const void *key, __u64 *value, void *ctx) { bpf_map_delete_elem(map, key); return stops(*value); }
static long refresh(void *map, const void *key, __u64 *value, void *ctx)
{
	__u64 more = *value + 1000;
	bpf_map_update_elem(map, key, &more, 0);
	return stops(0);
}
static long count(__u32 i, __u64 *step) { return stops(i * *step); }
static long nested(__u32 i, void *ctx) { return stops(bpf_for_each_map_elem(&per_array, add, NULL, 0)); }
"""
REPORT = "store(0, bag.calls); store(1, bag.sum);"

PROGRAMS = [
    ("lookup_update_delete", "xdp", """
	__u32 k = 5; __u64 v = 7, *p;
	store(0, bpf_map_update_elem(&hash, &k, &v, BPF_EXIST)); store(1, bpf_map_update_elem(&hash, &k, &v, BPF_NOEXIST));
	store(2, bpf_map_update_elem(&hash, &k, &v, BPF_NOEXIST)); store(3, bpf_map_update_elem(&hash, &k, &v, 3));
	p = bpf_map_lookup_elem(&hash, &k); if (p) *p += 1;
	k = 6; store(4, bpf_map_delete_elem(&hash, &k)); store(5, bpf_map_delete_elem(&array, &k)); k = 99; store(6, bpf_map_update_elem(&array, &k, &v, 0));
	store(7, !bpf_map_lookup_elem(&array, &k)); store(8, bpf_map_update_elem(&array, &(__u32){1}, &v, BPF_NOEXIST)); return 2;"""),
    ("percpu_elem", "tc", """
	__u32 k = 1; __u64 *p, v = 9; fill(&per_array, 3);
	p = bpf_map_lookup_percpu_elem(&per_array, &k, bpf_get_smp_processor_id()); store(0, p ? *p : 77);
	store(1, !bpf_map_lookup_percpu_elem(&per_array, &k, 0x7fffffff));
	__u64 key = 3; bpf_map_update_elem(&per_hash, &key, &v, 0);
	p = bpf_map_lookup_percpu_elem(&per_hash, &key, bpf_get_smp_processor_id()); store(2, p ? *p : 77);
	key = 4; store(3, !bpf_map_lookup_percpu_elem(&per_hash, &key, 0)); return 0;"""),
    ("loop", "xdp", """
	__u64 step = 7;
	store(2, bpf_loop(100, count, &step, 0)); store(3, bpf_loop(0, count, &step, 0)); store(4, bpf_loop((1 << 23) + 1, count, &step, 0));
	store(5, bpf_loop(5, count, &step, 1)); bag.stop = bag.calls + 3; store(6, bpf_loop(100, count, &step, 0));""" + REPORT + "return 2;"),
    ("loop_in_loop", "tc", "fill(&per_array, 4); store(2, bpf_loop(10, nested, NULL, 0));" + REPORT + "return 0;"),
    ("each_array", "xdp", """
	store(9, 5); store(15, 6);
	store(2, bpf_for_each_map_elem(&array, add, NULL, 0)); store(3, bpf_for_each_map_elem(&array, add, NULL, 4));
	bag.stop = bag.calls + 5; store(4, bpf_for_each_map_elem(&array, add, NULL, 0));""" + REPORT + "return 2;"),
    ("each_hash", "xdp", """
	fill_hash(40);
	store(2, bpf_for_each_map_elem(&hash, add, NULL, 0));""" + REPORT + "return 2;"),
    ("each_hash_empty", "xdp", "store(2, bpf_for_each_map_elem(&hash, add, NULL, 0));" + REPORT + "return 2;"),
    ("each_hash_stops", "xdp", """
	bag.stop = 4; fill_hash(40);
	store(2, bpf_for_each_map_elem(&hash, add, NULL, 0)); store(0, bag.calls); return 2;"""),
    ("each_hash_deletes_its_elements", "xdp", """
	fill_hash(64);
	store(2, bpf_for_each_map_elem(&hash, drop, NULL, 0)); store(3, bpf_for_each_map_elem(&hash, drop, NULL, 0));""" + REPORT + "return 2;"),
    ("each_hash_replaces_its_elements", "xdp", """
	fill_hash(40);
	store(2, bpf_for_each_map_elem(&hash, refresh, NULL, 0));""" + REPORT + "return 2;"),
    ("each_percpu_hash", "tc", """
	fill(&per_hash, 8); store(2, bpf_for_each_map_elem(&per_hash, add, NULL, 0));""" + REPORT + "return 0;"),
    ("each_percpu_array", "socket", """
	fill(&per_array, 4); store(2, bpf_for_each_map_elem(&per_array, add, NULL, 0));""" + REPORT + "return 0;"),
    ("spin_lock", "tc", """
	for (__u32 i = 0; i < 6; i++) {
		__u32 k = i & 1; struct locked *v = bpf_map_lookup_elem(&locked, &k);
		if (!v) return 1;
		bpf_spin_lock(&v->lock); v->n++; v->sum += i; bpf_spin_unlock(&v->lock);
	}
	return 0;"""),
    ("rewrite_the_packet", "tc", """
	__u8 mac[6] = {1, 2, 3, 4, 5, 6};
	bpf_skb_store_bytes(ctx, 6, mac, 6, 0); bpf_l3_csum_replace(ctx, 24, 0x1140, 0x1120, 2); bpf_skb_vlan_push(ctx, bpf_htons(0x8100), 7);
	bpf_skb_adjust_room(ctx, 8, 1, 0);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + 22 > end) return 2;
	*(__u64 *)(data + 14) = 0x1122334455667788; store(0, ctx->len); store(1, ctx->vlan_tci); store(2, ctx->protocol); return 0;"""),
    ("move_both_ends", "xdp", """
	if (bpf_xdp_adjust_head(ctx, -8) || bpf_xdp_adjust_tail(ctx, 12) || bpf_xdp_adjust_meta(ctx, -8)) return 0;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *meta = (void *)(long)ctx->data_meta;
	if (data + 8 > end || meta + 8 > data) return 1;
	*(__u64 *)data = 0x1122334455667788; *(__u64 *)meta = 0x99aabbccddeeff00; store(0, bpf_xdp_get_buff_len(ctx)); return 2;"""),
    ("clocks_run_and_agree", "xdp", """
	__u64 a = bpf_ktime_get_ns(), b = bpf_ktime_get_ns(), boot = bpf_ktime_get_boot_ns(), coarse = bpf_ktime_get_coarse_ns();
	store(0, b >= a); store(1, boot >= b); store(2, a - coarse < 100000000); store(3, bpf_ktime_get_tai_ns() > 1000000000000000000);
	store(4, bpf_jiffies64() - 4294892296 - a / 4000000 + 500 < 1000); store(5, bpf_get_numa_node_id()); return 2;"""),
]  # fmt: skip
CONTEXTS = {"xdp": "struct xdp_md", "tc": "struct __sk_buff", "socket": "struct __sk_buff"}
MAP_NAMES = ("array", "hash", "per_array", "per_hash", "locked")


def contents(maps: object, read: object) -> dict[str, dict[bytes, bytes]]:
    """Bytes of all maps of the program."""
    return {name: dict(sorted(read(maps[name]))) for name in MAP_NAMES if name in maps}


def totals(found: dict[str, dict[bytes, bytes]]) -> dict[str, dict[int, int]]:
    """Contents as numbers, per-CPU values added up over the CPUs: the machines differ in how many they have, and in which one ran."""
    return {
        name: {number(k): sum(map(number, chunks(v))) if name.startswith("per_") else number(v) for k, v in elements.items()}
        for name, elements in found.items()
    }


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def chunks(data: bytes) -> list[bytes]:
    return [data[i : i + 8] for i in range(0, len(data), 8)]


@pytest.mark.kernel
@pytest.mark.parametrize("name, section, body", PROGRAMS, ids=[case[0] for case in PROGRAMS])
def test_program_does_what_it_does_in_linux(name, section, body):
    path = compile_bpf(f'{MAPS}\nSEC("{section}") int {name}({CONTEXTS[section]} *ctx)\n{{{body}\n}}\n')
    with load_into_kernel(load_object(path, name=name), name) as program:
        linux = program.run(packets.IPV4)
        linux_maps = totals(contents(program.maps, lambda m: m.contents().items()))
    with shmbpf.Runtime(cpus=min(possible_cpus(), 2)) as runtime:
        loaded = runtime.load(path)
        ours = loaded.programs[name].run(packets.IPV4, cpu=0)
        our_maps = totals({n: m for n, m in contents({n: t.raw for n, t in loaded.maps.items()}, lambda m: m.items()).items() if n in linux_maps})
        loaded.close()
    assert ours.fault is None
    assert (ours.retval, ours.data, our_maps) == (linux.retval, linux.data, linux_maps)
