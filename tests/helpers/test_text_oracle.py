"""Text helpers: strtol, strtoul, strncmp, snprintf and the tracing pair give what Linux gives."""

from __future__ import annotations

import random

import helper_packets as packets
import pytest
from helper_calls import XDP, Call, Text, Words, call, run_here, run_in_kernel

pytestmark = pytest.mark.kernel

NUMBERS = [
    b"0", b"7", b"-7", b"+7", b" \t\n42", b"42abc", b"abc", b"0x1F", b"-0x1f", b"0X", b"0xg", b"017", b"08", b"-", b" ", b"--1", b"1 2", b"0x", b"\0001",
    b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616",
    b"0" * 62 + b"12345", b"0" * 80 + b"7", b"1" * 64, b"-0", b"0b1", b"a", b"F", b"ffffffffffffffff",
]  # fmt: skip
FORMATS: list[tuple[bytes, tuple]] = [
    (b"plain", ()), (b"100%%", ()), (b"%d %i %u %x %X", (-5, -6, 1 << 40 | 7, 255, 255)), (b"%ld %lu %lx", (-5, -6, 1 << 40)),
    (b"%lld %llu %llx %llX", (-1, -1, -1, -1)), (b"[%5d][%-5d][%05d][%+d][% d]", (42, 42, 42, 42, 42)), (b"[%05x][%-8lx][%+u][%+-6d]", (171, 171, 9, 9)),
    (b"[%05d][%+05d][% 05d]", (-42, 42, 42)), (b"%s", (b"hello\0",)), (b"[%8s][%-8s][%2s]", (b"abc\0", b"abc\0", b"abc\0")), (b"%c%c%c", (0x41, 0x42, 0x143)),
    (b"[%3c][%-3c]", (0x41, 0x42)), (b"%s", (0,)), (b"%pI4", (bytes([192, 168, 0, 1]),)), (b"%pi4", (bytes([192, 168, 0, 1]),)),
    (b"%pI6", (bytes(range(16)),)), (b"%pi6", (bytes(range(16)),)), (b"%px", (0x1234,)), (b"%px.", (1 << 60,)), (b"[%20px][%-20px][%020px][%2px][%-px]", (0x1234,) * 5), (b"[%20ps][%-8pS][%20pI4]", (5, 5, 0)),
    (b"%ps", (5,)), (b"%pB,", (5,)), (b"%pI4", (0,)), (b"%d,%s;%x", (1, b"two\0", 3)),
    (b"%d" * 12, tuple(range(12))), (b"%0+- 12d|", (7,)), (b"%00d", (5,)), (b"%-010d|", (5,)), (b"%+ d", (5,)), (b"tab\tnewline\n", ()),
]  # fmt: skip
BAD_FORMATS: list[tuple[bytes, tuple]] = [
    (b"%", (1,)), (b"%y", (1,)), (b"%d", ()), (b"%d %d", (1,)), (b"%5%", (1,)), (b"%#x", (1,)), (b"%.3d", (1,)), (b"%hd", (1,)), (b"%o", (1,)), (b"%lllx", (1,)),
    (b"%l", (1,)), (b"%pM", (1,)), (b"%pI5", (1,)), (b"%pI", (1,)), (b"%px8", (1,)), (b"%psx", (1,)), (b"%sx", (b"a\0",)), (b"%s.", (b"a\0",)), (b"\x80", ()), (b"\xc3\xa9", ()),
    (b"\x01", ()), (b"\x7f", ()), (b"%\x80", ()), (b"%pI4x9.", (0,)), (b"%px5 %d", (0, 1)), (b"%p4", (1,)), (b"%p:", (1,)), (b"%pKx", (1,)), (b"%*d", (1, 2)), (b"%ks", (1,)), (b"%pks", (0,)), (b"%pus ", (0,)), (b"%pksx", (0,)),
    (b"%cx", (65,)), (b"%zu", (1,)), (b"%e", (1,)),
]  # fmt: skip


def same(*calls: Call) -> None:
    assert run_here(XDP, calls, packets.IPV4) == run_in_kernel(XDP, calls, packets.IPV4)


@pytest.mark.parametrize("name", ["strtol", "strtoul"])
@pytest.mark.parametrize("base", [0, 8, 10, 16, 7, 31, 32, 1 << 40])
def test_numbers_are_read_as_linux_reads_them(name, base):
    for text in NUMBERS:
        same(call(name, text, len(text), base, b"\xee" * 8))


def test_random_numbers_are_read_as_linux_reads_them():
    source = random.Random(1)
    for _ in range(100):
        text = bytes(source.choice(b"0123456789abfxX-+ \t\0z") for _ in range(source.randrange(1, 30)))
        same(*(call(name, text, len(text), base, bytes(8)) for name in ("strtol", "strtoul") for base in (0, 16)))


@pytest.mark.parametrize("left, size, right", [(b"abc\0", 4, b"abc"), (b"abc\0", 4, b"abd"), (b"abd\0", 4, b"abc"), (b"abcx", 3, b"abcy"), (b"ab\0x", 4, b"ab"),
                                               (b"\xff\0\0\0", 4, b"a"), (b"a\0", 2, b""), (b"abc", 3, b"abcdef")])  # fmt: skip
def test_strncmp_gives_minus_one_zero_or_one(left, size, right):
    same(call("strncmp", left, size, Text(right)))


def snprintf(fmt: bytes, args: tuple, size: int = 200) -> Call:
    words = (Words(args), 8 * len(args)) if args else (0, 0)
    return call("snprintf", b"\xee" * size, size, Text(fmt), *words)


@pytest.mark.parametrize("fmt, args", FORMATS)
def test_snprintf_writes_what_linux_writes(fmt, args):
    same(snprintf(fmt, args))


def test_snprintf_cuts_and_still_tells_the_whole_length():
    for size in (1, 5, 12, 13, 14):
        same(snprintf(b"%d %s %x", (12345, b"abc\0", 255), size))


def test_snprintf_without_a_buffer_only_measures():
    same(call("snprintf", 0, 0, Text(b"%d"), Words((12345,)), 8))


def test_odd_argument_sizes_are_refused():
    same(call("trace_vprintk", b"%d\0", 3, Words((1, 2)), 12), call("trace_vprintk", b"%d\0", 3, Words((0,) * 13), 104))


@pytest.mark.parametrize("fmt, args", FORMATS + BAD_FORMATS)
def test_tracing_accepts_and_refuses_the_same_formats(fmt, args):
    text, words = fmt + b"\0", (Words(args), 8 * len(args)) if args else (0, 0)
    same(call("trace_vprintk", text, len(text), *words))


@pytest.mark.parametrize("fmt", [b"%d %d %d\0", b"%d %d %d %d\0", b"no end", b"%s\0", b"a\0%y\0", b"\n\0", b"\0"])
def test_trace_printk_has_three_arguments(fmt):
    same(call("trace_printk", fmt, len(fmt), 0, 2, 3))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 10])
def test_long_strings_use_up_the_argument_space(count):
    """Linux keeps fetched arguments in 512 bytes: strings are cut there, and what comes after them fails."""
    same(*[call("trace_vprintk", b"%s " * count + b"%d\0", 3 * count + 3, Words((b"x" * 63 + b"\0",) * 1 + tuple([0] * (count - 1)) + (5,)), 8 * count + 8)])
