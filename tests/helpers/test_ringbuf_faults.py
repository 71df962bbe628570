"""What Linux's verifier refuses of programs with ring buffers stops them here while they run, and nothing stays reserved behind them."""

from __future__ import annotations

import struct

import pytest
from support.compile import compile_bpf

import shmbpf
from shmbpf._ffi import ffi, lib
from tests.conformance.live import ARRAY, Machine

RINGBUF, USER_RINGBUF = 27, 31

RESERVE = """
    r1 = map[rb]
    r2 = {size}
    r3 = 0
    call bpf_ringbuf_reserve#131
    if r0 == 0 goto none
    r6 = r0
"""
SUBMIT = "r1 = r6\nr2 = 0\ncall bpf_ringbuf_submit#132\n"
DISCARD = "r1 = r6\nr2 = 0\ncall bpf_ringbuf_discard#133\n"
END = "\nr0 = 2\nexit\nnone:\nr0 = 77\nexit"


@pytest.fixture
def machine(namespace_name):
    with Machine(namespace_name) as made:
        made.map("rb", RINGBUF, 0, 0, 4096)
        made.map("urb", USER_RINGBUF, 0, 0, 4096)
        made.map("values", ARRAY, 4, 8, 4)
        yield made


def reserve(size: int = 16) -> str:
    return RESERVE.format(size=size)


def counts(machine) -> tuple[int, int, int, int]:
    """(sent, lost, aborted, unread bytes)."""
    m, found = machine.maps["rb"], ffi.new("struct ringbuf_counts *")
    assert lib.ringbuf_count(m.handle, m.namespace.client, found) == 0
    return found.sent, found.lost, found.aborted, lib.ringbuf_unread(m.handle)


def fault(machine, source: str) -> str:
    result = machine.run(machine.program(source))
    assert result.fault is not None
    machine.maps["rb"].check()
    return result.fault


class TestRecords:
    @pytest.mark.parametrize("size", (1, 4, 7, 8, 16, 100, 4080))
    def test_every_byte_of_a_record_is_reachable_and_none_beside_it(self, machine, size):
        last = machine.program(reserve(size) + f"*(u8 *)(r6 {size - 1:+}) = 5\nr7 = *(u8 *)(r6 {size - 1:+})\n" + SUBMIT + "r0 = r7\nexit\nnone:\nr0 = 77\nexit")
        assert (machine.run(last).retval, machine.run(last).fault) in ((5, None), (77, None))
        machine.maps["rb"].recover()
        for access in (f"*(u8 *)(r6 {size:+}) = 1", "r7 = *(u32 *)(r6 -8)", "*(u32 *)(r6 -4) = 1", f"r7 = *(u16 *)(r6 {size - 1:+})"):
            lib.ringbuf_consume(machine.maps["rb"].handle, counts(machine)[3])
            assert "not allowed" in fault(machine, reserve(size) + access + "\n" + SUBMIT + END)

    def test_a_fault_discards_what_is_reserved(self, machine):
        fault(machine, reserve() + reserve(100) + "r1 = 0\nr0 = *(u8 *)(r1 +0)" + END)
        assert counts(machine) == (0, 0, 0, 24 + 112)

    def test_an_exit_with_a_record_reserved_is_an_unreleased_reference(self, machine):
        text = fault(machine, reserve() + END)
        assert "Unreleased reference" in text and "1 ring buffer record" in text
        assert counts(machine) == (0, 0, 0, 24)

    def test_a_program_can_run_again_after_a_leak(self, machine):
        leak, good = machine.program(reserve() + END), machine.program(reserve() + SUBMIT + END)
        with machine.cpu() as cpu:
            assert cpu.run(leak.id, bytes(64)).fault and cpu.run(leak.id, bytes(64)).fault
            assert cpu.run(good.id, bytes(64)).fault is None
            assert not lib.ringbuf_stalled(machine.maps["rb"].handle), "the CPU lives: nobody else may discard its records"
            assert counts(machine) == (1, 0, 0, 72)

    @pytest.mark.parametrize("ending", (SUBMIT, DISCARD), ids=("submit", "discard"))
    def test_a_record_is_out_of_reach_once_given_back(self, machine, ending):
        assert "not allowed" in fault(machine, reserve() + ending + "*(u64 *)(r6 +0) = 1" + END)
        assert "expected the start of a reserved ring buffer record" in fault(machine, reserve() + ending + SUBMIT + END)

    @pytest.mark.parametrize("address", ("r6 += 8", "r6 += -8", "r6 = r10", "r6 = 0", "r6 = map[rb]"))
    def test_only_the_start_of_a_record_can_be_given_back(self, machine, address):
        assert "expected the start of a reserved ring buffer record" in fault(machine, reserve() + address + "\n" + SUBMIT + END)
        assert counts(machine) == (0, 0, 0, 24)

    def test_several_records_are_reachable_at_a_time(self, machine):
        machine.map("rb2", RINGBUF, 0, 0, 8192)
        source = (
            reserve() + "r7 = r6\n" + reserve(24) + "r8 = r6\n" + reserve(8).replace("map[rb]", "map[rb2]")
            + "*(u64 *)(r7 +8) = 1\n*(u64 *)(r8 +16) = 2\n*(u64 *)(r6 +0) = 3\n*(u64 *)(r7 +0) = 4\n" + SUBMIT + "r6 = r8\n" + SUBMIT + "r6 = r7\n" + SUBMIT + END
        )  # fmt: skip
        result = machine.run(machine.program(source))
        assert (result.retval, result.fault) == (2, None)
        assert counts(machine)[0] == 2

    def test_the_65th_record_at_a_time_is_refused(self, machine):
        source = "r7 = 0\nagain:\n" + reserve(8) + "r7 += 1\nif r7 != 70 goto again\n" + END
        assert "64 ring buffer records at a time" in fault(machine, source)
        assert counts(machine) == (0, 0, 0, 64 * 16)

    def test_a_tail_call_cannot_take_a_record_along(self, machine):
        machine.map("progs", 3, 4, 4, 1)
        source = "r9 = r1\n" + reserve() + "r1 = r9\nr2 = map[progs]\nr3 = 0\ncall bpf_tail_call#12\n" + SUBMIT + END
        assert "tail_call would lead to reference leak" in fault(machine, source)

    def test_lost_and_sent_are_counted_on_the_cpu(self, machine):
        program = machine.program(reserve(3000) + SUBMIT + END)
        dropped = machine.program(reserve(8) + DISCARD + END)
        with machine.cpu() as cpu:
            for one in (program, program, dropped):
                cpu.run(one.id, bytes(64))
            assert (cpu._cpu.events_sent, cpu._cpu.events_lost) == (1, 1)
        assert counts(machine)[:3] == (1, 1, 0)


class TestMaps:
    @pytest.mark.parametrize("call, ring", [("ringbuf_output#130", "urb"), ("ringbuf_reserve#131", "values"), ("ringbuf_query#134", "urb"), ("user_ringbuf_drain#209", "rb"),
                                            ("map_lookup_elem#1", "rb"), ("map_update_elem#2", "rb"), ("map_delete_elem#3", "urb")])  # fmt: skip
    def test_helpers_take_their_own_kind_of_map(self, machine, call, ring):
        source = f"r1 = map[{ring}]\nr2 = r10\nr2 += -16\nr3 = 0\nr4 = 0\n*(u64 *)(r10 -16) = 0\ncall bpf_{call}\nr0 = 2\nexit"
        assert f"cannot pass map id {machine.maps[ring].id}" in fault(machine, source)

    def test_ring_memory_is_no_map_value(self, machine):
        """Positions and headers lie at addresses a program could compute from a record's."""
        assert "not allowed" in fault(machine, reserve() + "r7 = r6\nr7 &= -4096\nr7 += 2048\n*(u64 *)(r7 +0) = 1\n" + SUBMIT + END)



C_PRELUDE = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, 31); __uint(max_entries, 4096); } urb SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } rb SEC(".maps");
struct bpf_dynptr { __u64 opaque[2]; } __attribute__((aligned(8)));
BPF_HELPER(199, void, bpf_ringbuf_submit_dynptr, struct bpf_dynptr *ptr, __u64 flags);
BPF_HELPER(201, long, bpf_dynptr_read, void *dst, __u64 len, const struct bpf_dynptr *src, __u64 offset, __u64 flags);
BPF_HELPER(203, void *, bpf_dynptr_data, const struct bpf_dynptr *ptr, __u64 offset, __u64 len);
BPF_HELPER(209, long, bpf_user_ringbuf_drain, void *map, void *callback, void *ctx, __u64 flags);
static volatile __u64 kept, calls;
"""
DRAINS = [
    ("beyond_the_sample", "__u64 *p = bpf_dynptr_data(d, 0, 8); if (p) kept = p[1];", "not allowed"),
    ("after_the_callback", "kept = (__u64)bpf_dynptr_data(d, 0, 8);", "not allowed"),
    ("null", "kept = *(volatile __u64 *)0;", "NULL"),
    ("given_back", "bpf_ringbuf_submit_dynptr(d, 0);", "expected the dynptr of a reserved ring buffer record"),
    ("shifted", "bpf_dynptr_read(&(__u64){0}, 8, (void *)d + 8, 0, 0);", "expected an initialised dynptr"),
]


@pytest.mark.parametrize("name, body, words", DRAINS, ids=[case[0] for case in DRAINS])
def test_a_fault_in_a_drain_consumes_the_sample_and_frees_the_ring(name, body, words):
    source = f"""{C_PRELUDE}
static long callback(struct bpf_dynptr *d, void *ctx) {{ calls++; {body} return 0; }}
SEC("xdp") int drains(struct xdp_md *ctx) {{ long n = bpf_user_ringbuf_drain(&urb, callback, NULL, 0); kept += *(volatile __u64 *)kept; return n; }}
SEC("xdp") int only_drains(struct xdp_md *ctx) {{ return bpf_user_ringbuf_drain(&urb, callback, NULL, 0); }}
"""
    with shmbpf.Runtime(cpus=2) as runtime:
        loaded = runtime.load(compile_bpf(source))
        m = loaded.maps["urb"].raw
        write(m, 3)
        assert words in loaded.programs["drains"].run(bytes(64), cpu=0).fault
        left = lib.ringbuf_unread(m.handle)
        assert left == (0 if name == "after_the_callback" else 32)
        again = loaded.programs["only_drains"].run(bytes(64), cpu=0)
        assert again.fault is None or words in again.fault
        assert lib.ringbuf_unread(m.handle) in (0, 16)


def write(m, count: int) -> None:
    for i in range(count):
        assert lib.user_ringbuf_write(m.handle, m.namespace.client, ffi.from_buffer(struct.pack("=Q", 40 + i)), 8) == 0
