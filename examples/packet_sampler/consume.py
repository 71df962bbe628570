#!/usr/bin/env python3
"""Prints the samples of a running `packet_sampler` one line each, as tcpdump does, and writes them to a pcapng file.

    consume.py --ns NAMESPACE [--out samples.pcapng] [--idle SECONDS]

Ends when no sample has come for --idle seconds, or with Ctrl-C.
"""

import argparse
import ipaddress
import struct
import sys
import time

import shmbpf
from shmbpf import Lost

SAMPLE = struct.Struct("=IIQ")  # struct sample of prog.bpf.c
ETHERTYPES = {0x0806: "ARP", 0x8100: "802.1Q"}
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}


def describe(frame: bytes) -> str:
    """`IP 10.0.0.1.80 > 10.0.0.2.41000: TCP` for an Ethernet frame, or its ethertype."""
    ethertype = int.from_bytes(frame[12:14])
    if ethertype == 0x0800 and len(frame) >= 34:
        source, target, protocol, at = frame[26:30], frame[30:34], frame[23], 14 + (frame[14] & 15) * 4
    elif ethertype == 0x86DD and len(frame) >= 54:
        source, target, protocol, at = frame[22:38], frame[38:54], frame[20], 54
    else:
        return ETHERTYPES.get(ethertype, f"ethertype {ethertype:#06x}")
    ends = [str(ipaddress.ip_address(address)) for address in (source, target)]
    if protocol in (6, 17) and len(frame) >= at + 4:
        ends = [f"{end}.{port}" for end, port in zip(ends, struct.unpack_from(">HH", frame, at), strict=True)]
    return f"{'IP' if len(source) == 4 else 'IP6'} {ends[0]} > {ends[1]}: {PROTOCOLS.get(protocol, f'protocol {protocol}')}"


class PcapngWriter:
    """The three kinds of block a capture needs: section header, one Ethernet interface (times in ns), packets."""

    def __init__(self, file):
        self._file = file
        self._block(0x0A0D0D0A, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1))
        self._block(1, struct.pack("=HHI", 1, 0, 0) + struct.pack("=HHB3xHH", 9, 1, 9, 0, 0))

    def write(self, time_ns: int, frame: bytes, length: int) -> None:
        """One packet of `length` bytes, of which `frame` is the beginning."""
        head = struct.pack("=IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(frame), length)
        self._block(6, head + frame + bytes(-len(frame) % 4))

    def _block(self, kind: int, body: bytes) -> None:
        size = struct.pack("=I", len(body) + 12)
        self._file.write(struct.pack("=I", kind) + size + body + size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ns", default="default")
    parser.add_argument("--out", type=argparse.FileType("wb"))
    parser.add_argument("--idle", type=float)
    options = parser.parse_args()
    boot_ns = time.time_ns() - time.monotonic_ns()  # samples carry CLOCK_MONOTONIC
    writer = PcapngWriter(options.out) if options.out else None
    samples = lost = 0
    events = shmbpf.open_map("samples", ns=options.ns).records(timeout=options.idle)
    print("listening", file=sys.stderr, flush=True)
    try:
        for event in events:
            if isinstance(event, Lost):
                lost += event.count
                print(f"CPU {event.cpu}: {event.count} samples lost here")
                continue
            length, captured, _ = SAMPLE.unpack_from(event.data)
            frame = event.data[SAMPLE.size:SAMPLE.size + captured]  # padding follows
            when = boot_ns + event.time_ns
            print(f"{time.strftime('%H:%M:%S', time.localtime(when // 10**9))}.{when % 10**9 // 1000:06d} cpu {event.cpu} {describe(frame)}, length {length}")
            if writer:
                writer.write(when, frame, length)
            samples += 1
    except KeyboardInterrupt:
        pass
    print(f"{samples} samples, {lost} lost", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
