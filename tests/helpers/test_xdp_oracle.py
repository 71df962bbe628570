"""XDP helpers: the same calls here and in Linux."""

from __future__ import annotations

import random

import helper_packets as packets
import pytest
from helper_calls import CTX, XDP, Call, call, run_here, run_in_kernel

pytestmark = pytest.mark.kernel


def head(delta: int) -> Call:
    return call("xdp_adjust_head", CTX, delta)


def meta(delta: int) -> Call:
    return call("xdp_adjust_meta", CTX, delta)


def tail(delta: int) -> Call:
    return call("xdp_adjust_tail", CTX, delta)


LENGTH = call("xdp_get_buff_len", CTX)
CASES = [
    ("push", [head(-20), LENGTH]),
    ("push all", [head(-217), head(-216), head(-1)]),
    ("pull to a header", [head(85), head(84), head(1), LENGTH]),
    ("extremes", [head(-(1 << 31)), head((1 << 31) - 1), meta(-(1 << 31)), meta((1 << 31) - 1), tail(-(1 << 31)), tail((1 << 31) - 1)]),
    ("metadata", [meta(-4), meta(-28), meta(8), meta(24)]),
    ("metadata limits", [meta(-216), meta(-4), meta(4), meta(216), meta(4), meta(-217), meta(-220)]),
    ("odd metadata", [meta(-3), meta(-4), meta(1), meta(2)]),
    ("head moves metadata", [meta(-32), head(-100), head(40)]),
    ("head keeps metadata off the frame", [meta(-32), head(-185), head(-184)]),
    ("metadata after push", [head(-200), meta(-16), meta(-20)]),
    ("cut", [tail(-20), LENGTH]),
    ("cut to a header", [tail(-85), tail(-84), tail(-1)]),
    ("grow", [tail(40), LENGTH]),
    ("grow all", [tail(3423), tail(3422), tail(1)]),
    ("load", [call("xdp_load_bytes", CTX, 0, bytes(20), 20), call("xdp_load_bytes", CTX, 78, bytes(20), 20)]),
    ("load behind the end", [call("xdp_load_bytes", CTX, 79, b"\xff" * 20, 20), call("xdp_load_bytes", CTX, 0xFFFF, b"\xff" * 4, 4)]),
    ("load far", [call("xdp_load_bytes", CTX, 0x10000, b"\xff" * 4, 4), call("xdp_load_bytes", CTX, -1, b"\xff" * 4, 4)]),
    ("store", [call("xdp_store_bytes", CTX, 94, b"abcd", 4), call("xdp_store_bytes", CTX, 95, b"abcd", 4)]),
    ("redirect", [call("redirect", 1, 0)]),
    ("redirect with flags", [call("redirect", 1, 1), call("redirect", 1, 1 << 32)]),
    ("csum diff", [call("csum_diff", b"abcdefgh", 8, b"ABCD", 4, 77)]),
]


@pytest.mark.parametrize("calls", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_xdp_calls_do_what_linux_does(calls):
    assert run_here(XDP, calls, packets.IPV4) == run_in_kernel(XDP, calls, packets.IPV4)


def random_call(source: random.Random) -> Call:
    data = source.randbytes(source.choice([1, 4, 16]))
    delta = source.choice([source.randrange(-300, 300), source.randrange(-60, 61, 4), source.randrange(-20, 20)])
    offset = source.choice([source.randrange(300), 0xFFFF, 0x10000])
    return source.choice([
        head(delta), meta(delta), tail(delta), LENGTH,
        call("xdp_load_bytes", CTX, offset, data, len(data)), call("xdp_store_bytes", CTX, offset, data, len(data)),
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_random_sequences_do_what_linux_does(seed):
    source = random.Random(seed)
    for _ in range(60):
        packet, calls = source.choice(packets.ALL), [random_call(source) for _ in range(source.randrange(1, 9))]
        assert run_here(XDP, calls, packet) == run_in_kernel(XDP, calls, packet), calls
