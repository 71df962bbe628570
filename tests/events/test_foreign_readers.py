"""Readers that use the public protocols alone, and have nothing of this project in them, drain rings and ring buffers while the CPUs write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from machines import CURRENT_CPU, RAW, Linux, Ours, RingSpec
from ringbuf_pipe import OUTPUT, RESERVE, Pipe
from ringbuf_pipe import SOURCE as RINGBUF_SOURCE
from traffic import EVENTS_PER_PACKET, ForeignReader, traffic, wait_until

from shmbpf.events.perf import PerfRing
from shmbpf.shm.segment import SHM_DIR
from shmbpf.testing.kernel_perf import RingbufView

RECORD = struct.Struct("<3Q40x")


def payloads(lines: list[str]) -> list[tuple[int, int, int]]:
    """(number, check, cpu) of the samples."""
    return [RECORD.unpack_from(bytes.fromhex(line[2:])) for line in lines if line.startswith("S ")]


@pytest.mark.parametrize("cpus", [2, 4])
def test_perf_rings_are_drained_while_the_cpus_write(readers, cpus):
    with traffic(cpus) as running, ExitStack() as stack:
        rings = [stack.enter_context(PerfRing.open(running.events, cpu, 64, sample_type=RAW)) for cpu in range(cpus)]
        drains = [ForeignReader(readers["perf"], ring.path, 64) for ring in rings]
        running.send(2000)
        lines = [drain.finish() for drain in drains]
        counts = running.counts()
    assert sum(count.next for count in counts) == 2000 * EVENTS_PER_PACKET
    for cpu, (got, count) in enumerate(zip(lines, counts, strict=True)):
        assert count.ok > 0 and count.nobody == count.other == 0
        told = sum(int(line[2:]) for line in got if line.startswith("L "))
        numbers = payloads(got)
        assert len(numbers) == count.ok and told <= count.full
        assert all(check == number ^ 0xFFFFFFFFFFFFFFFF and who == cpu for number, check, who in numbers)
        assert [number for number, *_ in numbers] == sorted({number for number, *_ in numbers})


def path_of(map_) -> Path:
    return SHM_DIR / f"{map_.namespace.prefix}.map.{map_.id}"


def ringbuf_reader(readers, map_) -> ForeignReader:
    return ForeignReader(readers["ringbuf"], path_of(map_), map_.max_entries, "-1")


@contextmanager
def view_of(map_) -> Iterator[RingbufView]:
    with open(path_of(map_), "r+b") as file:
        view = RingbufView.of_fd(file.fileno(), map_.max_entries, twice=False)
    yield view
    view.close()


@pytest.mark.parametrize("cpus", [2, 4])
def test_a_ring_buffer_is_drained_while_the_cpus_write(readers, cpus):
    """In portions that fit, so that nothing is lost; ten times round the buffer."""
    with traffic(cpus, "flood") as running:
        drain = ringbuf_reader(readers, running.buffer)
        with view_of(running.buffer) as view:
            for _ in range(10):
                running.send(200)
                wait_until(lambda: view.consumer_pos == view.producer_pos, "the reader has read everything")
        numbers, counts = payloads(drain.finish()), running.counts()
    assert len(numbers) == 2000 * EVENTS_PER_PACKET
    for cpu, count in enumerate(counts):
        assert count.ok > 0 and count.full == count.other == 0
        assert [number for number, check, who in numbers if who == cpu and check == number ^ 0xFFFFFFFFFFFFFFFF] == list(range(count.ok))


@pytest.mark.kernel
def test_the_same_perf_reader_reads_the_kernels_ring(readers):
    """What makes it a foreign reader: it gives the same lines for Linux's ring."""

    def lines(machine, target):
        ring = machine.open_ring(spec=RingSpec())
        results = [machine.send(size, CURRENT_CPU | extra << 32) for size, extra in ((8, 0), (30, 20), (0, 64), (3, 0))]
        results += [machine.send(300) for _ in range(20)]
        first = target(ring).finish()
        results.append(machine.send(8))
        return results, first, target(ring).finish()

    with Linux() as linux:
        theirs = lines(linux, lambda event: ForeignReader(readers["perf"], event.fd, 1))
    with Ours() as machine:
        ours = lines(machine, lambda ring: ForeignReader(readers["perf"], ring.ring.path, 1))
    assert ours == theirs
    assert ours[2][0].startswith("L ")


@pytest.mark.kernel
def test_the_same_ring_buffer_reader_reads_the_kernels_map(readers):
    def lines(machine, reader):
        pipe = Pipe(machine)
        results = [pipe.do(OUTPUT, size) for size in (0, 1, 8, 100)] + [pipe.do(RESERVE, 64), pipe.do(RESERVE, 1000, discard=True)]
        return results, reader.finish()

    with Linux(RINGBUF_SOURCE, "work") as linux:
        fd = linux.maps["buffer"].fd
        theirs = lines(linux, ForeignReader(readers["ringbuf"], fd, "4096"))
    with Ours(RINGBUF_SOURCE, "work") as machine:
        ours = lines(machine, ringbuf_reader(readers, machine.maps["buffer"]))
    assert ours == theirs
    assert [line[0] for line in ours[1]] == ["S"] * 5 + ["D"]
