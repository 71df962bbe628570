"""Writers of captures in every format and byte order, and frames to put in them: small enough to truncate at each byte."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

ETHERNET = 1
RAW = 101
SLL = 113
SLL2 = 276
NULL = 0


@dataclass(frozen=True)
class Packet:
    """What a reader should give: captured bytes, time in ns since 1970, length on the wire (default: all of it)."""

    data: bytes
    ts_ns: int = 0
    wire: int | None = None
    linktype: int = ETHERNET

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return len(self.data) if self.wire is None else self.wire


def pcap(packets: list[Packet], order: str = "<", nanos: bool = False, version: tuple[int, int] = (2, 4), linktype: int = ETHERNET, snaplen: int = 65535,
         magic: int | None = None) -> bytes:
    """A classic pcap file. `magic` 0xa1b2cd34 makes the variant with longer record headers; versions before 2.3 store the lengths the other way round."""
    magic = magic or (0xA1B23C4D if nanos else 0xA1B2C3D4)
    out = [struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, linktype)]
    for packet in packets:
        unit = packet.ts_ns % 10**9 // (1 if nanos else 1000)
        lengths = (len(packet.data), packet.length)
        out.append(struct.pack(order + "IIII", packet.ts_ns // 10**9, unit, *(lengths if version >= (2, 3) else lengths[::-1])))
        out.append(bytes(8) if magic == 0xA1B2CD34 else b"")
        out.append(packet.data)
    return b"".join(out)


@dataclass
class Pcapng:
    """Blocks of a pcapng file, one after the other; `data` is the file so far."""

    order: str = "<"
    data: bytes = b""
    interfaces: int = field(default=0)

    def block(self, kind: int, body: bytes) -> Pcapng:
        """Any block; the body is padded."""
        body += bytes(-len(body) % 4)
        length = len(body) + 12
        self.data += struct.pack(self.order + "II", kind, length) + body + struct.pack(self.order + "I", length)
        return self

    def option(self, code: int, value: bytes) -> bytes:
        """One option, padded."""
        return struct.pack(self.order + "HH", code, len(value)) + value + bytes(-len(value) % 4)

    def section(self, order: str | None = None, version: tuple[int, int] = (1, 0)) -> Pcapng:
        """A section header; the byte order may change here."""
        self.order = order or self.order
        self.interfaces = 0
        return self.block(0x0A0D0D0A, struct.pack(self.order + "IHHq", 0x1A2B3C4D, *version, -1))

    def interface(self, linktype: int = ETHERNET, snaplen: int = 0, resolution: int | None = None, offset: int | None = None) -> Pcapng:
        """An interface description with the time stamp options asked for."""
        options = b"" if resolution is None else self.option(9, bytes([resolution]))
        options += b"" if offset is None else self.option(14, struct.pack(self.order + "q", offset))
        options += self.option(0, b"") if options else b""
        self.interfaces += 1
        return self.block(1, struct.pack(self.order + "HHI", linktype, 0, snaplen) + options)

    def packet(self, packet: Packet, interface: int = 0, units: int = 10**6, old: bool = False, options: bytes = b"") -> Pcapng:
        """An enhanced packet block, or an obsolete packet block."""
        stamp = packet.ts_ns * units // 10**9
        head = struct.pack(self.order + "HH", interface, 0xFFFF) if old else struct.pack(self.order + "I", interface)
        body = head + struct.pack(self.order + "IIII", stamp >> 32, stamp & 0xFFFFFFFF, len(packet.data), packet.length)
        return self.block(2 if old else 6, body + packet.data + bytes(-len(packet.data) % 4) + options)

    def simple(self, packet: Packet) -> Pcapng:
        """A simple packet block."""
        return self.block(3, struct.pack(self.order + "I", packet.length) + packet.data)


def address(text: str) -> bytes:
    """Network bytes of an IPv4 or IPv6 address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def ipv4(source: str, target: str, proto: int, payload: bytes, fragment: int = 0, options: bytes = b"") -> bytes:
    """An IPv4 packet; `fragment` is the flags and offset word."""
    words = 5 + len(options) // 4
    return struct.pack(">BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 1, fragment, 64, proto, 0) + address(source) + address(target) + options + payload


def ipv6(source: str, target: str, proto: int, payload: bytes) -> bytes:
    """An IPv6 packet; extension headers are part of the payload."""
    return struct.pack(">IHBB", 6 << 28, len(payload), proto, 64) + address(source) + address(target) + payload


def ports(source: int, target: int, rest: bytes = bytes(16)) -> bytes:
    """The start of a TCP, UDP or SCTP header."""
    return struct.pack(">HH", source, target) + rest


def ethernet(packet: bytes, tags: tuple[int, ...] = (), ethertype: int | None = None) -> bytes:
    """A frame around an IP packet; `tags` are VLAN protocols, outermost first."""
    kind = ethertype if ethertype is not None else (0x86DD if packet[0] >> 4 == 6 else 0x0800)
    head = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02"
    for number, tag in enumerate(tags):
        head += struct.pack(">HH", tag, 100 + number)
    return head + struct.pack(">H", kind) + packet


def flow_frame(flow: int, number: int = 0, size: int = 64) -> bytes:
    """A UDP frame of a flow, carrying its number in the last 8 bytes."""
    payload = ports(1024 + flow * 7 % 60000, 53, bytes(max(4, size - 50))) + struct.pack(">II", flow, number)
    return ethernet(ipv4(f"10.0.{flow >> 8 & 255}.{flow & 255}", "10.1.0.1", 17, payload))


def read_packets(path) -> list[bytes]:
    """Packet bytes of a classic little-endian pcap file (independent of the product's reader)."""
    blob, at, found = path.read_bytes(), 24, []
    while at < len(blob):
        caplen = int.from_bytes(blob[at + 8:at + 12], "little")
        found.append(blob[at + 16:at + 16 + caplen])
        at += 16 + caplen
    return found
