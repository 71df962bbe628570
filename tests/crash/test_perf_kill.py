"""Death in the middle of perf event output: the reader never sees half a record, nothing that counts as sent is missing, and the CPU's next process goes on.

Deterministic: a CPU is killed at every named point of an output, in every state of the ring. Random: CPUs of a running runtime, at any time. And a consumer that
writes over its own pages while the CPUs send.
"""

from __future__ import annotations

import errno
import importlib.util
import itertools
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from nursery import Nursery

import shmbpf
from shmbpf._ffi import ffi, lib
from shmbpf.errors import MapError
from shmbpf.events.perf import PerfRing
from shmbpf.events.records import Lost, Record
from shmbpf.events.ringbuf import RingBuffer
from tests.events.traffic import EVENTS_PER_PACKET, ForeignReader, StateFile, Traffic, traffic, wait_until
from tests.support.compile import compile_bpf
from tests.support.foreign import compile_reader

CPUS = 4
KILLS = max(200, int(os.environ.get("SHMBPF_KILLS", "0")))
RAW = lib.PERF_SAMPLE_RAW
POINTS = [ffi.string(lib.shm_point_name(i)).decode() for i in itertools.takewhile(lambda i: lib.shm_point_name(i) != ffi.NULL, itertools.count())]
RING_POINTS = [point for point in POINTS if point.startswith("ring_")]
#: at these the record does not exist yet; at the others it does, whether it can be seen or not
BEFORE_THE_COMMIT = {"ring_written", "ring_state_filled"}
HAS_POINTS = importlib.util.find_spec("shmbpf._abi_points") is not None
needs_points = [pytest.mark.points, pytest.mark.skipif(not HAS_POINTS, reason="needs the build with kill points: make points")]
SOURCE = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 2); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, __u64); __uint(max_entries, 1); } numbers SEC(".maps");
SEC("xdp") int send(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *number = bpf_map_lookup_elem(&numbers, &zero), record[9] = {};
	if (!number)
		return 1;
	record[0] = (*number)++;
	record[8] = ~record[0];
	return bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, record, sizeof record);
}
"""
RECORD_BYTES = 88  # header, u32 size, 72 bytes and 4 of padding


def kill_at(nursery: Nursery, machine: Machine, point: str, nth: int = 1, runs: int = 1) -> bool:
    """True when the victim died at the point, False when it never came by there."""
    return nursery.dies(namespace=machine.runtime.namespace.name, cpu=0, program=machine.program.id, point=point, nth=nth, runs=runs)


@pytest.fixture(scope="module")
def nursery():
    made = Nursery("perf_victim.py", points=True)
    yield made
    made.close()


class Machine:
    """A namespace with a program that sends one numbered event for each run. What the CPU of this process did before is forgotten with `release()`."""

    def __init__(self, name: str):
        self.runtime = shmbpf.Runtime(name, cpus=2)
        loaded = self.runtime.load(compile_bpf(SOURCE))
        self.events, self.program = loaded.maps["events"].raw, loaded.programs["send"]

    def send(self) -> int:
        """One event; what the helper returned. The CPU's lease is given back at once: victims want it."""
        retval = self.program.run(bytes(64), cpu=0).retval
        self.runtime._release_local()
        return retval

    def close(self) -> None:
        self.runtime.close()


@pytest.fixture
def machine(namespace_name):
    made = Machine(namespace_name)
    yield made
    made.close()


@dataclass
class Story:
    """What a reader got so far, in order."""

    numbers: list[int]
    told: int = 0

    def read(self, ring: PerfRing) -> list[int]:
        """The numbers of the records read now; each is whole."""
        found = []
        for event in ring.read():
            if isinstance(event, Lost):
                self.told += event.count
                continue
            assert isinstance(event, Record) and len(event.data) == 76
            words = struct.unpack_from("<9Q", event.data)
            assert words[8] == words[0] ^ 0xFFFFFFFFFFFFFFFF and not any(words[1:8]), "a torn record"
            found.append(words[0])
        self.numbers += found
        return found


def prepare(machine: Machine, ring: PerfRing, state: str) -> Story:
    """The ring in a state: nothing in it, something in it, its end near, or full with losses that nobody has been told of and room again."""
    story = Story([])
    for _ in range({"empty": 0, "unread": 3, "at_the_end": 4096 // RECORD_BYTES, "losses_untold": 60}[state]):
        machine.send()
    if state in ("at_the_end", "losses_untold"):
        story.read(ring)
    assert (ring.lost > 0) == (state == "losses_untold")
    return story


@pytest.mark.parametrize("state", ["empty", "unread", "at_the_end", "losses_untold"])
@pytest.mark.parametrize("recovered", [False, True], ids=["by_the_next_event", "by_recovery"])
class TestEveryPoint:
    pytestmark = needs_points

    @pytest.mark.parametrize("point", RING_POINTS)
    def test_record_is_there_or_is_not(self, nursery, machine, point, state, recovered):
        with PerfRing.open(machine.events, 0, 1, sample_type=RAW) as ring:
            story = prepare(machine, ring, state)
            sent, lost = ring.sent, ring.lost
            assert kill_at(nursery, machine, point)
            assert ring.sent == sent + (point not in BEFORE_THE_COMMIT) and ring.lost == lost
            ring.check()
            story.read(ring)
            if recovered:
                assert lib.ring_recover(ring._handle) == (point == "ring_committed")
                story.read(ring)
                assert len(story.numbers) == ring.sent
            assert machine.send() == 0, "the CPU's next process sends"
            story.read(ring)
            ring.check()
            assert len(story.numbers) == ring.sent == sent + (point not in BEFORE_THE_COMMIT) + 1
            assert story.numbers == sorted(set(story.numbers))
            assert story.told == ring.lost == lost

    @pytest.mark.parametrize("nth", [2, 3, 20])
    def test_several_deaths_in_a_row_leave_exact_books(self, nursery, machine, state, recovered, nth):
        with PerfRing.open(machine.events, 0, 1, sample_type=RAW) as ring:
            story = prepare(machine, ring, state)
            for point in RING_POINTS * 2:
                assert kill_at(nursery, machine, point, nth, runs=nth)
                if recovered:
                    lib.ring_recover(ring._handle)
                story.read(ring)
            assert machine.send() == 0
            story.read(ring)
            ring.check()
            assert len(story.numbers) == ring.sent and story.numbers == sorted(set(story.numbers))
            assert story.told == ring.lost


def readable(ring: PerfRing, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(ring, select.POLLIN)
    return bool(poll.poll(timeout_ms))


class TestSleepers:
    pytestmark = needs_points

    @pytest.mark.parametrize("point", RING_POINTS)
    @pytest.mark.parametrize("wakeup_events, before", [(1, 0), (3, 2)], ids=["every", "third"])
    def test_a_consumer_that_sleeps_is_woken_by_the_cpus_next_process(self, nursery, machine, point, wakeup_events, before):
        """The CPU dies with the event that would have woken it; the next one does, although by its own count it might not be due."""
        with PerfRing.open(machine.events, 0, 1, sample_type=RAW, wakeup_events=wakeup_events) as ring:
            for _ in range(before):
                machine.send()
            Story([]).read(ring)
            assert not ring.arm()
            assert kill_at(nursery, machine, point)
            assert machine.send() == 0
            assert readable(ring, 0)
            assert len(ring.read()) == (1 if point in BEFORE_THE_COMMIT else 2)


class TestSlots:
    pytestmark = needs_points

    def test_slot_set_by_a_consumer_that_died_at_once_becomes_empty(self, machine):
        """It stores its ring in the slot and dies there: the ring takes what it can, then the slot is seen to be nobody's."""
        script = f"""
from shmbpf._ffi import lib
from shmbpf.events.perf import PerfRing
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
assert lib.shm_point_arm(b"perf_slot_stored", 1) == 0
PerfRing.open(Map.open(Namespace({machine.runtime.namespace.name!r}), {machine.events.id}), 0, 1)
"""
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent), "SHMBPF_ABI": "points"}
        assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == -signal.SIGKILL
        answers = [machine.send() for _ in range(60)]
        assert set(answers) <= {0, 2**32 - 28, 2**32 - 2} and answers[-1] == 2**32 - 2
        with PerfRing.open(machine.events, 0, 1, sample_type=RAW) as ring:
            assert machine.send() == 0
            assert len(ring.read()) == 1


# -- a running runtime --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perf_reader(tmp_path_factory):
    """The foreign reader, which stops at a torn record."""
    return compile_reader("perf", tmp_path_factory.mktemp("readers"))


def kill_one(running: Traffic, cpu: int, patience: random.Random) -> None:
    """Kills a CPU's process at some moment of the next two milliseconds, and waits until its successor is there."""
    before = running.runtime.reports()[cpu]
    select.select([], [], [], patience.random() * 0.002)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: running.runtime.reports()[cpu].restarts > before.restarts, f"CPU {cpu} is replaced")


def test_books_balance_when_cpus_are_killed_at_random_times(perf_reader, tmp_path):
    patience, kills = random.Random(23), [0] * CPUS
    with traffic(CPUS, "hail") as running, ExitStack() as stack:
        rings = [stack.enter_context(PerfRing.open(running.events, cpu, 16, sample_type=RAW)) for cpu in range(CPUS)]
        states = [StateFile(tmp_path / str(cpu)) for cpu in range(CPUS)]
        drains = [ForeignReader(perf_reader, ring.path, 16, "-q", state.path) for ring, state in zip(rings, states, strict=True)]
        for drain in drains:
            stack.callback(drain.kill)
        with running.sending():
            for number in range(KILLS):
                cpu = number % CPUS
                seen = states[cpu].read().received
                kill_one(running, cpu, patience)
                kills[cpu] += 1
                wait_until(lambda: states[cpu].read().received > seen, "its reader goes on")
        running.send(2000)  # every CPU once more: whatever was committed is published now
        for drain in drains:
            drain.finish()
        for cpu, (ring, state, count) in enumerate(zip(rings, (state.read() for state in states), running.counts(), strict=True)):
            ring.check()
            assert state.torn == 0 and state.received == ring.sent
            assert count.ok <= ring.sent <= count.ok + kills[cpu]
            assert count.full <= ring.lost <= count.full + kills[cpu]
            assert 0 <= state.missing - state.lost <= kills[cpu], "holes beyond the losses are numbers that the dead had taken"
        assert all(report.faults == 0 for report in running.runtime.reports())


def test_a_consumer_that_scribbles_over_its_ring_harms_nobody_else(perf_reader, tmp_path):
    """CPU 0's ring is overwritten all the time, by somebody who has mapped it; the rings of the others stay exact, and no CPU faults or dies."""
    source = random.Random(5)
    with traffic(CPUS) as running, ExitStack() as stack:
        rings = [stack.enter_context(PerfRing.open(running.events, cpu, 16, sample_type=RAW)) for cpu in range(CPUS)]
        states = [StateFile(tmp_path / str(cpu)) for cpu in range(CPUS)]
        drains = [ForeignReader(perf_reader, ring.path, 16, "-q", state.path) for ring, state in zip(rings[1:], states[1:], strict=True)]
        for drain in drains:
            stack.callback(drain.kill)
        with open(rings[0].path, "r+b", buffering=0) as victim, running.sending(10_000):
            deadline = time.monotonic() + float(os.environ.get("SHMBPF_SCRIBBLE_S", "0.5"))
            while time.monotonic() < deadline:
                scribble(victim, source)
                events = rings[0].read()
                assert all(isinstance(event, (Lost, Record)) for event in events)
        for drain in drains:
            drain.finish()
        counts = running.counts()
        for ring, state, count in zip(rings[1:], (state.read() for state in states[1:]), counts[1:], strict=True):
            ring.check()
            assert state.torn == 0 and state.received == ring.sent == count.ok
            assert state.missing == state.lost <= ring.lost == count.full
        assert counts[0].ok == rings[0].sent and counts[0].full == rings[0].lost and not any(count.other for count in counts)
        rings[0].check()
        assert all(report.restarts == report.faults == 0 for report in running.runtime.reports())


def scribble(file: object, source: random.Random) -> None:
    """Random bytes into the first page, the tail and the head in particular, and the data."""
    write_garbage(file, source, (1024, 1032, source.randrange(4088), 4096 + source.randrange(16 * 4096 - 64)))


def write_garbage(file: object, source: random.Random, places: tuple[int, ...]) -> None:
    for at in places:
        os.pwrite(file.fileno(), source.choice([source.randbytes(8), struct.pack("<Q", source.randrange(1 << 20)), bytes(8)]), at)


def test_a_consumer_that_scribbles_over_a_ring_buffer_stops_no_cpu():
    """Positions and records become nonsense under the producers' hands: no CPU faults, dies or waits, and once the scribbler is gone the buffer works again."""
    source = random.Random(6)
    with traffic(CPUS, "flood") as running:
        buffer = running.buffer
        with open(f"/dev/shm/{buffer.namespace.prefix}.map.{buffer.id}", "r+b", buffering=0) as file, running.sending(10_000):
            deadline = time.monotonic() + float(os.environ.get("SHMBPF_SCRIBBLE_S", "0.5"))
            while time.monotonic() < deadline:
                write_garbage(file, source, (0, 8192 + source.randrange(buffer.max_entries // 8) * 8))
        counts = running.counts()
        assert sum(count.next for count in counts) == sum(count.ok + count.full for count in counts) >= 160_000
        assert not any(count.nobody or count.other for count in counts)
        assert all(report.restarts == report.faults == 0 for report in running.runtime.reports())
        with RingBuffer(buffer) as ring:
            wait_until(lambda: is_empty(ring), "the reader passes over what makes no sense")
            running.send(20)
            records = ring.read() + ring.read()
        assert len(records) == 20 * EVENTS_PER_PACKET
        assert all(struct.unpack_from("<Q", record.data)[0] == struct.unpack_from("<Q", record.data, 8)[0] ^ 0xFFFFFFFFFFFFFFFF for record in records)


def is_empty(ring: RingBuffer) -> bool:
    """Nothing more to read; damage is told by errors, which are taken here."""
    try:
        return not ring.read()
    except MapError as error:
        assert error.errno == errno.EUCLEAN
        return False
