"""Helper results recorded from Linux (6.18, BPF_PROG_TEST_RUN), so that they are checked where bpf(2) is not permitted too, and what has no oracle."""

from __future__ import annotations

import errno

import helper_packets as packets
import pytest
from helper_calls import CTX, SCHED_CLS, SOCKET_FILTER, XDP, Cpu, Text, Words, call, run_here

from shmbpf._ffi import ffi, lib

ENOTSUPP = 524
IPV4, IPV6 = 0x0008, 0xDD86

#: (program type, packet, call, result)
RESULTS = [
    (SCHED_CLS, packets.IPV4, call("skb_change_tail", CTX, 13, 0), -errno.EINVAL),
    (SCHED_CLS, packets.IPV4, call("skb_change_tail", CTX, 14, 0), 0),
    (SCHED_CLS, packets.IPV4, call("skb_change_tail", CTX, 16064, 0), 0),
    (SCHED_CLS, packets.IPV4, call("skb_change_tail", CTX, 16065, 0), -errno.EINVAL),
    (SCHED_CLS, packets.IPV4, call("skb_change_head", CTX, 15966, 0), 0),
    (SCHED_CLS, packets.IPV4, call("skb_change_head", CTX, 15967, 0), -errno.EINVAL),
    (SCHED_CLS, packets.IPV4, call("skb_adjust_room", CTX, -64, 1, 0), 0),
    (SCHED_CLS, packets.IPV4, call("skb_adjust_room", CTX, -65, 1, 0), -ENOTSUPP),
    (SCHED_CLS, packets.IPV4, call("skb_adjust_room", CTX, 4096, 1, 0), -errno.EFAULT),
    (SCHED_CLS, packets.IPV4, call("skb_adjust_room", CTX, 8, 2, 0), -ENOTSUPP),
    (SCHED_CLS, packets.IPV4, call("skb_adjust_room", CTX, 8, 1, 1 << 9), -errno.EINVAL),
    (SCHED_CLS, packets.ARP, call("skb_adjust_room", CTX, 8, 1, 0), -ENOTSUPP),
    (SCHED_CLS, packets.IPV4, call("skb_change_proto", CTX, IPV4, 0), -ENOTSUPP),
    (SCHED_CLS, packets.IPV4, call("skb_pull_data", CTX, 99), -errno.ENOMEM),
    (SCHED_CLS, packets.IPV4, call("skb_store_bytes", CTX, 95, b"abcd", 4, 0), -errno.EFAULT),
    (SCHED_CLS, packets.IPV4, call("l3_csum_replace", CTX, 25, 0, 0, 2), -errno.EFAULT),
    (SCHED_CLS, packets.IPV4, call("l3_csum_replace", CTX, 24, 0, 0, 3), -errno.EINVAL),
    (SCHED_CLS, packets.IPV4, call("csum_update", CTX, 1), -ENOTSUPP),
    (SCHED_CLS, packets.IPV4, call("csum_level", CTX, 0), -errno.EACCES),
    (SCHED_CLS, packets.IPV4, call("skb_change_type", CTX, 4), -errno.EINVAL),
    (SCHED_CLS, packets.CUT_VLAN, call("skb_vlan_pop", CTX), -errno.ENOMEM),
    (SCHED_CLS, packets.IPV4, call("clone_redirect", CTX, 0, 0), -errno.EINVAL),
    (SCHED_CLS, packets.IPV4, call("redirect", 5, 1), 7),
    (SCHED_CLS, packets.IPV4, call("redirect", 5, 2), 2),
    (XDP, packets.IPV4, call("redirect", 5, 0), 4),
    (XDP, packets.IPV4, call("redirect", 5, 1), 0),
    (SOCKET_FILTER, packets.IPV4, call("skb_load_bytes", CTX, 84, bytes(4), 4), -errno.EFAULT),
    (XDP, packets.IPV4, call("xdp_adjust_head", CTX, -216), 0),
    (XDP, packets.IPV4, call("xdp_adjust_head", CTX, -217), -errno.EINVAL),
    (XDP, packets.IPV4, call("xdp_adjust_meta", CTX, -6), -errno.EACCES),
    (XDP, packets.IPV4, call("xdp_adjust_meta", CTX, 4), -errno.EINVAL),
    (XDP, packets.IPV4, call("xdp_adjust_tail", CTX, 3422), 0),
    (XDP, packets.IPV4, call("xdp_adjust_tail", CTX, 3423), -errno.EINVAL),
    (XDP, packets.IPV4, call("xdp_load_bytes", CTX, 95, bytes(4), 4), -errno.EINVAL),
    (XDP, packets.IPV4, call("xdp_load_bytes", CTX, 0x10000, bytes(4), 4), -errno.EFAULT),
    (XDP, packets.IPV4, call("csum_diff", b"\x78\x56\x34\x12", 4, 0, 0, 0), 0x9753),
    (XDP, packets.IPV4, call("strtol", b" -0x1f", 6, 0, bytes(8)), 6),
    (XDP, packets.IPV4, call("strtol", b"9223372036854775808", 19, 10, bytes(8)), -errno.ERANGE),
    (XDP, packets.IPV4, call("strtoul", b"-1", 2, 10, bytes(8)), -errno.EINVAL),
    (XDP, packets.IPV4, call("strtoul", b"1", 1, 7, bytes(8)), -errno.EINVAL),
    (XDP, packets.IPV4, call("strncmp", b"abd\0", 4, Text(b"abc")), 1),
    (XDP, packets.IPV4, call("trace_vprintk", b"%y\0", 3, Words((1,)), 8), -errno.EINVAL),
    (XDP, packets.IPV4, call("trace_vprintk", b"%d %d\0", 6, Words((1,)), 8), -errno.EINVAL),
    (XDP, packets.IPV4, call("trace_vprintk", b"%d\0", 3, Words((12345,)), 8), 5),
]


@pytest.mark.parametrize("prog_type, packet, one, expected", RESULTS, ids=[f"{c.name}{c.args[1:]}"[:60] for _, _, c, _ in RESULTS])
def test_result_is_linuxs(prog_type, packet, one, expected):
    assert run_here(prog_type, [one], packet).results == (expected,)


def test_refused_load_clears_the_buffer():
    assert run_here(SCHED_CLS, [call("skb_load_bytes", CTX, 95, b"\xff" * 4, 4)], packets.IPV4).buffers == (bytes(4),)


def test_refused_xdp_load_leaves_the_buffer_alone():
    assert run_here(XDP, [call("xdp_load_bytes", CTX, 95, b"\xff" * 4, 4)], packets.IPV4).buffers == (b"\xff" * 4,)


def test_vlan_push_keeps_the_tag_beside_the_packet():
    outcome = run_here(SCHED_CLS, [call("skb_vlan_push", CTX, 0x0081, 5)], packets.IPV4)
    assert (outcome.packet, outcome.context["vlan_tci"], outcome.context["vlan_proto"]) == (packets.IPV4, 5, 0x0081)


def test_second_vlan_push_writes_the_first_tag_into_the_packet():
    outcome = run_here(SCHED_CLS, [call("skb_vlan_push", CTX, 0x0081, 5), call("skb_vlan_push", CTX, 0x0081, 6)], packets.IPV4)
    assert outcome.packet == packets.IPV4[:12] + bytes.fromhex("81000005") + packets.IPV4[12:]
    assert (outcome.context["vlan_tci"], outcome.context["protocol"]) == (6, 0x0081)


def test_flow_hash_is_the_same_in_both_directions():
    there = packets.IPV4
    back = there[:26] + there[30:34] + there[26:30] + there[36:38] + there[34:36] + there[38:]
    other = there[:34] + b"\x99" + there[35:]
    hashes = [run_here(SCHED_CLS, [call("get_hash_recalc", CTX)], packet).results[0] for packet in (there, back, other)]
    assert hashes[0] == hashes[1] != hashes[2] and all(hashes)


def test_hash_stays_until_it_is_invalidated():
    calls = [call("set_hash", CTX, 7), call("get_hash_recalc", CTX), call("set_hash_invalid", CTX), call("get_hash_recalc", CTX)]
    results = run_here(SCHED_CLS, calls, packets.IPV4).results
    assert results[1] == 7 != results[3]


def test_recalculated_hash_shows_in_the_context():
    outcome = run_here(SCHED_CLS, [call("get_hash_recalc", CTX)], packets.IPV4)
    assert outcome.context["hash"] == outcome.results[0]


def test_packet_moves_when_an_end_runs_out_of_room():
    """Pushing in front and cutting behind shifts the packet, at last against the arena's start: there it is moved, as Linux reallocates."""
    with Cpu(SCHED_CLS, packets.IPV4) as cpu:
        places = []
        for _ in range(100):
            assert cpu.run("skb_change_head", 0, 900, 0) == 0
            cpu.cpu.packet.mac_len = 14  # as if the pushed bytes began with a MAC header of their own
            assert cpu.run("skb_change_tail", 0, len(packets.IPV4), 0) == 0
            packet = cpu.cpu.packet
            assert packet.hard_start <= packet.data < packet.tail <= packet.hard_end
            assert cpu.cpu.skb.data == int(ffi.cast("uintptr_t", packet.data))
            places.append(packet.data - packet.hard_start)
    assert places != sorted(places, reverse=True)


def test_redirect_notes_target_and_flags():
    with Cpu(SCHED_CLS, packets.IPV4) as cpu:
        cpu.run("redirect", 9, 1)
        assert (cpu.cpu.packet.redirect_ifindex, cpu.cpu.packet.redirect_flags, cpu.cpu.packet.redirect_set) == (9, 1, 1)


def test_clone_redirect_hands_a_copy_to_the_hook():
    sent = []

    @ffi.callback("void(struct vm_cpu *, uint32_t, uint32_t, const uint8_t *, uint32_t)")
    def emit(_cpu, ifindex, flags, data, length):
        sent.append((ifindex, flags, bytes(ffi.buffer(data, length))))

    with Cpu(SCHED_CLS, packets.IPV4) as cpu:
        cpu.cpu.emit = emit
        assert cpu.run("clone_redirect", 0, 3, 1) == 0
    assert sent == [(3, 1, packets.IPV4)]


@pytest.mark.parametrize("fmt, line", [(b"n=%d s=%s\n\0", b"n=-5 s=two"), (b"%d%%\n\n\0", b"-5%\n"), (b"\n\0", b""), (b"\0", b"")])
def test_trace_gets_lines_without_their_newline(fmt, line):
    lines = []

    @ffi.callback("void(struct vm_cpu *, const char *, uint32_t)")
    def trace(_cpu, text, length):
        lines.append(bytes(ffi.buffer(text, length)))

    with Cpu(XDP, packets.IPV4) as cpu:
        cpu.cpu.trace = trace
        assert cpu.run("trace_printk", cpu.on_stack(fmt), len(fmt), -5, cpu.on_stack(b"two\0"), 0) >= 0
    assert lines == [line]


def test_trace_line_is_cut_at_1023_bytes():
    lines = []

    @ffi.callback("void(struct vm_cpu *, const char *, uint32_t)")
    def trace(_cpu, text, length):
        lines.append(length)

    with Cpu(XDP, packets.IPV4) as cpu:
        cpu.cpu.trace = trace
        assert cpu.run("trace_printk", cpu.on_stack(b"%2000d\0"), 7, 1, 0, 0) == 2000
    assert lines == [1023]


def test_refused_format_leaves_the_buffer_alone():
    outcome = run_here(XDP, [call("snprintf", b"\xee" * 8, 8, Text(b"ab%y"), Words((1,)), 8)], packets.IPV4)
    assert outcome.buffers == (b"\xee" * 8,)


def test_random_numbers_differ_and_repeat_with_the_state():
    with Cpu(XDP, packets.IPV4) as cpu:
        first = [cpu.run("get_prandom_u32") for _ in range(50)]
        state = cpu.cpu.random
        second = [cpu.run("get_prandom_u32") for _ in range(50)]
        cpu.cpu.random = state
        assert [cpu.run("get_prandom_u32") for _ in range(50)] == second
    assert len(set(first + second)) > 98 and all(0 <= n < 1 << 32 for n in first + second)


def test_loop_stops_at_a_fault():
    @ffi.callback("int(struct vm_cpu *, uint64_t, const uint64_t *, uint64_t *)")
    def callback(_cpu, func, args, ret):
        assert func == 77
        calls.append((args[0], args[1]))
        return lib.VM_FAULT_MEMORY if len(calls) == 3 else 0

    calls: list[tuple[int, int]] = []
    with Cpu(XDP, packets.IPV4) as cpu:
        cpu.cpu.call = callback
        cpu.run("loop", 10, 77, 5, 0)
    assert calls == [(0, 5), (1, 5), (2, 5)]


def test_second_spin_lock_and_unlock_of_a_free_one_stop_the_program():
    with Cpu(XDP, packets.IPV4) as cpu:
        word = ffi.new("uint32_t[2]")
        cpu.run("spin_unlock", word)
        assert cpu.cpu.fault.code == lib.VM_FAULT_LOCK and b"does not hold" in ffi.string(cpu.cpu.fault.detail)
        cpu.cpu.fault.code = lib.VM_OK
        cpu.cpu.spin_lock = word
        cpu.run("spin_lock", word + 1)
        assert cpu.cpu.fault.code == lib.VM_FAULT_LOCK and b"holds a lock already" in ffi.string(cpu.cpu.fault.detail)
