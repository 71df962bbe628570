"""BPF_PROG_TEST_RUN: sizes, contexts, results and errno equal Linux's on the same program and packet."""

from __future__ import annotations

import ctypes
import errno
import itertools
import struct

import pytest

from shmbpf.asm import assemble
from tests.conformance.machine import SCHED_ACT, SCHED_CLS, SOCKET_FILTER, XDP, HookedProgram
from tests.support import bpf_syscall

TYPES = (SOCKET_FILTER, SCHED_CLS, SCHED_ACT, XDP)
SKB_TYPES = (SOCKET_FILTER, SCHED_CLS, SCHED_ACT)
PASS = assemble("r0 = 1\nexit")
MACS = {"other": bytes.fromhex("02000000000102000000000f"), "broadcast": b"\xff" * 6 + bytes(6), "multicast": b"\x01\0\x5e\0\0\x01" + bytes(6), "own": bytes(12)}
TYPES_OF_FRAMES = {"ip": 0x0800, "ipv6": 0x86DD, "vlan": 0x8100, "length": 60, "raw ipx": 61}


def frame(mac: str = "other", type: str = "vlan", size: int = 64) -> bytes:
    payload = b"\xff\xff" if type == "raw ipx" else b"\x45\0"
    return (MACS[mac] + TYPES_OF_FRAMES[type].to_bytes(2, "big") + payload + bytes(range(256)) * 16)[:size]


def attempt(run) -> object:
    """The result, or the name of the errno."""
    try:
        return run()
    except OSError as error:
        return errno.errorcode[error.errno]


def both(kernel, type: int, code: bytes, data: bytes, ctx: bytes = b"", ctx_out: int = 0, data_out: int = 1 << 16) -> tuple[object, object]:
    """((retval, data, ctx) or errno) from us and from Linux."""

    def ours() -> tuple:
        with HookedProgram(type, code) as program:
            run = program.run(data, ctx=ctx or None, ctx_out=ctx_out, data_out=data_out)
            assert run.fault is None, run.detail
            return run.retval, run.data, run.ctx

    def linux() -> tuple:
        with kernel.KernelProgram.from_insns(type, code) as program:
            return bpf_syscall.prog_test_run(program.fd, data, ctx=ctx, ctx_out_bytes=ctx_out, out_bytes=data_out, repeat=1)[:3]

    return attempt(ours), attempt(linux)


@pytest.mark.kernel
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("with_context", (False, True))
@pytest.mark.parametrize("size", (1, 13, 14, 15, 33, 34, 60, 1500, 3519, 3520, 3521, 3711, 3712, 3713, 4000, 9000))
def test_packet_sizes(kernel, type, size, with_context):
    context = {} if not with_context else {"ctx": struct.pack("<6I", 0, size, 0, 0, 0, 0), "ctx_out": 24} if type == XDP else {"ctx_out": 192}
    if with_context and type == XDP and size > 3520:
        context["ctx_out"] = 0  # a fragmented packet's data_end tells where Linux cut it
    ours, linux = both(kernel, type, PASS, frame(size=size), **context)
    assert ours == linux


@pytest.mark.kernel
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("room", (1, 13, 14, 63, 64, 65))
def test_output_that_does_not_fit_is_enospc(kernel, type, room):
    ours, linux = both(kernel, type, PASS, frame(), data_out=room)
    assert (ours if isinstance(ours, str) else ours[:2]) == (linux if isinstance(linux, str) else linux[:2])


SKB_FIELDS = {"len": 0, "pkt_type": 4, "mark": 8, "queue_mapping": 12, "protocol": 16, "vlan_present": 20, "vlan_tci": 24, "vlan_proto": 28, "priority": 32,
              "ingress_ifindex": 36, "ifindex": 40, "tc_index": 44, "cb0": 48, "cb4": 64, "hash": 68, "napi_id": 84, "gso_segs": 164, "gso_size": 176}  # fmt: skip
TC_FIELDS = {"tc_classid": 72, "wire_len": 160}


@pytest.mark.kernel
@pytest.mark.parametrize("type", SKB_TYPES)
@pytest.mark.parametrize("kind", TYPES_OF_FRAMES)
@pytest.mark.parametrize("mac", MACS)
def test_context_fields(kernel, type, mac, kind):
    """All fields of a fresh skb, one after the other, with and without a context of the caller's."""
    if kind in ("ip", "ipv6"):
        data = frame(mac, kind, 80)
    else:
        data = frame(mac, kind)
    for name, off in (SKB_FIELDS if type == SOCKET_FILTER else SKB_FIELDS | TC_FIELDS).items():
        code = assemble(f"r0 = *(u32 *)(r1 {off:+})\nexit")
        for ctx_out in (0, 192):
            ours, linux = both(kernel, type, code, data, ctx_out=ctx_out)
            assert ours == linux, (name, ctx_out)


GIVEN = {
    "mark": {8: 77}, "priority": {32: 3}, "cb": {48: 1, 52: 2, 64: 5}, "tstamp": {152: 9, 156: 1}, "wire_len": {160: 64}, "wire_len too small": {160: 10},
    "wire_len large": {160: 65536}, "wire_len too large": {160: 65537}, "gso_segs": {164: 65535}, "gso_segs too large": {164: 65536}, "gso_size": {176: 100},
    "hwtstamp": {184: 5}, "ifindex 1": {40: 1}, "ifindex unknown": {40: 123456}, "ingress_ifindex": {36: 1}, "len": {0: 1}, "pkt_type": {4: 1},
    "queue_mapping": {12: 1}, "protocol": {16: 8}, "vlan_tci": {24: 1}, "tc_index": {44: 1}, "hash": {68: 1}, "tc_classid": {72: 1}, "data": {76: 1},
    "napi_id": {84: 1}, "family": {88: 1}, "data_meta": {140: 1}, "sk": {168: 1}, "tstamp_type": {180: 1},
}  # fmt: skip


def skb_context(words: dict[int, int], size: int = 192) -> bytes:
    ctx = bytearray(max(size, 192))
    for off, value in words.items():
        struct.pack_into("<I", ctx, off, value)
    return bytes(ctx[:size])


@pytest.mark.kernel
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("type", SKB_TYPES)
def test_given_skb_context(kernel, type, given):
    ours, linux = both(kernel, type, PASS, frame(), skb_context(GIVEN[given]), 192)
    assert ours == linux


@pytest.mark.kernel
def test_written_context_comes_back(kernel):
    code = assemble("".join(f"r2 = {value}\n*(u32 *)(r1 {off:+}) = r2\n" for off, value in ((8, 7), (32, 8), (44, 9), (48, 10), (64, 11), (72, 12))) + "r0 = 0\nexit")
    ours, linux = both(kernel, SCHED_CLS, code, frame(), skb_context({8: 1, 48: 2}), 192)
    assert ours == linux
    assert struct.unpack_from("<I", ours[2], 8) == (7,)


@pytest.mark.kernel
@pytest.mark.parametrize("size", (4, 12, 100, 191, 193, 200))
@pytest.mark.parametrize("room", (0, 8, 192, 256))
def test_context_sizes(kernel, size, room):
    ours, linux = both(kernel, SCHED_CLS, PASS, frame(), skb_context({8: 5}, size), room)
    assert ours == linux


@pytest.mark.kernel
def test_long_context_must_end_in_zeroes(kernel):
    ours, linux = both(kernel, SCHED_CLS, PASS, frame(), skb_context({8: 5}) + b"\0\0\1", 192)
    assert ours == linux == "E2BIG"


XDP_CONTEXTS = [
    (0, 64, 0, 1, 0, 0), (0, 64, 0, 0, 0, 0), (4, 64, 0, 0, 0, 0), (3, 64, 0, 0, 0, 0), (216, 64, 0, 0, 0, 0), (32, 64, 0, 0, 0, 0), (48, 64, 0, 0, 0, 0), (52, 64, 0, 0, 0, 0), (64, 64, 0, 0, 0, 0),
    (68, 64, 0, 0, 0, 0), (0, 63, 0, 0, 0, 0), (0, 65, 0, 0, 0, 0), (0, 64, 4, 0, 0, 0), (0, 64, 0, 0, 0, 1), (0, 64, 0, 0, 3, 0), (0, 64, 0, 99999, 0, 0),
    (0, 64, 0, 1, 99, 0), (0, 20, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0), (8, 20, 0, 0, 0, 0), (8, 4, 0, 0, 0, 0),
]  # fmt: skip
#: r0 = bytes of the packet and, 12 bits up, of its metadata
LENGTHS = "r2 = *(u32 *)(r1 +0)\nr3 = *(u32 *)(r1 +4)\nr4 = *(u32 *)(r1 +8)\nr0 = r3\nr0 -= r2\nr2 -= r4\nr2 <<= 12\nr0 += r2\nexit"


@pytest.mark.kernel
@pytest.mark.parametrize("ctx", XDP_CONTEXTS, ids=str)
@pytest.mark.parametrize("room", (0, 8, 24))
def test_given_xdp_context(kernel, ctx, room):
    ours, linux = both(kernel, XDP, assemble(LENGTHS), frame(), struct.pack("<6I", *ctx), room)
    assert ours == linux


@pytest.mark.kernel
def test_metadata_of_a_large_packet(kernel):
    for meta, size in itertools.product((0, 4, 32, 216), (240, 3300, 3488, 3520)):
        ours, linux = both(kernel, XDP, assemble(LENGTHS), frame(size=size), struct.pack("<6I", meta, size, 0, 0, 0, 0), 24)
        assert ours == linux, (meta, size)


@pytest.mark.kernel
def test_xdp_context_out_alone_shows_an_empty_packet(kernel):
    ours, linux = both(kernel, XDP, assemble(LENGTHS), frame(), ctx_out=24)
    assert ours == linux


@pytest.mark.kernel
@pytest.mark.parametrize("field", (12, 16))
def test_xdp_interface_and_queue(kernel, field):
    ours, linux = both(kernel, XDP, assemble(f"r0 = *(u32 *)(r1 +{field})\nexit"), frame())
    assert ours == linux


@pytest.mark.kernel
@pytest.mark.parametrize("type", SKB_TYPES)
@pytest.mark.parametrize("bits", (8, 16, 32))
def test_legacy_packet_loads(kernel, type, bits):
    for off in (0, 1, 12, 46, 47, 48, 49, 50, 51, 60, 61, 62, 63, 64, -0x100000, -0x100000 + 20, -0x100000 + 49, -0x200000, -0x200000 + 12, -0x200000 + 62,
                -0x1000, -1, 0x7FFFFFFF):  # fmt: skip
        for source in (f"r6 = r1\nr0 = *(u{bits} *)skb[{off}]\nexit", f"r6 = r1\nr2 = 3\nr0 = *(u{bits} *)skb[r2 + {off}]\nexit"):
            ours, linux = both(kernel, type, assemble(source), frame())
            assert ours == linux, source


@pytest.mark.kernel
def test_packet_is_not_reset_between_repeats(kernel):
    count = """
        r2 = *(u32 *)(r1 +0)
        r3 = *(u32 *)(r1 +4)
        r4 = r2
        r4 += 1
        if r4 > r3 goto out
        r0 = *(u8 *)(r2 +0)
        r0 += 1
        *(u8 *)(r2 +0) = r0
    out:
        r0 &= 255
        exit"""
    code = assemble(count.replace("r2 = *(u32 *)(r1 +0)\n", "r0 = 0\nr2 = *(u32 *)(r1 +0)\n"))
    with HookedProgram(XDP, code) as ours, kernel.KernelProgram.from_insns(XDP, code) as linux:
        got, wanted = ours.run(bytes(64), repeat=9), linux.run(bytes(64), repeat=9)
    assert (got.retval, got.data) == (wanted.retval, wanted.data)
    assert got.retval == 9


@pytest.mark.kernel
@pytest.mark.parametrize("meta", (0, 4, 32, 48))
@pytest.mark.parametrize("helper", (44, 54, 65), ids=("adjust_head", "adjust_meta", "adjust_tail"))
def test_room_round_an_xdp_packet(kernel, meta, helper):
    """How far the helpers may move the ends of the frame, with and without metadata in front."""
    edges = {44: (-256, -216, -215, -212, -1, 0, 10, 50, 51), 54: (-220, -216, -212, -4, -2, 0, 4, 48), 65: (-64, -51, -50, -1, 0, 1, 3455, 3456, 3457, 3500, 3504, 3508)}
    for delta in edges[helper] + tuple(edge + meta for edge in edges[helper]) + tuple(edge - meta for edge in edges[helper]):
        code = assemble(f"r2 = {delta}\ncall {helper}\nexit")
        ours, linux = both(kernel, XDP, code, frame(), struct.pack("<6I", meta, 64, 0, 0, 0, 0), 24)
        assert ours == linux, delta


@pytest.mark.kernel
@pytest.mark.parametrize("size", (65535, 69632, 73151, 73152, 73153, 77249, 300000))
def test_largest_xdp_packets(kernel, size):
    """One page and 17 fragments of a page each; what is more has no memory."""
    ours, linux = both(kernel, XDP, PASS, bytes(size), data_out=1 << 19)
    assert ours == linux
    assert (ours == "ENOMEM") == (size > 73152)


@pytest.mark.kernel
@pytest.mark.parametrize(("size", "data_end"), [(73000, 0), (73000, 3000), (73000, 73000), (69632, 0), (69633, 0), (77000, 77000)])
def test_largest_xdp_packets_with_a_context(kernel, size, data_end):
    ours, linux = both(kernel, XDP, PASS, bytes(size), struct.pack("<6I", 0, data_end, 0, 0, 0, 0), data_out=1 << 19)
    assert ours == linux


@pytest.mark.kernel
@pytest.mark.parametrize("type", TYPES)
def test_an_empty_context_is_refused(kernel, type):
    """bpf(2): an address needs a size. Ours through the same struct, with an address and no bytes."""
    from shmbpf.testing.bpf_syscall import PROG_TEST_RUN, bpf

    with HookedProgram(type, PASS) as ours:
        assert attempt(lambda: ours.run(frame(), ctx=b"")) == "EINVAL"
    with kernel.KernelProgram.from_insns(type, PASS) as linux:
        memory = ctypes.create_string_buffer(frame(), 256)
        attr = struct.pack("=4I2Q4I2Q3I", linux.fd, 0, 64, 0, ctypes.addressof(memory), 0, 1, 0, 0, 0, ctypes.addressof(memory), 0, 0, 0, 0)
        assert attempt(lambda: bpf(PROG_TEST_RUN, attr)) == "EINVAL"
