"""ns per packet of the packet path: producer alone, worker alone with a program of two instructions, with and without output files.

    python tests/bench/packet_path.py [packets]
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time

from shmbpf._ffi import lib
from tests.support.captures import Packet, flow_frame, pcap
from tests.support.device import TC, XDP, Bench, capture_reader, insn, returning

#: r0 = *(u8 *)(data + 14) after a bounds check against data_end, then XDP_PASS: what the smallest real parser does
PARSER = (insn(0x61, 2, 1, 0) + insn(0x61, 3, 1, 4) + insn(0xBF, 4, 2) + insn(0x07, 4, imm=34) + insn(0x2D, 4, 3, 1) + insn(0x71, 0, 2, 14)
          + insn(0xB7, 0, imm=2) + insn(0x95))


def rounds(bench: Bench, data: bytes, count: int, mapped: bool, out: str | None = None) -> tuple[float, float]:
    """(ns per packet fed, ns per packet worked): the median of rounds in which the queue is filled and emptied, CPU time."""
    worker, feed, fed, worked = bench.worker(), bench.feed(), [], []
    if out:
        worker.out(os.open(out, os.O_RDONLY))
    reader = capture_reader(data)
    if mapped:
        feed.source = 0
        worker.state.source[0], worker.state.source_bytes[0] = reader.base, reader.bytes
    bench.dev.closed = 1
    while feed.packets < count:
        before = feed.packets
        feed.max_packets = before + (5000 if mapped else 1000)
        start = time.thread_time_ns()
        lib.net_feed_capture(feed, reader, 10**10)
        middle = time.thread_time_ns()
        assert worker.work() == lib.NET_WORK_CLOSED
        end = time.thread_time_ns()
        if feed.packets > before:
            fed.append((middle - start) / (feed.packets - before))
            worked.append((end - middle) / (feed.packets - before))
    assert bench.stats().packets == count
    return statistics.median(fed), statistics.median(worked)


def main(count: int = 400_000) -> None:
    """Prints one line per variant."""
    rng = random.Random(1)
    frames = [flow_frame(flow, 0, rng.choice((60, 60, 120, 400, 1400))) for flow in range(2000)]
    data = pcap([Packet(rng.choice(frames)) for _ in range(count)])
    print(f"{count} packets, {len(data) // count - 16} bytes on average")
    for name, hook, code, mapped, keep in [("no program, mapped", XDP, None, True, False), ("XDP return, mapped", XDP, returning(2), True, False),
                                           ("XDP return, copied", XDP, returning(2), False, False), ("XDP parser, mapped", XDP, PARSER, True, False),
                                           ("TC return, mapped", TC, returning(0), True, False), ("XDP return, output", XDP, returning(2), True, True)]:
        with Bench(1) as bench, tempfile.TemporaryDirectory() as out:
            if code:
                bench.attach(hook, code)
            fed, worked = rounds(bench, data, count, mapped, out if keep else None)
            run = bench.stats().run_ns / max(1, bench.stats().runs[hook])
            print(f"{name:22} feed {fed:6.1f} ns   work {worked:6.1f} ns   of it in the program (sampled) {run:6.1f} ns")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
