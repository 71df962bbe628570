"""Write a big capture of made-up traffic: `generate.py --packets 1000000 --flows 10000 --out big.pcap`.

The same options give the same bytes. A flow is one direction of a TCP or UDP conversation over IPv4 or IPv6, some with a VLAN tag, and every flow
has at least one packet. Flows start one after another and old ones carry more packets, so the load is skewed as real load is. Sequence
numbers advance and every checksum is right. Standard library only.
"""

from __future__ import annotations

import argparse
import ipaddress
import random
import struct
import sys
from dataclasses import dataclass
from typing import BinaryIO, Iterator

_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
_EPOCH = 1_700_000_000  #: the first packet's time, in seconds
_RECORD = struct.Struct("<IIII")
_IPV4 = struct.Struct(">BBHHHBBH8s")
_IPV6 = struct.Struct(">IHBB32s")
_TCP = struct.Struct(">HHIIBBHHH")
_UDP = struct.Struct(">HHHH")
_IPPROTO_TCP, _IPPROTO_UDP = 6, 17
_SYN, _ACK, _PSH = 2, 16, 8
#: Payload sizes by how often they come: acknowledgements, requests and lookups, full frames.
_SIZES = (0, 0, 0, 6, 32, 64, 120, 256, 512, 900, 1280, 1400, 1400, 1400)
_WRITE_BYTES = 1 << 20


def word_sum(data: bytes) -> int:
    """Sum of the 16-bit big-endian words, an odd byte padded: the raw material of an Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) & 1)
    return sum(struct.unpack(f">{len(data) // 2}H", data))


def folded(total: int) -> int:
    """The checksum of what was summed up."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


_PATTERN = bytes(range(32, 127)) * 16
PAYLOADS = {size: (_PATTERN[:size], word_sum(_PATTERN[:size])) for size in set(_SIZES)}


@dataclass(slots=True)
class Flow:
    """One direction of a conversation; `sequence` is the only thing that changes."""

    link: bytes  #: Ethernet header, VLAN tag included
    addresses: bytes  #: source and destination, 8 or 32 bytes
    ports: tuple[int, int]
    protocol: int
    fixed_sum: int  #: of the pseudo header's addresses and protocol, and of the ports
    sequence: int
    started: bool = False

    @classmethod
    def make(cls, number: int, dice: random.Random) -> Flow:
        """Flow `number`: the source port and address count up, so no two flows are equal."""
        is_v6, is_tagged = dice.random() < 0.25, dice.random() < 0.1
        protocol = _IPPROTO_TCP if dice.random() < 0.7 else _IPPROTO_UDP
        client, port = divmod(number, 20000)
        if is_v6:
            ends = ipaddress.ip_address("2001:db8::1:0") + client, ipaddress.ip_address("2001:db8::2:0") + dice.randrange(64)
        else:
            ends = ipaddress.ip_address("10.1.0.0") + client, ipaddress.ip_address("10.2.0.0") + dice.randrange(64)
        addresses = ends[0].packed + ends[1].packed
        ports = 20000 + port, dice.choice((80, 443, 53, 8080, 5000))
        macs = bytes.fromhex("020000000002") + b"\x02\0\0\1" + struct.pack(">H", client & 0xFFFF)
        tag = struct.pack(">HH", 0x8100, dice.choice((5, 7))) if is_tagged else b""
        link = macs + tag + (b"\x86\xdd" if is_v6 else b"\x08\0")
        return cls(link, addresses, ports, protocol, word_sum(addresses) + protocol + sum(ports), dice.getrandbits(32))

    def frame(self, size: int) -> bytes:
        """The flow's next packet, with `size` bytes of payload; a TCP flow begins with its SYN."""
        if self.protocol == _IPPROTO_TCP:
            segment = self._tcp(size)
        else:
            payload, payload_sum = PAYLOADS[size]
            length = 8 + size
            checksum = folded(self.fixed_sum + 2 * length + payload_sum) or 0xFFFF
            segment = _UDP.pack(*self.ports, length, checksum) + payload
        if len(self.addresses) == 32:
            return self.link + _IPV6.pack(6 << 28, len(segment), self.protocol, 64, self.addresses) + segment
        length = 20 + len(segment)
        checksum = folded(0x4500 + length + 0x4000 + (64 << 8) + self.protocol + word_sum(self.addresses))
        return self.link + _IPV4.pack(0x45, 0, length, 0, 0x4000, 64, self.protocol, checksum, self.addresses) + segment

    def _tcp(self, size: int) -> bytes:
        flags = _ACK | _PSH if size else _ACK
        if not self.started:
            self.started, size, flags = True, 0, _SYN
        payload, payload_sum = PAYLOADS[size]
        sequence, acknowledged = self.sequence, 0 if flags == _SYN else 1
        self.sequence = (sequence + size + (flags == _SYN)) & 0xFFFFFFFF
        total = self.fixed_sum + 20 + size + (sequence >> 16) + (sequence & 0xFFFF) + acknowledged + (0x5000 | flags) + 0xFFFF + payload_sum
        return _TCP.pack(*self.ports, sequence, acknowledged, 0x50, flags, 0xFFFF, folded(total), 0) + payload


def frames(packets: int, flows: int, seed: int) -> Iterator[bytes]:
    """Yield the frames. Packet `i * packets // flows` is the first one of flow i; the others belong to a flow that has begun."""
    dice = random.Random(seed)
    live: list[Flow] = []
    draw, sizes, kinds = dice.random, _SIZES, len(_SIZES)
    for number in range(packets):
        if len(live) * packets // flows <= number and len(live) < flows:
            live.append(Flow.make(len(live), dice))
            flow = live[-1]
        else:
            flow = live[int(draw() ** 2 * len(live))]
        yield flow.frame(sizes[int(draw() * kinds)])


def write_pcap(out: BinaryIO, packets: int, flows: int, seed: int) -> None:
    """Write a pcap file with microseconds; packets are 3 us apart."""
    chunk = bytearray(_PCAP_HEADER)
    for number, frame in enumerate(frames(packets, flows, seed)):
        seconds, micros = divmod(3 * number, 1_000_000)
        chunk += _RECORD.pack(_EPOCH + seconds, micros, len(frame), len(frame))
        chunk += frame
        if len(chunk) >= _WRITE_BYTES:
            out.write(chunk)
            chunk.clear()
    out.write(chunk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--packets", type=int, default=1_000_000, metavar="N", help="how many packets (default: %(default)s)")
    parser.add_argument("--flows", type=int, default=10_000, metavar="N", help="how many flows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another number gives other traffic (default: %(default)s)")
    parser.add_argument("--out", default="generated.pcap", metavar="FILE", help="where to; - is stdout (default: %(default)s)")
    options = parser.parse_args()
    if not 1 <= options.flows <= options.packets:
        parser.error(f"--flows must be between 1 and --packets ({options.packets}): every flow has at least one packet, got {options.flows}")
    if options.out == "-":
        write_pcap(sys.stdout.buffer, options.packets, options.flows, options.seed)
    else:
        with open(options.out, "wb") as out:
            write_pcap(out, options.packets, options.flows, options.seed)


if __name__ == "__main__":
    main()
