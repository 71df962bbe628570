"""The ABI header, as both of its readers see it."""

import re

import pytest

from shmbpf import _build
from shmbpf._ffi import ffi, lib

STRUCTS = sorted(set(re.findall(r"^struct (\w+) \{", _build.preprocess(), re.M)))
SHARED = [
    "shm_head", "shm_slot", "shm_ctl", "shm_map", "map_attr", "shm_prog", "prog_line", "prog_func", "shm_dev", "net_queue", "net_entry", "shm_run", "run_cpu", "run_faults",
    "vm_fault", "perf_event_mmap_page", "shm_wake", "ring_attr", "ring_state", "shm_ring", "ringbuf_state", "shm_ringbuf",
]  # fmt: skip


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_layout_the_compiler_gave_it(name):
    assert ffi.sizeof(f"struct {name}") >= 0  # cffi compares every offset with the compiler's at first use


def leaves(ctype, prefix=""):
    for name, field in ctype.fields or ():
        inner = field.type
        while inner.kind == "array":
            inner = inner.item
        if inner.kind == "struct":
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


@pytest.mark.parametrize("name", SHARED)
def test_shared_struct_has_fixed_width_fields_and_no_pointer(name):
    for field, ctype in leaves(ffi.typeof(f"struct {name}")):
        assert ctype.kind == "primitive", f"{field} is a {ctype.kind}"
        assert re.fullmatch(r"u?int(8|16|32|64)_t|char", ctype.cname), f"{field} is {ctype.cname}"


def test_cache_lines_of_a_queue_are_not_shared_between_its_two_sides():
    queue = ffi.typeof("struct net_queue")
    offsets = dict((name, field.offset) for name, field in queue.fields)
    assert len({offsets["lock"] // 64, offsets["head"] // 64, offsets["tail"] // 64}) == 3


def test_uapi_structs_have_the_sizes_of_linux():
    assert (ffi.sizeof("struct bpf_insn"), ffi.sizeof("struct xdp_md"), ffi.sizeof("struct __sk_buff"), ffi.sizeof("struct bpf_spin_lock")) == (8, 24, 192, 4)
    assert ffi.offsetof("struct __sk_buff", "tstamp") == 152 and ffi.offsetof("struct __sk_buff", "hwtstamp") == 184


def test_map_types_have_the_numbers_of_linux():
    assert (lib.BPF_MAP_TYPE_HASH, lib.BPF_MAP_TYPE_PROG_ARRAY, lib.BPF_MAP_TYPE_RINGBUF, lib.BPF_MAP_TYPE_ARENA) == (1, 3, 27, 33)
