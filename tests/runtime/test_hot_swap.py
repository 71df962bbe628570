"""A tail-call target is replaced from another process's side while CPUs run at full speed: every packet takes the old target or the new one."""

from __future__ import annotations

import os
import struct

from support.compile import compile_bpf
from support.paths import CAPTURES

import shmbpf

SWAPS = int(os.environ.get("SHMBPF_SWAPS", "2000"))
SOURCE = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); } jump SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } taken SEC(".maps");
static __always_inline int note(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&taken, &which);
	if (value)
		(*value)++;
	return XDP_PASS;
}
SEC("xdp") int entry(struct xdp_md *ctx)
{
	note(0);
	bpf_tail_call(ctx, &jump, 0);
	return note(3);
}
SEC("xdp") int one(struct xdp_md *ctx) { return note(1); }
SEC("xdp") int two(struct xdp_md *ctx) { return note(2); }
"""


def test_no_packet_misses_its_target_while_it_is_replaced():
    with shmbpf.Runtime(cpus=4) as runtime:
        obj = runtime.load(compile_bpf(SOURCE))
        targets = [struct.pack("<I", obj.programs[name].id) for name in ("one", "two")]
        jump = obj.maps["jump"].raw
        jump.update(bytes(4), targets[0])
        device, packets, swaps = runtime.device("shm0"), 0, 0
        with obj.programs["entry"].attach(device):
            while swaps < SWAPS:
                packets += device.inject(CAPTURES / "web.pcap", wait=False)
                for _ in range(100):
                    swaps += 1
                    jump.update(bytes(4), targets[swaps % 2])
            device.wait_drained()
        entries, one, two, missed = (sum(obj.maps["taken"][which]) for which in range(4))
        assert entries == packets and one + two == packets and missed == 0 and one and two
        assert not any(report.faults or report.lost for report in runtime.reports())
