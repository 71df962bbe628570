"""Events of 64 bytes: ns for one through a perf ring and a ring buffer, helper included; two CPUs at once; how long a sleeping consumer sleeps on; and how
many records a second Python takes, batched and one by one.

Ours is the helper called in a C loop, with the consumer's position moved along; the kernel's is a program in a loop, in runs that fit into its ring. Sleepers
get their wake-up through poll(), and the time is from the record's own stamp.

Nobody sleeps while output is measured. Our ring may wake after every event and finds nobody to wake; the kernel's cannot know and would pay an interrupt each
time (microseconds), so its ring wakes once in a run.
"""

from __future__ import annotations

import os
import secrets
import select
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shmbpf._ffi import lib
from shmbpf.bench.crew import Crew
from shmbpf.bench.figures import Figure, Session, best_of, usable_cpus
from shmbpf.elf import load_object
from shmbpf.errors import ShmbpfError
from shmbpf.events.perf import PerfRing
from shmbpf.events.ringbuf import RingBuffer
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.spec import MapSpec
from shmbpf.testing import kernel as linux
from shmbpf.testing.kernel_perf import PerfEvent, RingbufView
from shmbpf.uapi import MapType

OBJECT = Path(__file__).with_name("events.o")
BYTES = 64
_KERNEL_BATCH = 2048  #: events of one run of a program of events.o
_OUTPUT_BYTES, _FILL_BYTES = 1 << 18, 1 << 22  #: of rings that go round, and of rings that are filled before they are read
_PERF_TARGET, _RINGBUF_TARGET, _TWICE_TARGET, _WAKE_TARGET = 40.0, 30.0, 1.7, 50.0
_BATCHED_TARGET, _SINGLE_TARGET = 1.0, 0.3
_WAKES = 40
_SAMPLE = struct.Struct("=IHHI64s4x")  #: a record of BYTES with PERF_SAMPLE_RAW alone, padding included
_RECORD = struct.Struct("=II64s")  #: of a ring buffer


def measure_events(session: Session) -> list[Figure]:
    """Figures of both kinds, in ns; wake-ups in us; Python in millions of records a second."""
    with Namespace(f"bench-{os.getpid()}-{secrets.token_hex(4)}", role="bench") as namespace:
        namespace.fix_cpus(2)
        with Crew(namespace, min(2, len(usable_cpus()))) as crew, ExitStack() as stack:
            events = stack.enter_context(Map.create(namespace, MapSpec("bench_events", MapType.PERF_EVENT_ARRAY, 4, 4, 2)))
            small, large = (stack.enter_context(Map.create(namespace, MapSpec("bench_buffer", MapType.RINGBUF, 0, 0, size))) for size in (_OUTPUT_BYTES, _FILL_BYTES))
            return [
                *_measure_output(session, crew, events, small), *_measure_wake_up(session, crew, events), *_measure_python(session, crew, events, large),
            ]  # fmt: skip


def _measure_output(session: Session, crew: Crew, events: Map, buffer: Map) -> list[Figure]:
    session.progress("event output")
    with ExitStack() as stack:
        for cpu in range(crew.size):
            stack.enter_context(PerfRing.open(events, cpu, _OUTPUT_BYTES // 4096, sample_type=lib.PERF_SAMPLE_RAW))
        count = max(1000, session.effort.slice_ns // 40)
        ours = [_repeated(crew, events, lib.BENCH_PERF_OUTPUT, count, (0,)), _repeated(crew, buffer, lib.BENCH_RINGBUF_OUTPUT, count, (0,))]
        both = _repeated(crew, events, lib.BENCH_PERF_OUTPUT, count, (0, 1)) if crew.size > 1 else None
        theirs = [stack.enter_context(side()) for side in (_kernel_perf, _kernel_ringbuf)] if session.kernel else [None, None]
        perf, ringbuf, two, linux_perf, linux_ringbuf = best_of(session.effort.rounds, [*ours, both, *theirs])
    figures = [
        Figure("perf output, 64 bytes", "ns", perf, linux_perf, _PERF_TARGET), Figure("ringbuf output, 64 bytes", "ns", ringbuf, linux_ringbuf, _RINGBUF_TARGET),
    ]  # fmt: skip
    if two:
        figures.append(Figure("perf output, two CPUs at once", "x rate", 2 * perf / two, None, _TWICE_TARGET, at_least=True))
    return figures


def _repeated(crew: Crew, map_: Map, op: int, count: int, members: tuple[int, ...]) -> Callable[[], float]:
    return lambda: crew.run(map_, op, BYTES, count, members)


@contextmanager
def _kernel_perf() -> Iterator[Callable[[], float]]:
    """A measurement of the kernel's perf output; the reader keeps up between runs."""
    place = usable_cpus()[0]
    with linux.load_object(load_object(OBJECT), "perf_output") as program, PerfEvent(place, pages=_OUTPUT_BYTES // 4096, wakeup_events=_KERNEL_BATCH) as event:
        program.maps["events"].update(struct.pack("=I", place), event.value)

        def consume() -> None:
            event.view.tail = event.view.head

        yield lambda: _kernel_turn(program, consume, place)


@contextmanager
def _kernel_ringbuf() -> Iterator[Callable[[], float]]:
    """The same of its ring buffer."""
    with linux.load_object(load_object(OBJECT), "ringbuf_output") as program:
        view = RingbufView.of_fd(program.maps["buffer"].fd, program.maps["buffer"].max_entries, twice=True)

        def consume() -> None:
            view.consumer_pos = view.producer_pos

        yield lambda: _kernel_turn(program, consume, usable_cpus()[0])
        view.close()


def _kernel_turn(program: linux.KernelProgram, consume: Callable[[], None], place: int) -> float:
    """ns per event: the best of some runs, with the ring emptied after each."""
    found = []
    for _ in range(20):
        done = program.run(bytes(64), cpu=place)
        consume()
        if done.retval:
            raise ShmbpfError(f"bench: {done.retval} of {_KERNEL_BATCH} events were refused by the kernel")
        found.append(done.duration_ns / _KERNEL_BATCH)
    return min(found)


def _measure_wake_up(session: Session, crew: Crew, events: Map) -> list[Figure]:
    """The time from an event to the return of the poll() that its consumer slept in."""
    session.progress("wake-up of a sleeping consumer")
    producer = crew.size - 1
    with PerfRing.open(events, producer, 4) as ring:
        poll = select.poll()
        poll.register(ring, select.POLLIN)
        spent = []
        for _ in range(_WAKES * session.effort.rounds):
            if ring.arm():
                raise ShmbpfError("bench: an event that nobody sent: this is a bug of shmbpf")
            crew.start(events, lib.BENCH_PERF_FILL, BYTES, 1, producer)
            woken = poll.poll(5000)
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            if not woken:
                raise ShmbpfError("bench: a consumer slept through an event: this is a bug of shmbpf")
            spent.append((now - ring.read()[0].time_ns) / 1000)
            crew.result(events, producer)
    return [Figure("wake-up of a sleeper, median", "us", statistics.median(spent), None, _WAKE_TARGET)]


def _measure_python(session: Session, crew: Crew, events: Map, buffer: Map) -> list[Figure]:
    """Millions of records a second. A turn fills the ring; only reading is timed."""
    session.progress("Python consumers")
    with PerfRing.open(events, 0, _FILL_BYTES // 4096, sample_type=lib.PERF_SAMPLE_RAW) as ring, RingBuffer(buffer) as pipe:
        count = _FILL_BYTES // 128
        sides = [
            (events, lib.BENCH_PERF_FILL, lambda: _unpack(ring.chunks(), _SAMPLE)), (events, lib.BENCH_PERF_FILL, lambda: _one_by_one(ring)),
            (buffer, lib.BENCH_RINGBUF_FILL, lambda: _unpack(pipe.chunks(), _RECORD)), (buffer, lib.BENCH_RINGBUF_FILL, lambda: _one_by_one(pipe)),
        ]  # fmt: skip
        found = best_of(session.effort.rounds, [_reading(crew, map_, op, count, read) for map_, op, read in sides])
    words = [(kind, how) for kind in ("perf ring", "ring buffer") for how in ("chunks", "one by one")]
    targets = (_BATCHED_TARGET, _SINGLE_TARGET) * 2
    return [Figure(f"Python, {kind}: {how}", "M/s", 1000 / ns, None, target, at_least=True) for (kind, how), ns, target in zip(words, found, targets, strict=True)]


def _reading(crew: Crew, map_: Map, op: int, count: int, read: Callable[[], int]) -> Callable[[], float]:
    def turn() -> float:
        crew.run(map_, op, BYTES, count)
        begun = lib.shm_clock_ns(time.CLOCK_THREAD_CPUTIME_ID)
        got = read()
        spent = lib.shm_clock_ns(time.CLOCK_THREAD_CPUTIME_ID) - begun
        if got != count:
            raise ShmbpfError(f"bench: {count} records were sent and {got} read: this is a bug of shmbpf")
        return spent / count

    return turn


def _unpack(chunks: Iterator[memoryview], record: struct.Struct) -> int:
    """How many records; each is taken apart."""
    got = 0
    for chunk in chunks:
        for *_, data in record.iter_unpack(chunk):
            got += len(data) == BYTES
    return got


def _one_by_one(reader: PerfRing | RingBuffer) -> int:
    """How many records, each an object of its own."""
    got = 0
    while events := reader.read():
        for event in events:
            got += len(event.data) >= BYTES
    return got
