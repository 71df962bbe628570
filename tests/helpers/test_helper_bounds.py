"""No helper touches a byte outside of its packet's room, whatever the packet: captures hold packets that no Linux device would deliver."""

from __future__ import annotations

import random

import helper_packets as packets
import pytest
import test_skb_oracle
import test_xdp_oracle
from helper_calls import SCHED_CLS, XDP, Cpu

from shmbpf._ffi import ffi

CANARY = 0xA5
SHORT = [packets.IPV4[:n] for n in (1, 6, 12, 13, 14, 15, 16, 33)] + [packets.VLAN[:n] for n in (14, 16, 17)] + [packets.IPV6[:n] for n in (14, 40, 53)]


def confine(cpu, front: int, back: int) -> tuple[object, object]:
    """Leave the packet only so much room; everything else of the arena around it becomes canaries. Returns the two outer pieces."""
    packet = cpu.cpu.packet
    packet.hard_start, packet.hard_end = packet.data - front, packet.tail + back
    before, behind = ffi.buffer(packet.hard_start - 8192, 8192), ffi.buffer(packet.hard_end, 8192)
    before[:], behind[:] = bytes([CANARY]) * 8192, bytes([CANARY]) * 8192
    return before, behind


@pytest.mark.parametrize("prog_type, random_call", [(SCHED_CLS, test_skb_oracle.random_call), (XDP, test_xdp_oracle.random_call)], ids=["skb", "xdp"])
@pytest.mark.parametrize("seed", range(4))
def test_helpers_stay_in_the_packets_room(prog_type, random_call, seed):
    source = random.Random(seed)
    for _ in range(150):
        frame = source.choice([*SHORT, *packets.ALL])
        with Cpu(prog_type, frame) as cpu:
            outside = confine(cpu, source.choice([0, 3, 60, 256]), source.choice([0, 3, 60]))
            packet = cpu.cpu.packet
            for one in [random_call(source) for _ in range(12)]:
                cpu._stack_used = 0
                cpu.run(one.name, *map(cpu.place, one.args))
                assert packet.hard_start <= packet.meta <= packet.data <= packet.tail <= packet.hard_end, (frame, one)
                assert all(set(piece[:]) == {CANARY} for piece in outside), (frame, one)
