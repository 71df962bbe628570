"""cbits/net/rss.c against the published verification vectors of the Toeplitz hash, and against a bitwise model over random frames."""

from __future__ import annotations

import random
import struct

import pytest

from shmbpf._ffi import ffi, lib
from tests.support.captures import address, ethernet, ipv4, ipv6, ports

#: key of the "Verifying the RSS Hash Calculation" page of the Windows driver documentation
MICROSOFT_KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
#: source, source port, destination, destination port, hash of the addresses, hash with ports
VECTORS = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5D1809C5, 0x10E828A2),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2CC18CD5, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
    ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4B61E985, 0x02D1FEEF),
]
SYMMETRIC_KEY = b"\x6d\x5a" * 20


def model(data: bytes, key: bytes = SYMMETRIC_KEY) -> int:
    """The definition: one 32-bit window of the key per set bit of the input."""
    bits, result = int.from_bytes(key, "big"), 0
    for number in range(len(data) * 8):
        if data[number // 8] >> (7 - number % 8) & 1:
            result ^= bits >> (len(key) * 8 - 32 - number) & 0xFFFFFFFF
    return result


def rss(frame: bytes) -> int:
    return lib.net_rss_hash(ffi.from_buffer("uint8_t[]", frame), len(frame))


@pytest.mark.parametrize(("source", "source_port", "target", "target_port", "addresses", "with_ports"), VECTORS)
def test_toeplitz_gives_the_published_values(source, source_port, target, target_port, addresses, with_ports):
    data = address(source) + address(target)
    assert lib.net_toeplitz(MICROSOFT_KEY, data, len(data)) == addresses == model(data, MICROSOFT_KEY)
    data += struct.pack(">HH", source_port, target_port)
    assert lib.net_toeplitz(MICROSOFT_KEY, data, len(data)) == with_ports


def random_flow(rng: random.Random) -> tuple[bytes, bytes, bytes]:
    """(frame, the same flow's other direction, what should be hashed)."""
    make, length = (ipv4, 4) if rng.random() < 0.5 else (ipv6, 16)
    source, target = (".".join(str(rng.randrange(256)) for _ in range(4)) if length == 4 else ":".join(f"{rng.getrandbits(16):x}" for _ in range(8)) for _ in range(2))
    proto, tags = rng.choice((1, 6, 17, 132, 47)), tuple(rng.choices((0x8100, 0x88A8, 0x9100), k=rng.randrange(4)))
    one, other = rng.randrange(65536), rng.randrange(65536)
    expected = address(source) + address(target) + (struct.pack(">HH", one, other) if proto in (6, 17, 132) else b"")
    return ethernet(make(source, target, proto, ports(one, other)), tags), ethernet(make(target, source, proto, ports(other, one)), tags), expected


@pytest.mark.parametrize("seed", range(4))
def test_hash_equals_the_bitwise_model_and_is_symmetric(seed):
    rng = random.Random(seed)
    for _ in range(400):
        frame, back, expected = random_flow(rng)
        assert rss(frame) == rss(back) == model(expected)


def test_ip_options_and_extension_headers_are_stepped_over():
    assert rss(ethernet(ipv4("10.0.0.1", "10.0.0.2", 6, ports(7, 9), options=bytes(8)))) == rss(ethernet(ipv4("10.0.0.1", "10.0.0.2", 6, ports(7, 9))))
    extended = bytes([43, 1]) + bytes(14) + bytes([6, 0]) + bytes(6) + ports(7, 9)
    assert rss(ethernet(ipv6("fe80::1", "fe80::2", 0, extended))) == rss(ethernet(ipv6("fe80::1", "fe80::2", 6, ports(7, 9))))


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x20B9])
def test_every_fragment_of_a_datagram_has_the_same_hash(fragment):
    expected = model(address("10.0.0.1") + address("10.0.0.2"))
    assert rss(ethernet(ipv4("10.0.0.1", "10.0.0.2", 17, ports(7, 9), fragment=fragment))) == expected
    assert rss(ethernet(ipv6("fe80::1", "fe80::2", 44, bytes([17, 0, 0, 1, 0, 0, 0, 1]) + ports(7, 9)))) == model(address("fe80::1") + address("fe80::2"))


def test_do_not_fragment_is_no_fragment():
    assert rss(ethernet(ipv4("10.0.0.1", "10.0.0.2", 17, ports(7, 9), fragment=0x4000))) == rss(ethernet(ipv4("10.0.0.1", "10.0.0.2", 17, ports(7, 9))))


@pytest.mark.parametrize("frame", [b"", bytes(13), ethernet(bytes(40), ethertype=0x0806), ethernet(b"\x45" + bytes(18)), ethernet(b"\x60" + bytes(38)),
                                   ethernet(bytes(60), tags=(0x8100,) * 9, ethertype=0x0800), ethernet(b"\x55" + bytes(40), ethertype=0x0800)], ids=len)
def test_what_is_not_ip_has_no_hash(frame):
    assert rss(frame) == 0


def test_cut_frames_hash_what_is_there():
    frame = ethernet(ipv6("fe80::1", "fe80::2", 0, bytes([6, 3]) + bytes(30) + ports(7, 9)))
    addresses = model(address("fe80::1") + address("fe80::2"))
    hashes = [rss(frame[:cut]) for cut in range(len(frame) + 1)]
    assert hashes[:54] == [0] * 54
    assert hashes[54:90] == [addresses] * 36
    assert set(hashes[90:]) == {rss(frame)} != {addresses}


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 64])
def test_flows_spread_evenly_over_the_queues(cpus):
    count = [0] * cpus
    for host in range(64):
        for port in range(64):
            count[lib.net_rss_queue(rss(ethernet(ipv4(f"10.0.0.{host}", "10.1.0.1", 6, ports(1024 + port * 13, 443)))), cpus)] += 1
    assert min(count) > 0
    assert max(count) <= 2.5 * 4096 / cpus
