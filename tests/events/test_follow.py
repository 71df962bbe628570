"""Follower: several readers at once, without busy loops, in threads and in asyncio. Readers are fakes with a real descriptor."""

from __future__ import annotations

import asyncio
import os
import resource
import threading

import pytest

from shmbpf.events.follow import BATCH, Follower
from shmbpf.events.records import Lost, Record


class FakeReader:
    """A reader fed by put(). Counts what it is asked."""

    def __init__(self, cpu=-1):
        self.cpu = self.slot = cpu
        self.events = []
        self.armed = self.reads = self.arms = self.closed = 0
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def put(self, *events):
        self.events += events
        if self.armed:
            self.armed = 0
            os.write(self._write_fd, b"x")

    def read(self, max_records=BATCH):
        self.reads += 1
        found, self.events = self.events[:max_records], self.events[max_records:]
        return found

    def fileno(self):
        return self._read_fd

    def arm(self):
        self.arms += 1
        try:
            os.read(self._read_fd, 4096)
        except BlockingIOError:
            pass
        self.armed = 1
        return bool(self.events)

    def close(self):
        self.closed += 1
        os.close(self._read_fd)
        os.close(self._write_fd)


def record(number, cpu=-1):
    return Record(b"%d" % number, cpu, cpu, number if cpu >= 0 else 0)


@pytest.fixture
def readers():
    made = [FakeReader(), FakeReader()]
    yield made
    assert [reader.closed for reader in made] == [1, 1]


def test_events_of_all_readers_come(readers):
    readers[0].put(record(1), record(2))
    readers[1].put(record(3))
    with Follower(readers, timeout=0) as follower:
        assert sorted(event.data for event in follower) == [b"1", b"2", b"3"]


def test_poll_returns_empty_after_its_timeout(readers):
    with Follower(readers) as follower:
        assert follower.poll(0) == [] and follower.poll(0.01) == []


def test_sleeper_is_woken_by_any_reader(readers):
    with Follower(readers, timeout=20) as follower:
        timer = threading.Timer(0.05, readers[1].put, [record(7)])
        timer.start()
        assert next(follower) == record(7)
        timer.join()


def test_event_that_comes_while_arming_is_not_slept_over(readers):
    class Racing(FakeReader):
        def arm(self):
            if not self.arms:
                self.events.append(record(9))  # between the last look and the arming: no wake-up is sent
            return super().arm()

    racing = Racing()
    with Follower([*readers, racing]) as follower:
        assert follower.poll(20) == [record(9)]


def test_idle_follower_does_not_loop(readers):
    with Follower(readers) as follower:
        before = resource.getrusage(resource.RUSAGE_THREAD)
        assert follower.poll(0.3) == []
        used = resource.getrusage(resource.RUSAGE_THREAD)
    assert readers[0].reads <= 3 and readers[0].arms <= 3
    assert used.ru_nvcsw - before.ru_nvcsw <= 20


def test_stop_ends_a_sleeper(readers):
    with Follower(readers) as follower:
        timer = threading.Timer(0.05, follower.stop)
        timer.start()
        assert list(follower) == []
        timer.join()


def test_close_ends_a_sleeper_in_another_thread(readers):
    follower = Follower(readers)
    found = []
    thread = threading.Thread(target=lambda: found.append(list(follower)))
    thread.start()
    while not readers[1].arms:
        pass
    follower.close()
    thread.join(20)
    assert found == [[]]
    follower.close()


def test_records_of_rings_are_merged_by_time():
    readers = [FakeReader(0), FakeReader(1)]
    readers[0].put(record(1, 0), record(4, 0), record(5, 0))
    readers[1].put(record(2, 1), record(3, 1), record(6, 1))
    with Follower(readers, timeout=0.05) as follower:
        assert [event.time_ns for event in follower] == [1, 2, 3, 4, 5, 6]


def test_backlog_of_one_ring_is_not_read_into_memory():
    readers = [FakeReader(0), FakeReader(1)]
    far = 1 << 62  # later than now: it waits for the window
    readers[0].put(*(Record(b"", 0, 0, far + number) for number in range(10 * BATCH)))
    with Follower(readers, window_ns=1 << 60) as follower:
        assert follower.poll(0.02) == []
        assert len(readers[0].events) >= 8 * BATCH
        assert len(follower.drain()) == 10 * BATCH


def test_loss_keeps_its_place_across_rings():
    readers = [FakeReader(0), FakeReader(1)]
    lost = Lost(5, 0, 0)
    readers[0].put(record(1, 0), lost, record(9, 0))
    readers[1].put(record(4, 1))
    with Follower(readers, timeout=0.05) as follower:
        events = list(follower)
    assert events.index(record(1, 0)) < events.index(lost) < events.index(record(9, 0))


def test_limit_leaves_the_rest_in_a_ring_buffer(readers):
    readers[0].put(*map(record, range(10)))
    with Follower(readers) as follower:
        follower.limit = 4
        assert len(follower.poll(0)) == 4
    assert len(readers[0].events) == 6


def test_async_iteration_lets_others_run(readers):
    ticks = []

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.01)

    async def consume():
        ticker = asyncio.create_task(tick())
        asyncio.get_running_loop().call_later(0.1, readers[0].put, record(1), record(2))
        with Follower(readers, timeout=0.2) as follower:
            found = [event async for event in follower]
        ticker.cancel()
        return found

    assert asyncio.run(consume()) == [record(1), record(2)]
    assert len(ticks) > 3


def test_cancelled_async_iteration_leaves_no_reader_in_the_loop(readers):
    async def consume():
        loop = asyncio.get_running_loop()
        follower = Follower(readers)
        task = asyncio.create_task(follower.wait())
        while not readers[1].arms:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [loop.remove_reader(reader.fileno()) for reader in readers] == [False, False]
        follower.close()

    asyncio.run(consume())


def test_follower_that_nobody_closed_closes_its_readers(readers):
    for _ in Follower(readers, timeout=0):
        pass
