"""A consumer made to be killed: a process that puts rings of its own into the slots of all CPUs and keeps books of what it reads.

    python consumer.py NAMESPACE MAP_ID CPUS PAGES STATE_DIRECTORY [DELAY_MICROSECONDS]

Prints the ids of its rings, one line, once they are in place. The book of CPU n is STATE_DIRECTORY/n, a StateFile: it is brought up to date before the ring is told
that records are read, so it never knows less than the ring.
"""

from __future__ import annotations

import mmap
import select
import struct
import sys
import time
from pathlib import Path

from shmbpf._ffi import lib
from shmbpf.events.perf import PerfRing
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace

_COUNTS = struct.Struct("<7Q")


class Book:
    """struct state of tests/support/readers/perf_reader.c, written: two copies, and which of them holds."""

    def __init__(self, path: Path):
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._side, self.counts = 0, [0] * 7

    def enter(self, chunk: memoryview) -> None:
        """Counts the records of a chunk."""
        counts, at, size = self.counts, 0, len(chunk)
        while at < size:
            kind, _, length = struct.unpack_from("<IHH", chunk, at)
            if kind == lib.PERF_RECORD_LOST:
                counts[2] += struct.unpack_from("<Q", chunk, at + 16)[0]
            else:
                number, check = struct.unpack_from("<QQ", chunk, at + 12)
                if not counts[1]:
                    counts[4] = counts[5] = number
                counts[6] += check != number ^ 0xFFFFFFFFFFFFFFFF
                counts[3] += number - counts[5]
                counts[5] = number + 1
                counts[1] += 1
            at += length
        counts[0] += size
        self._side ^= 1
        _COUNTS.pack_into(self._memory, 8 + self._side * _COUNTS.size, *counts)
        struct.pack_into("<Q", self._memory, 0, self._side)


def main(namespace_name: str, map_id: int, cpus: int, pages: int, directory: str, delay_us: int = 0) -> None:
    with Namespace(namespace_name, role="consumer") as namespace, Map.open(namespace, map_id) as map_:
        books = [Book(Path(directory) / str(cpu)) for cpu in range(cpus)]
        rings = [PerfRing.open(map_, cpu, pages, sample_type=lib.PERF_SAMPLE_RAW) for cpu in range(cpus)]
        print(*(ring.id for ring in rings), flush=True)
        poll = select.poll()
        for ring in rings:
            poll.register(ring, select.POLLIN)
        while True:
            for ring, book in zip(rings, books, strict=True):
                for chunk in ring.chunks():
                    book.enter(chunk)
            if delay_us:
                time.sleep(delay_us / 1e6)
            elif not any([ring.arm() for ring in rings]):
                poll.poll(1000)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5], *map(int, sys.argv[6:]))
