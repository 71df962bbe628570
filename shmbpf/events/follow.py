"""Several readers as one stream of events: waits for all of them at once, and costs nothing while nothing comes.

    take what there is -> nothing? arm every reader, look once more, sleep in poll() (or the asyncio loop) until one of them is woken

Readers are perf rings and ring buffers. Perf rings are merged in the order of time (merge.py); ring buffers keep their own order.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from shmbpf.errors import ShmbpfError
from shmbpf.events.merge import WINDOW_NS, TimeMerge
from shmbpf.events.records import Event

if TYPE_CHECKING:
    import asyncio

BATCH = 256


class Reader(Protocol):
    """What PerfRing and RingBuffer have in common. `cpu` and `slot` are -1 for ring buffers."""

    cpu: int
    slot: int

    def read(self, max_records: int = BATCH) -> list[Event]: ...

    def fileno(self) -> int: ...

    def arm(self) -> bool: ...

    def close(self) -> None: ...


class Follower:
    """The events of `readers`, which it owns, as an iterator: `for`, `async for`, or `poll()` for a batch.

    `timeout` seconds without an event end the iteration; None waits for ever. `stop()` ends it from a signal handler or another thread. For one consumer at a time.
    """

    def __init__(self, readers: Sequence[Reader], *, timeout: float | None = None, window_ns: int = WINDOW_NS):
        if timeout is not None and not timeout >= 0:
            raise ShmbpfError(f"timeout {timeout}: expected seconds, 0 or more, or None to wait for ever")
        self.readers = list(readers)
        self.timeout = timeout
        self._timed = [reader for reader in self.readers if reader.cpu >= 0]
        if len(self._timed) == 1:
            self._timed = []  # nothing to merge it with
        self._untimed = [reader for reader in self.readers if reader not in self._timed]
        self._merge = TimeMerge(len(self._timed), window_ns)
        self._ready: deque[Event] = deque()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.limit: int | None = None  #: how many more events are wanted: what a ring buffer holds beyond that stays there for others
        self._turn = threading.RLock()  #: held by who polls, so that nothing is closed under it
        self.is_stopped = False
        self.is_closed = False

    # -- what there is --

    def take(self) -> list[Event]:
        """What can be given out now, without waiting."""
        found: list[Event] = []
        for lane, reader in enumerate(self._timed):
            while self._merge.held(lane) < BATCH:  # beyond that it must wait for the others: what it has stays in its ring
                before = time.monotonic_ns()
                events = reader.read(BATCH)
                self._merge.put(lane, events, before, not events)
                if not events:
                    break
        for reader in self._untimed:
            found += reader.read(BATCH if self.limit is None else max(min(BATCH, self.limit - len(found)), 0))
        return found + self._merge.take(time.monotonic_ns())

    def drain(self) -> list[Event]:
        """What the readers hold and what is held here: at the end, when nobody waits for more."""
        found: list[Event] = []
        for lane, reader in enumerate(self._timed):
            while events := reader.read(BATCH):
                self._merge.put(lane, events, time.monotonic_ns(), False)
        for reader in self._untimed:
            while events := reader.read(BATCH):
                found += events
        rest, self._ready = list(self._ready), deque()
        return rest + found + self._merge.take_all()

    # -- waiting --

    def poll(self, timeout: float | None = None) -> list[Event]:
        """Events as soon as there are any; [] after `timeout` seconds without one, or after stop()."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._turn:
            while not self.is_stopped:
                found = self.take()
                if found:
                    return found
                if deadline is not None and time.monotonic() >= deadline:
                    break
                if not self._arm_all():
                    self._sleep(self._time_to_sleep(deadline))
        return []

    def _time_to_sleep(self, deadline: float | None) -> float | None:
        due = self._merge.due_ns(time.monotonic_ns())
        waits = [] if due is None else [due / 1e9]
        if deadline is not None:
            waits.append(deadline - time.monotonic())
        return max(min(waits), 0.0) if waits else None

    def _arm_all(self) -> bool:
        """True when some reader has something already. A ring that is held back by the merge is not asked: it would always have."""
        found = False
        for lane, reader in enumerate(self._timed):
            if self._merge.held(lane) < BATCH:
                found |= reader.arm()
        for reader in self._untimed:
            found |= reader.arm()
        return found

    def _sleep(self, wait: float | None) -> None:
        poll = select.poll()
        for fd in self._descriptors():
            poll.register(fd, select.POLLIN)
        poll.poll(None if wait is None else -(-wait * 1000 // 1))

    def _descriptors(self) -> list[int]:
        return [self._stop_fd, *(reader.fileno() for reader in self.readers)]

    async def wait(self, timeout: float | None = None) -> list[Event]:
        """As poll(), for asyncio: the loop goes on meanwhile."""
        import asyncio  # only by those who use it: it takes longer to import than all the rest

        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_stopped:
            found = self.take()
            if found:
                return found
            if deadline is not None and time.monotonic() >= deadline:
                break
            if self._arm_all():
                await asyncio.sleep(0)
            else:
                await self._doze(loop, self._time_to_sleep(deadline))
        return []

    async def _doze(self, loop: asyncio.AbstractEventLoop, wait: float | None) -> None:
        import asyncio

        woken = asyncio.Event()
        descriptors = self._descriptors()
        with ExitStack() as undo:
            for fd in descriptors:
                loop.add_reader(fd, woken.set)
                undo.callback(loop.remove_reader, fd)
            try:
                await asyncio.wait_for(woken.wait(), wait)
            except TimeoutError:
                pass

    def stop(self) -> None:
        """Ends waiting and iteration, now and from now on; safe in signal handlers and other threads."""
        self.is_stopped = True
        if not self.is_closed:
            os.eventfd_write(self._stop_fd, 1)

    # -- iterating --

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if not self._ready:
            self._ready.extend([] if self.is_closed else self.poll(self.timeout) or self.rest())
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Event:
        if not self._ready:
            self._ready.extend([] if self.is_closed else await self.wait(self.timeout) or self.rest())
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    # -- the end --

    def rest(self) -> list[Event]:
        """What is given out when nothing has come for `timeout` seconds, before iteration ends."""
        return []

    def close(self) -> None:
        """Closes every reader; whoever waits in another thread is at the end of its iteration. Idempotent."""
        self.stop()
        with self._turn:
            if self.is_closed:
                return
            self.is_closed = True
            os.close(self._stop_fd)
            with ExitStack() as stack:  # all of them, even if one fails
                for reader in self.readers:
                    stack.callback(reader.close)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "is_closed", True):
            self.close()
