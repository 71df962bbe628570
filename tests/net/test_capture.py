"""cbits/net/capture.c and pcapng.c: every format in, exactly its packets out; broken input ends with a warning after its good packets."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess

import pytest

from shmbpf._ffi import ffi, lib
from tests.support.captures import ETHERNET, RAW, Packet, Pcapng, flow_frame, pcap

AGAIN, INVALID = -11, -22
PACKETS = [
    Packet(flow_frame(1, 0, 61), 1_700_000_000_123_456_000),
    Packet(flow_frame(2, 1, 90)[:60], 1_700_000_001_000_001_000, wire=90),
    Packet(b"", 1_700_000_001_000_002_000, wire=0),
    Packet(flow_frame(3, 2, 75), 1_600_000_000_999_999_000),
]


class Reader:
    """One cap_reader over bytes, in memory of exactly their size so that a sanitizer or a guard would see a read beyond them."""

    def __init__(self, data: bytes = b"", final: bool = True) -> None:
        self.cap = ffi.new("struct cap_reader *")
        lib.cap_init(self.cap)
        self.set(data, final)

    def set(self, data: bytes, final: bool) -> None:
        """Gives the whole window anew; what was parsed stays parsed."""
        self.buffer = ffi.new("uint8_t[]", data) if data else ffi.new("uint8_t[1]")
        self.cap.base, self.cap.bytes, self.cap.final = self.buffer, len(data), final

    def read(self) -> tuple[int, list[Packet]]:
        """All packets until something else than a packet comes."""
        packet, got = ffi.new("struct cap_packet *"), []
        while (ret := lib.cap_next(self.cap, packet)) == 1:
            assert packet.off + packet.caplen <= self.cap.bytes
            assert packet.len >= packet.caplen
            got.append(Packet(bytes(ffi.buffer(self.cap.base + packet.off, packet.caplen)), packet.ts_ns, packet.len, packet.linktype))
        return ret, got

    @property
    def warning(self) -> str:
        """Why it ended early."""
        return ffi.string(self.cap.warning).decode()


def read(data: bytes) -> tuple[int, list[Packet], str]:
    reader = Reader(data)
    ret, got = reader.read()
    return ret, got, reader.warning


def full(packets: list[Packet], linktype: int = ETHERNET) -> list[Packet]:
    """As a reader gives them: wire length and link type filled in."""
    return [Packet(packet.data, packet.ts_ns, packet.length, linktype) for packet in packets]


def sample_pcapng(order: str = "<") -> Pcapng:
    """One section with everything: options, unknown blocks, old and simple packets, an interface in ns with an offset."""
    capture = Pcapng(order).section().interface().block(0x0BAD, b"unknown").interface(resolution=9, offset=-5)
    capture.packet(PACKETS[0], options=capture.option(1, b"a comment") + capture.option(0, b"")).block(5, bytes(12))
    return capture.packet(PACKETS[1], 1, 10**9).packet(PACKETS[3], old=True).simple(PACKETS[0])


def sample_packets() -> list[Packet]:
    moved = Packet(PACKETS[1].data, PACKETS[1].ts_ns - 5 * 10**9, PACKETS[1].length)
    return full([PACKETS[0], moved, PACKETS[3], Packet(PACKETS[0].data, 0)])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanos", [False, True])
@pytest.mark.parametrize("version", [(2, 4), (2, 3), (2, 2), (3, 0)])
def test_pcap_of_every_byte_order_resolution_and_version_reads_the_same(order, nanos, version):
    assert read(pcap(PACKETS, order, nanos, version)) == (0, full(PACKETS), "")


@pytest.mark.parametrize("order", ["<", ">"])
def test_modified_pcap_has_longer_record_headers(order):
    assert read(pcap(PACKETS, order, magic=0xA1B2CD34)) == (0, full(PACKETS), "")


def test_nanosecond_pcap_keeps_nanoseconds():
    packet = Packet(b"x" * 20, 1_700_000_000_123_456_789)
    assert read(pcap([packet], nanos=True))[1] == full([packet])


def test_linktype_is_the_low_bits_of_the_network_word():
    assert read(pcap(PACKETS[:1], linktype=RAW | 0x14000000))[1] == full(PACKETS[:1], RAW)


def test_wire_length_is_never_below_the_captured_one():
    assert read(pcap([Packet(b"x" * 40, 0, wire=3)]))[1] == [Packet(b"x" * 40, 0, 40, ETHERNET)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_blocks_of_every_kind_are_understood_or_stepped_over(order):
    assert read(sample_pcapng(order).data) == (0, sample_packets(), "")


def test_new_section_changes_byte_order_and_forgets_interfaces():
    capture = sample_pcapng("<").section(">").interface(linktype=RAW).packet(PACKETS[0])
    assert read(capture.data) == (0, sample_packets() + full(PACKETS[:1], RAW), "")


@pytest.mark.parametrize(("resolution", "units"), [(0, 1), (3, 10**3), (6, 10**6), (9, 10**9), (12, 10**12), (0x80 | 10, 2**10), (0x80 | 32, 2**32)])
def test_time_stamp_resolution_is_honoured(resolution, units):
    packet = Packet(b"x" * 20, 1_000_000_500_000_000)
    stamp = packet.ts_ns * units // 10**9
    capture = Pcapng().section().interface(resolution=resolution).packet(packet, units=units)
    assert read(capture.data)[1][0].ts_ns == stamp * 10**9 // units


@pytest.mark.parametrize(("stamp", "offset", "expected"), [(0, -5, 0), (2**64 - 1, 2**63 - 1, 2**64 - 1), (7, 3, 3_000_007_000)])
def test_times_outside_64_bits_are_clamped(stamp, offset, expected):
    capture = Pcapng().section().interface(offset=offset)
    capture.block(6, struct.pack("<IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, 4, 4) + b"data")
    assert read(capture.data)[1][0].ts_ns == expected


def test_simple_packet_is_cut_by_the_snap_length():
    capture = Pcapng().section().interface(snaplen=10).block(3, struct.pack("<I", 100) + b"0123456789")
    assert read(capture.data)[1] == [Packet(b"0123456789", 0, 100, ETHERNET)]


def boundaries(data: bytes, count: int) -> list[int]:
    """Offsets at which the first 0, 1, ... packets are complete."""
    ends, reader, packet = [0], Reader(data), ffi.new("struct cap_packet *")
    while len(ends) <= count and lib.cap_next(reader.cap, packet) == 1:
        ends.append(reader.cap.pos)
    return ends


@pytest.mark.parametrize("data", [pcap(PACKETS), pcap(PACKETS, ">", True), sample_pcapng().data, sample_pcapng(">").data], ids=["us", "ns-be", "ng", "ng-be"])
def test_truncation_at_every_byte_keeps_the_complete_packets(data):
    expected = read(data)[1]
    ends = boundaries(data, len(expected))
    header = 24 if data[0] in (0xD4, 0xA1) else 28
    for cut in range(len(data)):
        ret, got, warning = read(data[:cut])
        complete = sum(cut >= end for end in ends[1:])
        assert got == expected[:complete], cut
        assert ret == (INVALID if cut < header else 0)
        assert ret == 0 or warning
        if ret == 0 and warning:
            assert warning.startswith(f"truncated at packet {complete + 1} (offset "), warning
            assert warning.endswith(" are left")


def test_truncation_warning_names_packet_offset_and_sizes():
    data = pcap(PACKETS[:2])
    assert read(data[:-20])[2] == f"truncated at packet 2 (offset {24 + 16 + len(PACKETS[0].data)}): record needs 76 bytes, 56 are left"


@pytest.mark.parametrize("data", [pcap(PACKETS), sample_pcapng().data, sample_pcapng(">").section("<").interface().packet(PACKETS[0]).data], ids=["pcap", "ng", "ng2"])
def test_stream_in_single_bytes_gives_the_same_packets(data):
    reader, got = Reader(b"", final=False), []
    for cut in range(len(data) + 1):
        reader.set(data[:cut], final=False)
        ret, some = reader.read()
        assert ret == AGAIN
        got += some
    reader.set(data, final=True)
    assert reader.read() == (0, [])
    assert got == read(data)[1]
    assert reader.warning == ""


def test_stream_window_may_slide():
    data, reader, got, start = pcap(PACKETS), Reader(b"", final=False), [], 0
    for cut in range(0, len(data) + 7, 7):
        reader.set(data[start:cut], final=cut >= len(data))
        got += reader.read()[1]
        start += reader.cap.pos
        reader.cap.stream_off, reader.cap.pos = start, 0
    assert got == full(PACKETS)


def test_unread_packet_comes_again():
    reader, packet = Reader(sample_pcapng().data), ffi.new("struct cap_packet *")
    for _ in range(3):
        assert lib.cap_next(reader.cap, packet) == 1
        lib.cap_unread(reader.cap, packet)
    assert (reader.cap.packets, reader.cap.truncated) == (0, 0)
    assert reader.read() == (0, sample_packets())


@pytest.mark.parametrize("data", [b"", b"\xd4", b"\xd4\xc3\xb2\xa1", b"hello, world, this is no capture", bytes(100), b"\x0a\x0d\x0d\x0a" * 20,
                                  pcap(PACKETS, version=(1, 0)), Pcapng().section(version=(2, 0)).data], ids=repr)
def test_what_is_no_capture_is_refused_with_the_reason(data):
    ret, got, warning = read(data)
    assert (ret, got) == (INVALID, [])
    assert warning


def broken(index: int, value: int) -> bytes:
    """Two good packets, then a pcap record with one word changed."""
    words = [1, 2, 60, 60]
    words[index] = value
    return pcap(PACKETS[:2]) + struct.pack("<IIII", *words) + bytes(60)


@pytest.mark.parametrize("value", [262145, 0x7FFFFFFF, 0xFFFFFFFF])
def test_absurd_captured_length_ends_a_pcap_after_its_good_packets(value):
    ret, got, warning = read(broken(2, value))
    assert (ret, got) == (0, full(PACKETS[:2]))
    assert f"captured length {value}, at most 262144" in warning


def bad_block(kind: int, length: int, body: bytes, trailer: int | None = None) -> bytes:
    good = Pcapng().section().interface().packet(PACKETS[0]).data
    return good + struct.pack("<II", kind, length) + body + struct.pack("<I", length if trailer is None else trailer)


@pytest.mark.parametrize(("data", "words"), [
    (bad_block(6, 0, bytes(64)), "has length 0"),
    (bad_block(6, 8, bytes(64)), "has length 8"),
    (bad_block(6, 33, bytes(64)), "multiple of 4"),
    (bad_block(0x99, 0xFFFFFFFC, bytes(64)), "has length 4294967292"),
    (bad_block(6, 32, bytes(20), 36), "32 at its start and 36 at its end"),
    (bad_block(6, 28, bytes(16)), "at least 32"),
    (bad_block(3, 12, b""), "at least 16"),
    (bad_block(1, 16, bytes(4)), "at least 20"),
    (bad_block(0x0A0D0D0A, 12, b""), "byte order mark"),
    (bad_block(6, 32, struct.pack("<IIIII", 7, 0, 0, 0, 0)), "packet of interface 7, the section has 1"),
    (bad_block(6, 36, struct.pack("<IIIII", 0, 0, 0, 5, 5) + bytes(4)), "captured length 5, its block has room for 4"),
    (bad_block(6, 32, struct.pack("<IIIII", 0, 0, 0, 300000, 5)), "at most 262144"),
    (bad_block(1, 24, struct.pack("<HHIHH", 1, 0, 0, 9, 40)), "option 9 of interface 1 needs 40 bytes"),
    (bad_block(1, 28, struct.pack("<HHIHHI", 1, 0, 0, 9, 1, 20)), "too fine"),
])
def test_broken_pcapng_block_ends_the_capture_after_its_good_packets(data, words):
    ret, got, warning = read(data)
    assert (ret, got) == (0, full(PACKETS[:1]))
    assert warning.startswith("broken at packet 2 (offset ")
    assert words in warning


def test_only_packets_of_remembered_interfaces_are_read():
    capture = Pcapng().section()
    for _ in range(2000):
        capture.interface()
    good = capture.packet(PACKETS[0], 1023).data
    assert read(good)[1] == full(PACKETS[:1])
    assert "packet of interface 1500, the section has 2000" in read(capture.packet(PACKETS[0], 1500).data)[2]


def test_the_end_is_final():
    reader = Reader(broken(2, 1 << 30))
    reader.read()
    warning = reader.warning
    assert [reader.read() for _ in range(3)] == [(0, [])] * 3
    assert reader.warning == warning


@pytest.mark.parametrize("seed", range(8))
def test_mutated_captures_neither_crash_nor_hang(seed):
    rng = random.Random(seed)
    originals = [pcap(PACKETS), pcap(PACKETS, ">", True, (2, 3)), sample_pcapng().data, sample_pcapng(">").section("<").interface().packet(PACKETS[0]).data]
    for _ in range(int(os.environ.get("SHMBPF_FUZZ_N", "12000")) // 8):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data))
            size = rng.choice((1, 1, 2, 4))
            value = rng.choice((0, 1, 2**31, 2**32 - 1, 4, 12, rng.getrandbits(32))) & (256**size - 1)
            data[place:place + size] = value.to_bytes(size, rng.choice(("little", "big")))
        ret, got, warning = read(bytes(data))
        assert ret in (0, INVALID)
        assert len(got) <= len(data) // 12
        assert ret == 0 or warning


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="tcpdump is not installed")
@pytest.mark.parametrize("data", [pcap(PACKETS[:2], ">"), pcap(PACKETS[:2], nanos=True), sample_pcapng().data], ids=["us-be", "ns", "ng"])
def test_tcpdump_reads_the_same_times_and_lengths(data, tmp_path):
    path = tmp_path / "sample"
    path.write_bytes(data)
    lines = subprocess.run(["tcpdump", "-r", str(path), "-tt", "-e", "-n", "--nano"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = read(data)[1]
    assert [line.split()[0] for line in lines] == [f"{packet.ts_ns // 10**9}.{packet.ts_ns % 10**9:09d}" for packet in ours]
    assert [f"length {packet.length}:" in line for packet, line in zip(ours, lines, strict=True)] == [True] * len(ours)
