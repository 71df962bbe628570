"""Books balance: for every ring, sent == received + lost, and the holes in the numbers received are the losses; whoever reads, however slowly, and whoever dies.

200,000 events here; SHMBPF_EVENTS=10000000 is the long form (make stress).
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from machines import RAW
from traffic import EVENTS_PER_PACKET, ForeignReader, State, StateFile, Traffic, ring_counters, traffic, wait_until

from shmbpf._ffi import lib
from shmbpf.events.perf import PerfRing
from shmbpf.events.ringbuf import RingBuffer
from shmbpf.testing.kernel_perf import PerfView, split_perf_records

CPUS = 4
EVENTS = int(os.environ.get("SHMBPF_EVENTS", "200000"))
PACKETS = EVENTS // EVENTS_PER_PACKET
CONSUMERS = Path(__file__).with_name("consumer.py")


@dataclass(frozen=True)
class Book:
    """A ring at the end: what its reader got, and what the ring says."""

    state: State
    sent: int
    lost: int

    def check(self) -> None:
        """Everything that was sent was received once, in order; everything else is lost, and was told where it was."""
        assert self.state.torn == 0
        assert self.state.received == self.sent
        assert self.state.missing == self.state.lost <= self.lost

    @property
    def end(self) -> int:
        """The number after the last that this ring sent or lost."""
        return self.state.next + self.lost - self.state.lost


class Reading:
    """A ring of one CPU, and the C reader that drains it."""

    def __init__(self, stack: ExitStack, readers: dict, running: Traffic, cpu: int, path: Path, *, pages: int = 16, delay_us: int = 0):
        self.ring = stack.enter_context(PerfRing.open(running.events, cpu, pages, sample_type=RAW))
        self.state = StateFile(path / f"{cpu}-{self.ring.id}")
        stack.callback(self.state.close)
        self.reader = ForeignReader(readers["perf"], self.ring.path, pages, "-q", self.state.path, "-d", delay_us)
        stack.callback(self.reader.kill)

    def finish(self) -> Book:
        self.reader.finish()
        return Book(self.state.read(), self.ring.sent, self.ring.lost)


def test_every_event_is_received_or_counted_as_lost(readers, tmp_path):
    """CPUs 0 and 1 have readers that do their best, 2 and 3 slow ones."""
    with traffic(CPUS) as running, ExitStack() as stack:
        readings = [Reading(stack, readers, running, cpu, tmp_path, delay_us=0 if cpu < 2 else 3000) for cpu in range(CPUS)]
        running.send(PACKETS)
        books, counts = [reading.finish() for reading in readings], running.counts()
    assert sum(count.next for count in counts) == PACKETS * EVENTS_PER_PACKET
    for book, count in zip(books, counts, strict=True):
        book.check()
        assert (book.sent, book.lost, book.end) == (count.ok, count.full, count.next)
        assert count.nobody == count.other == 0
    assert all(book.lost for book in books[2:]), "the slow readers were not slow"


@pytest.mark.parametrize("delay_us", [0, 3000], ids=["fast", "slow"])
def test_a_ring_buffers_books_balance(readers, delay_us):
    """All CPUs send into one; each has its own numbers. Lost are those that the program was refused."""
    with traffic(CPUS, "flood") as running:
        buffer = running.buffer
        path = f"/dev/shm/{buffer.namespace.prefix}.map.{buffer.id}"
        reader = ForeignReader(readers["ringbuf"], path, buffer.max_entries, "-1", "-q", "-d", delay_us)
        running.send(PACKETS)
        lines, counts = reader.finish(), running.counts()
        with RingBuffer(buffer) as ring:
            assert (ring.sent, ring.lost, ring.aborted) == (sum(count.ok for count in counts), sum(count.full for count in counts), 0)
    assert sum(count.next for count in counts) == PACKETS * EVENTS_PER_PACKET
    for line, count in zip(lines, counts, strict=False):
        received, missing, following, torn = map(int, line.split())
        assert (received, torn, count.nobody, count.other) == (count.ok, 0, 0, 0)
        assert received + missing == following and missing + count.next - following == count.full
    assert delay_us == 0 or any(count.full for count in counts), "the slow reader was not slow"


def test_a_ring_that_is_replaced_while_its_cpu_writes_loses_nothing(readers, tmp_path):
    with traffic(CPUS) as running, ExitStack() as stack:
        readings = [[Reading(stack, readers, running, cpu, tmp_path)] for cpu in range(CPUS)]
        with running.sending(PACKETS):
            for turn in range(16):
                wait_until(lambda: readings[turn % CPUS][-1].ring.sent > 300, "the ring is written to")
                readings[turn % CPUS].append(Reading(stack, readers, running, turn % CPUS, tmp_path))
        chains, counts = [[reading.finish() for reading in chain] for chain in readings], running.counts()
    for chain, count in zip(chains, counts, strict=True):
        assert count.nobody == count.other == 0
        check_chain(chain, count)
        assert sum(book.lost for book in chain) == count.full


def check_chain(chain: list[Book], count) -> None:
    """The rings of one CPU, one after the other: all numbers are accounted for."""
    number = 0
    for book in chain:
        if book.sent:
            book.check()
            assert book.state.first == number
            number = book.end
    assert number == count.next
    assert sum(book.sent for book in chain) == count.ok


class Victim:
    """A consumer process, its rings held open so that they can be looked at after its death."""

    def __init__(self, stack: ExitStack, running: Traffic, directory: Path, delay_us: int):
        directory.mkdir()
        self.states = [StateFile(directory / str(cpu)) for cpu in range(CPUS)]
        command = [sys.executable, CONSUMERS, running.runtime.namespace.name, running.events.id, CPUS, 16, directory, delay_us]
        environment = os.environ | {"PYTHONPATH": str(CONSUMERS.parent.parent.parent)}
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment)
        stack.callback(self.kill)
        self.segments = [stack.enter_context(running.runtime.namespace.open_segment("ring", int(word))) for word in self.process.stdout.readline().split()]
        assert len(self.segments) == CPUS

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def books(self) -> list[Book]:
        """By CPU; what it left unread counts as read now."""
        found = []
        for state, segment in zip(self.states, self.segments, strict=True):
            path = f"/dev/shm/{segment.name}"
            found.append(Book(read_the_rest(state.read(), path), *ring_counters(path)))
        return found


def read_the_rest(state: State, path: str) -> State:
    """The reader's state had it lived on: records behind its position."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size) as memory:
        view = PerfView(memory)
        assert view.tail <= state.position <= view.head
        rest = split_perf_records(view.stream(state.position, view.head), state.position)
    for record in rest:
        if record.type == lib.PERF_RECORD_LOST:
            state = replace(state, lost=state.lost + struct.unpack_from("<Q", record.body, 8)[0])
            continue
        number, check = struct.unpack_from("<QQ", record.body, 4)
        begin = state.next if state.received else number
        state = replace(
            state, received=state.received + 1, first=state.first if state.received else number, next=number + 1,
            missing=state.missing + number - begin, torn=state.torn + (check != number ^ 0xFFFFFFFFFFFFFFFF),
        )  # fmt: skip
    return state


@pytest.mark.parametrize("delay_us", [0, 2000], ids=["fast", "slow"])
def test_books_balance_when_consumers_are_killed(tmp_path, delay_us):
    """One consumer after the other dies; a new one takes its slots. What a dead one's rings took, until somebody noticed, can be found in them."""
    with traffic(CPUS) as running, ExitStack() as stack:
        victims = [Victim(stack, running, tmp_path / "0", delay_us)]
        with running.sending(PACKETS):
            for number in range(1, 6):
                wait_until(lambda: all(state.read().received > 300 for state in victims[-1].states), "the consumer reads from every CPU")
                victims[-1].kill()
                victims.append(Victim(stack, running, tmp_path / str(number), delay_us))
        victims[-1].kill()
        chains, counts = list(zip(*(victim.books() for victim in victims), strict=True)), running.counts()
        reports = running.runtime.reports()
    for chain, count in zip(chains, counts, strict=True):
        check_chain(list(chain), count)
        assert count.other == 0
        # the event that met a full ring and found its consumer dead was refused as one that nobody waits for
        assert count.full <= sum(book.lost for book in chain) <= count.full + min(count.nobody, len(victims))
    assert all(report.restarts == 0 and report.faults == 0 for report in reports)
