"""Death at work on a ring buffer: what was committed is delivered once, what was open is discarded and counted, nobody waits, nothing is torn.

Deterministic: a process is killed at every named point of every operation. Random: producers are killed at any time while others go on.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import itertools
import os
import random
import signal
import struct
import time

import pytest
from nursery import Nursery
from ringbuf_victim import operations, payload
from support.raw_maps import RawMap, RawNamespace, check

from shmbpf._ffi import ffi, lib

RINGBUF, USER_RINGBUF = 27, 31
POINTS = [name for name in (ffi.string(lib.shm_point_name(i)).decode() for i in itertools.takewhile(lambda i: lib.shm_point_name(i) != ffi.NULL, itertools.count())) if name.startswith("ringbuf_")]
RESERVE_POINTS = [name for name in POINTS if name.startswith(("ringbuf_reserve_", "ringbuf_commit_"))]
VICTIM, SURVIVOR = 0, 1
needs_points = [pytest.mark.points, pytest.mark.skipif(importlib.util.find_spec("shmbpf._abi_points") is None, reason="needs the build with kill points: make points")]


class RingNursery(Nursery):
    """Victims that produce into a ring buffer, and one that reads."""

    def __init__(self, points: bool):
        super().__init__("ringbuf_victim.py", points=points)

    def begin(self, ns: RawNamespace, m: RawMap, **request) -> int:
        return self.start(**({"ctl": ns.fd, "map": m.fd, "producer": VICTIM} | request))

    def killed_at(self, ns, m, point: str, nth: int, work: list[str]) -> bool:
        """False when the victim's work never comes by there."""
        self.begin(ns, m, job="once", point=point, nth=nth, operations=work)
        return self.end() != 0


@pytest.fixture(scope="module")
def points():
    nursery = RingNursery(points=True)
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def plain():
    nursery = RingNursery(points=False)
    yield nursery
    nursery.close()


class Ring:
    """The survivor's side."""

    def __init__(self, ns: RawNamespace, m: RawMap):
        self.m, self.does, self.number = m, operations(m.handle, ns.me, SURVIVOR), 0

    def output(self) -> bool:
        accepted = self.does["output"](self.number) == 0
        self.number += accepted
        return accepted

    def read(self) -> list[tuple[int, int]]:
        """(producer, number) of all records that are unread now (producers may be faster than this reader), none of which is torn."""
        records, buffer, found = ffi.new("struct ring_record[]", 256), ffi.new("uint8_t[]", 1 << 16), []
        end = self.position(lib.BPF_RB_PROD_POS)
        while self.position(lib.BPF_RB_CONS_POS) < end:
            count = check(lib.ringbuf_read(self.m.handle, self.m.me, records, 256, buffer, 1 << 16))
            if not count:
                break
            for i in range(count):
                data = bytes(ffi.buffer(buffer + records[i].off, records[i].bytes))
                assert data == payload(*struct.unpack_from("=II", data)), "torn"
                found.append(struct.unpack_from("=II", data))
        return found

    def position(self, which: int) -> int:
        return lib.ringbuf_query(self.m.handle, which)

    def counts(self) -> tuple[int, int, int]:
        found = ffi.new("struct ringbuf_counts *")
        check(lib.ringbuf_count(self.m.handle, self.m.me, found))
        return found.sent, found.lost, found.aborted


def numbers(found: list[tuple[int, int]], producer: int) -> list[int]:
    return [number for who, number in found if who == producer]


def check_survivor_goes_on(ring: Ring, seen: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The survivor produces and reads without waiting; the accounts are exact. All that was ever read."""
    begin, first = time.monotonic(), ring.number
    for _ in range(20):
        assert ring.output()
    seen = seen + ring.read()
    assert time.monotonic() - begin < 0.2, "the survivor waited for the dead"
    assert numbers(seen, SURVIVOR)[-20:] == list(range(first, first + 20))
    sent, lost, _ = ring.counts()
    assert (sent, lost) == (len(seen), 0)
    ring.m.check()
    assert lib.ringbuf_unread(ring.m.handle) == 0
    return seen


WORK = {
    "output": ["output"] * 6,
    "reserve": ["output", "reserve", "output", "output"],
    "discard": ["output", "discard", "output", "discard", "output"],
}


@pytest.mark.usefixtures("points")
class TestEveryPoint:
    pytestmark = needs_points

    @pytest.mark.parametrize("work", WORK)
    @pytest.mark.parametrize("recovered", [False, True], ids=["found", "recovered"])
    def test_a_producers_committed_records_arrive_and_its_open_one_is_counted(self, points, work, recovered):
        deaths = 0
        for point, nth in itertools.product(RESERVE_POINTS, (1, 2, 3, 4)):
            with RawNamespace(2) as ns, ns.create(RINGBUF, 0, 0, 8192) as m:
                ring = Ring(ns, m)
                for _ in range(3):
                    ring.output()
                if not points.killed_at(ns, m, point, nth, WORK[work]):
                    continue
                deaths += 1
                m.check()  # whatever had been committed to the state is shown by whoever takes the lock over
                if recovered:
                    m.recover()
                    assert m.recover() == 0
                seen = check_survivor_goes_on(ring, [])
                reserves = WORK[work][: nth]
                committed = [i for i, name in enumerate(reserves) if name == "output" and (i + 1 < nth or point == "ringbuf_commit_done")]
                if not (work == "reserve" and point == "ringbuf_commit_done"):  # there the n-th commit is not of the n-th reservation
                    assert numbers(seen, VICTIM) == committed
                open_ones = (point in ("ringbuf_reserve_state", "ringbuf_reserve_published", "ringbuf_reserve_unlocked")) + (work == "reserve" and nth > 2)
                if work != "reserve":
                    assert ring.counts()[2] == open_ones
        assert deaths >= 15

    @pytest.mark.parametrize("point", ["ringbuf_read_copied", "ringbuf_read_consumed", "ringbuf_repair_done"])
    def test_a_dead_readers_records_are_its_successors(self, points, point):
        for nth in (1, 2, 3):
            with RawNamespace(2) as ns, ns.create(RINGBUF, 0, 0, 8192) as m:
                ring = Ring(ns, m)
                for _ in range(2):
                    ring.output()
                ghost = RawNamespace.join(os.dup(ns.fd))
                assert lib.ringbuf_reserve(m.handle, ghost.me, 8) != ffi.NULL
                ghost.close()
                for _ in range(3):
                    ring.output()
                if not points.killed_at(ns, m, point, nth, ["read"]):
                    assert point == "ringbuf_repair_done" and nth > 1
                    continue
                consumed = {"ringbuf_read_copied": nth - 1, "ringbuf_read_consumed": nth - (nth > 2), "ringbuf_repair_done": 2}[point]
                assert numbers(ring.read(), SURVIVOR) == list(range(consumed, 5))
                assert ring.counts() == (5, 0, 1)
                m.check()

    @pytest.mark.parametrize("first", RESERVE_POINTS)
    @pytest.mark.parametrize("second", ["ringbuf_recover_published", "ringbuf_repair_done", "ringbuf_reserve_state", "ringbuf_reserve_published"])
    def test_who_dies_while_putting_it_right_leaves_it_to_the_next(self, points, first, second):
        with RawNamespace(2) as ns, ns.create(RINGBUF, 0, 0, 8192) as m:
            ring = Ring(ns, m)
            assert points.killed_at(ns, m, first, 2, ["output", "output"])
            points.killed_at(ns, m, second, 1, ["recover", "reserve"])
            seen = check_survivor_goes_on(ring, [])
            assert numbers(seen, VICTIM) == ([0, 1] if first == "ringbuf_commit_done" else [0])

    def test_the_dead_give_way_when_the_ring_is_full(self, points):
        """The reader does not repair anything: producers that need the room do."""
        with RawNamespace(2) as ns, ns.create(RINGBUF, 0, 0, 4096) as m:
            ring = Ring(ns, m)
            assert points.killed_at(ns, m, "ringbuf_reserve_unlocked", 1, ["output"])
            while ring.output():
                pass
            assert not lib.ringbuf_stalled(m.handle)
            assert numbers(ring.read(), SURVIVOR) == list(range(ring.number))
            assert ring.counts() == (ring.number, 1, 1)

    def test_user_ring_samples_arrive_whole_or_not_at_all(self, points):
        deaths = 0
        for point, nth in itertools.product([name for name in POINTS if name.startswith("ringbuf_user_")], (1, 2, 3)):
            with RawNamespace(2) as ns, ns.create(USER_RINGBUF, 0, 0, 8192) as m:
                assert points.killed_at(ns, m, point, nth, ["write"] * 4)
                deaths += 1
                survivor = operations(m.handle, ns.me, SURVIVOR)
                assert [survivor["write"](i) for i in range(3)] == [0] * 3
                found = drained(m)
                done = nth if point == "ringbuf_user_committed" else nth - 1
                assert found == [(VICTIM, i) for i in range(done)] + [(SURVIVOR, i) for i in range(3)]
                m.check()
        assert deaths == 12

    @pytest.mark.parametrize("point, gone", [("ringbuf_drain_shown", 1), ("ringbuf_drain_consumed", 2)])
    def test_a_sample_shown_to_a_dead_program_is_shown_again(self, points, point, gone):
        with RawNamespace(2) as ns, ns.create(USER_RINGBUF, 0, 0, 8192) as m:
            survivor = operations(m.handle, ns.me, SURVIVOR)
            for i in range(4):
                survivor["write"](i)
            assert points.killed_at(ns, m, point, 2, ["drain"])
            assert drained(m) == [(SURVIVOR, i) for i in range(gone, 4)]

    def test_every_point_is_passed_by_something(self, points):
        """A point that nothing passes proves nothing. Taking a lock over is tested above."""
        missed = []
        for point in POINTS:
            type = USER_RINGBUF if point.startswith(("ringbuf_user_", "ringbuf_drain_")) else RINGBUF
            with RawNamespace(2) as ns, ns.create(type, 0, 0, 8192) as m:
                if type == RINGBUF:
                    ghost = RawNamespace.join(os.dup(ns.fd))
                    lib.ringbuf_reserve(m.handle, ghost.me, 8)
                    ghost.close()
                if not points.killed_at(ns, m, point, 1, ["write", "drain"] if type == USER_RINGBUF else ["recover", "output", "read"]):
                    missed.append(point)
        assert missed == []


def drained(m: RawMap) -> list[tuple[int, int]]:
    sample, size, found = ffi.new("uint8_t **"), ffi.new("uint32_t *"), []
    assert lib.user_ringbuf_begin(m.handle, m.me) == 0
    while (err := lib.user_ringbuf_next(m.handle, m.me, sample, size)) != -errno.ENODATA:
        if err == 0:
            data = bytes(ffi.buffer(sample[0], size[0]))
            assert data == payload(*struct.unpack_from("=II", data)), "torn"
            found.append(struct.unpack_from("=II", data))
            lib.user_ringbuf_release(m.handle, size[0])
    lib.user_ringbuf_end(m.handle, m.me, 1)
    return found


@pytest.mark.parametrize("portion", range(2))
def test_kills_at_random_times_lose_and_tear_nothing(plain, portion):
    """Producers are killed one after the other while the survivor produces and reads: each one's records arrive in order, as many as it was told were accepted, or one more."""
    rng, kills = random.Random(portion), int(os.environ.get("SHMBPF_KILLS", "40"))
    log = os.memfd_create("progress", os.MFD_CLOEXEC)
    os.truncate(log, 4096)
    with RawNamespace(2) as ns, ns.create(RINGBUF, 0, 0, 1 << 16) as m:
        ring, received = Ring(ns, m), 0
        for _ in range(kills):
            os.pwrite(log, bytes(8), 0)
            pid, seen = plain.begin(ns, m, job="rounds", log=log), []
            wait_for(lambda: os.pread(log, 8, 0) != bytes(8), lambda: seen.extend(ring.read()))
            end = time.monotonic() + rng.random() * 0.004
            while time.monotonic() < end:
                ring.output()
                seen += ring.read()
            os.kill(pid, signal.SIGKILL)
            assert plain.end() == -signal.SIGKILL
            begin = time.monotonic()
            seen += ring.read()
            assert ring.output()
            seen += ring.read()
            assert time.monotonic() - begin < 0.2, "the survivor waited for the dead"
            told = struct.unpack("=Q", os.pread(log, 8, 0))[0]
            arrived = numbers(seen, VICTIM)
            assert arrived == list(range(len(arrived))) and len(arrived) in (told, told + 1)
            received += len(seen)
            assert ring.counts()[0] == received
            m.check()
        assert ring.counts()[2] <= kills
    os.close(log)


def test_four_producers_are_killed_in_turn_and_the_accounts_stay_exact():
    """All of them at once, with a reader that is too slow for them: what was accepted arrives, in order for each of them."""
    rng, kills = random.Random(1), int(os.environ.get("SHMBPF_KILLS", "24"))
    log = os.memfd_create("progress", os.MFD_CLOEXEC)
    os.truncate(log, 4096)
    with contextlib.ExitStack() as stack, RawNamespace(2) as ns, ns.create(RINGBUF, 0, 0, 1 << 16) as m:
        nurseries = [stack.enter_context(contextlib.closing(RingNursery(points=False))) for _ in range(4)]
        ring, received, seen = Ring(ns, m), 0, [[] for _ in range(4)]

        def read() -> None:
            nonlocal received
            for who, number in ring.read():
                seen[who].append(number)
                received += 1

        def told(who: int) -> int:
            return struct.unpack("=Q", os.pread(log, 8, 8 * who))[0]

        def start(who: int) -> None:
            os.pwrite(log, bytes(8), 8 * who)
            seen[who].clear()
            pids[who] = nurseries[who].begin(ns, m, job="rounds", log=log, producer=who)
            wait_for(lambda: told(who) > 0, read)

        pids: list[int] = [0] * 4
        for who in range(4):
            start(who)
        for _ in range(kills):
            victim, end = rng.randrange(4), time.monotonic() + rng.random() * 0.004
            while time.monotonic() < end:
                read()
            os.kill(pids[victim], signal.SIGKILL)
            assert nurseries[victim].end() == -signal.SIGKILL
            last = ring.position(lib.BPF_RB_PROD_POS)  # one that lives may hold the ring up before it
            wait_for(lambda last=last: ring.position(lib.BPF_RB_CONS_POS) >= last, read)
            assert seen[victim] == list(range(len(seen[victim]))) and len(seen[victim]) in (told(victim), told(victim) + 1)
            start(victim)
        for who in range(4):
            os.kill(pids[who], signal.SIGKILL)
            nurseries[who].end()
        read()
        assert ring.counts()[0] == received and ring.counts()[2] <= kills + 4
        assert lib.ringbuf_unread(m.handle) == 0
        m.check()
    os.close(log)


def wait_for(condition, meanwhile) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the victim did nothing for 10 s"
        meanwhile()
        os.sched_yield()
