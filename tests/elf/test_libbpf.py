"""libbpf, where it is installed, opens the same maps and programs in objects that it accepts (it is stricter: most of our sources it refuses)."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Iterator

import pytest
from support.compile import compile_bpf

from shmbpf.elf import load_object

pytestmark = pytest.mark.skipif(not ctypes.util.find_library("bpf"), reason="compares with libbpf, which is not installed")

SOURCE = """
#include "bpf_api.h"
struct value { __u64 packets; __u32 mark; };
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 99); __type(key, __u32); __type(value, struct value);
	 __uint(pinning, LIBBPF_PIN_BY_NAME); __uint(map_flags, 2); } flows SEC(".maps");
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 5); __type(key, __u32); __type(value, __u64); } first SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 3); __type(key, __u32); __array(values, struct inner); }
	outer SEC(".maps") = { .values = { [1] = &first } };
int xdp_entry(struct xdp_md *ctx);
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 3); __uint(key_size, 4); __array(values, int(struct xdp_md *)); }
	jumps SEC(".maps") = { .values = { [2] = &xdp_entry } };
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
int counter, start = 4; const volatile int limit = 9; int special SEC(".data.special") = 3;
static volatile int hidden SEC(".bss.hidden"); static const volatile char text[] = "text";

__noinline int helper(int x) { return x * counter + start + limit + special + hidden + text[1]; }
SEC("xdp") int xdp_entry(struct xdp_md *ctx)
{
	__u32 key = 0;
	bpf_map_lookup_elem(&flows, &key);
	bpf_map_lookup_elem(&outer, &key);
	bpf_tail_call(ctx, &jumps, 1);
	return helper(ctx->ingress_ifindex);
}
SEC("xdp.frags") int frags(struct xdp_md *ctx) { return 2; }
SEC("?tc") int tc_off(struct __sk_buff *skb) { return helper(skb->len); }
SEC("cgroup/connect4") int connect4(void *ctx) { return 1; }
char LICENSE[] SEC("license") = "GPL";
"""
MAP_NUMBERS = ("type", "key_size", "value_size", "max_entries", "map_flags", "btf_key_type_id", "btf_value_type_id")


def walk(libbpf, obj: ctypes.c_void_p, kind: str) -> Iterator[ctypes.c_void_p]:
    step = getattr(libbpf, f"bpf_object__next_{kind}")
    step.restype = ctypes.c_void_p
    current = step(obj, None)
    while current:
        yield ctypes.c_void_p(current)
        current = step(obj, ctypes.c_void_p(current))


def text(libbpf, function: str, thing: ctypes.c_void_p) -> str:
    call = getattr(libbpf, function)
    call.restype = ctypes.c_char_p
    return call(thing).decode()


@pytest.fixture
def opened(tmp_path):
    """(libbpf, its object, our spec) of SOURCE."""
    path = tmp_path / "some_object.bpf.o"
    path.write_bytes(compile_bpf(SOURCE).read_bytes())
    libbpf = ctypes.CDLL(ctypes.util.find_library("bpf"))
    libbpf.libbpf_set_print(None)
    libbpf.bpf_object__open_file.restype = ctypes.c_void_p
    obj = libbpf.bpf_object__open_file(str(path).encode(), None)
    assert obj, "libbpf does not open the object"
    yield libbpf, ctypes.c_void_p(obj), load_object(path)
    libbpf.bpf_object__close(ctypes.c_void_p(obj))


def test_maps_are_the_same(opened):
    libbpf, obj, spec = opened
    theirs = {
        text(libbpf, "bpf_map__name", one): tuple(getattr(libbpf, f"bpf_map__{name}")(one) for name in MAP_NUMBERS)
        for one in walk(libbpf, obj, "map")
    }
    ours = {
        one.name: (one.type, one.key_size, one.value_size, one.max_entries, one.flags, one.btf_key_type_id, one.btf_value_type_id)
        for one in spec.maps.values()
    }
    assert ours == theirs and len(ours) == 10


def test_programs_are_the_same(opened):
    libbpf, obj, spec = opened
    libbpf.bpf_program__autoload.restype = ctypes.c_bool
    theirs = {
        text(libbpf, "bpf_program__name", one): (
            text(libbpf, "bpf_program__section_name", one).removeprefix("?"),
            libbpf.bpf_program__type(one),
            libbpf.bpf_program__expected_attach_type(one),
            libbpf.bpf_program__autoload(one),
        )
        for one in walk(libbpf, obj, "program")
    }
    ours = {one.name: (one.section, one.type, one.expected_attach_type, one.autoload) for one in spec.programs.values()}
    assert ours == theirs
