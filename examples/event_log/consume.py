#!/usr/bin/env python3
"""Follows the log of a running `event_log` with asyncio: one task prints the connections, another says every second how many there were.

    consume.py --ns NAMESPACE [--idle SECONDS]

Ends when nothing has come for --idle seconds, or with Ctrl-C.
"""

import argparse
import asyncio
import ipaddress
import struct
import sys

import shmbpf

CONNECTION = struct.Struct("=Q4s4sHHI")  # struct connection of prog.bpf.c
WHAT = ["opened", "accepted", "closed", "reset"]


async def follow(events, counts: dict[str, int]) -> None:
    """Prints each record as it comes."""
    async for event in events:
        time_ns, source, target, sport, dport, what = CONNECTION.unpack_from(event.data)
        counts[WHAT[what]] += 1
        print(f"{time_ns / 1e9:.6f} {ipaddress.ip_address(source)}:{sport} > {ipaddress.ip_address(target)}:{dport} {WHAT[what]}")


async def report(counts: dict[str, int]) -> None:
    """A line every second; nothing of this waits for events."""
    while True:
        await asyncio.sleep(1)
        print(", ".join(f"{count} {what}" for what, count in counts.items()), file=sys.stderr)


async def watch(options) -> None:
    counts = dict.fromkeys(WHAT, 0)
    events = shmbpf.open_map("connections", ns=options.ns).records(timeout=options.idle)
    print("listening", file=sys.stderr, flush=True)
    reporter = asyncio.create_task(report(counts))
    try:
        await follow(events, counts)
    finally:
        reporter.cancel()
        print("in all: " + ", ".join(f"{count} {what}" for what, count in counts.items()), file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ns", default="default")
    parser.add_argument("--idle", type=float)
    try:
        asyncio.run(watch(parser.parse_args()))
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
