"""BPF ring buffers as their consumer sees them, and user ring buffers as their producers do.

The segment's file has what Linux's mmap of such a map shows, at the same offsets (docs/shm-layout.md), so a reader written for the kernel can map it too: the
consumer page, the producer page, and the data pages twice in a row.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shmbpf._ffi import ffi, lib
from shmbpf.errors import ClosedError, map_error
from shmbpf.events.records import Event, Record
from shmbpf.events.wake import Waiter
from shmbpf.maps.map import Map
from shmbpf.uapi import map_type_word

if TYPE_CHECKING:
    from shmbpf.maps.typed import TypedMap

_RECORD = struct.Struct("=IIQQQII")  # struct ring_record
_BATCH = 1024
_WATCH_NS = 5_000_000  # how often a sleeper looks whether the producer of the open record in front of it still lives
_CHUNK_BYTES = 1 << 20


class _Ring:
    """What both kinds have in common: the map, waiting, counters."""

    cpu = -1
    slot = -1

    def __init__(self, map_: Map | TypedMap, cap: int, word: str):
        map_ = getattr(map_, "raw", map_)
        if not map_.handle.ops.caps & cap:
            raise map_error(errno.EINVAL, f"map {map_.name!r} (id {map_.id}) is of type {map_type_word(map_.type)}: expected a {word}")
        self._map = map_
        self.map_id = self.id = map_.id
        self.size: int = map_.max_entries
        self._waiter = Waiter(map_.namespace, "map", map_.id, lib.ringbuf_wake_of(map_.handle))
        self._is_closed = False

    def fileno(self) -> int:
        """For poll(), epoll and asyncio: readable after a wake-up. Call arm() before sleeping on it."""
        return self._waiter.fileno()

    @property
    def aborted(self) -> int:
        """Records that were discarded because their producers died before they had finished them."""
        return self._count().aborted

    def _count(self):
        counts, handle = ffi.new("struct ringbuf_counts *"), self._handle
        err = lib.ringbuf_count(handle, self._client, counts)
        if err:
            raise map_error(-err, f"map {self._map.name!r}: process {self._blocker()} keeps its lock, and lives")
        return counts

    def _blocker(self) -> int:
        return lib.shm_owner_pid(self._client, self._client.blocker)

    def close(self) -> None:
        """Stops waiting for the map, which stays its owner's. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._waiter.close()

    @property
    def _handle(self):
        """The map's handle. Nobody keeps it: the map could not be closed then."""
        if self._is_closed:
            raise ClosedError(f"ring buffer {self._map.name!r} is closed: open it again")
        return self._map.handle

    @property
    def _client(self):
        return self._map.namespace.client

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of map {self._map.name!r} id {self.map_id}, {self.size} bytes>"


class RingBuffer(_Ring):
    """The consumer of a ring buffer map: records of all CPUs, in the order in which they were reserved. A ring has one consumer at a time. Usable in poll() and `with`.

    `read()` and `chunks()` consume. A record that a dead producer left open is passed over and counted in `aborted`; one that is merely slow is waited for.
    """

    def __init__(self, map_: Map | TypedMap):
        super().__init__(map_, lib.MAP_CAP_RINGBUF, "ringbuf")
        self._records = ffi.new("struct ring_record[]", _BATCH)
        self._make_buffer(min(self.size, 1 << 18))
        self._alarm = lib.ringbuf_alarm_open()
        if self._alarm < 0:
            self._waiter.close()
            raise map_error(-self._alarm, f"map {map_.name!r}: no descriptor for a timer: {os.strerror(-self._alarm)}")
        self._poll = select.epoll(sizehint=2)
        for fd in (self._waiter.fileno(), self._alarm):
            self._poll.register(fd, select.EPOLLIN)

    def _make_buffer(self, size: int) -> None:
        self._buffer, self._buffer_bytes = ffi.new("uint8_t[]", size), size

    # -- reading --

    def read(self, max_records: int = _BATCH) -> list[Event]:
        """Up to `max_records` unread records; [] when there is nothing. MapError(EUCLEAN): somebody wrote over the consumer's position; what was unread is lost, and the
        next read goes on behind it."""
        count = self._fill(min(max_records, _BATCH))
        if count == -errno.ENOSPC:  # one record larger than the buffer
            self._make_buffer(self.size)
            count = self._fill(min(max_records, _BATCH))
        if count < 0:
            raise self._damaged(-count)
        map_id, data = self.map_id, ffi.buffer(self._buffer)
        return [
            Record(data[off : off + size], map_id=map_id)
            for _, _, _, _, off, size, _ in _RECORD.iter_unpack(ffi.buffer(self._records, count * _RECORD.size))
        ]

    def _fill(self, room: int) -> int:
        return lib.ringbuf_read(self._handle, self._client, self._records, room, self._buffer, self._buffer_bytes)

    def _damaged(self, number: int):
        return map_error(number, f"map {self._map.name!r}: the consumer's position or a record made no sense (was the consumer page written to?): unread records were skipped")

    def chunks(self) -> Iterator[memoryview]:
        """Unread records as they lie in the ring, many in one memoryview, for speed: each an 8-byte header (u32 length, its bit 30 set when discarded; u32), the payload, and
        padding to 8. A chunk is valid, and consumed, until the next one is asked for; ends when nothing is unread."""
        start = ffi.new("const uint8_t **")
        while True:
            handle = self._handle
            size = lib.ringbuf_peek(handle, self._client, _CHUNK_BYTES, start)
            if size < 0:
                raise self._damaged(-size)
            if not size:
                return
            memory = ffi.gc(start[0], lambda _, keeps=handle: None)  # the mapping lives as long as any view of it
            del handle
            yield memoryview(ffi.buffer(memory, size)).toreadonly()
            del memory
            lib.ringbuf_consume(self._handle, size)

    # -- waiting --

    def fileno(self) -> int:
        """For poll(), epoll and asyncio: readable after a wake-up. Call arm() before sleeping on it."""
        return self._poll.fileno()

    def arm(self) -> bool:
        """Before sleeping: asks to be woken. True when there is something to read already."""
        handle = self._handle  # what the waiter points into stays meanwhile
        self._waiter.clear()
        lib.ringbuf_alarm_set(self._alarm, 0)
        self._waiter.arm()
        if not lib.ringbuf_unread(handle) or not lib.ringbuf_stalled(handle):
            return lib.ringbuf_unread(handle) > 0
        lib.wake_arm(lib.ringbuf_wake_of(handle), lib.RINGBUF_WAKE_STALLED)
        lib.ringbuf_alarm_set(self._alarm, _WATCH_NS)
        return not lib.ringbuf_stalled(handle)

    @property
    def stalled(self) -> bool:
        """True while the next record is reserved but not finished: nothing can be read before it is, or its producer has died."""
        return bool(lib.ringbuf_stalled(self._handle))

    # -- facts --

    @property
    def unread(self) -> int:
        """Bytes between the positions of producers and consumer, headers and unfinished records included."""
        return lib.ringbuf_unread(self._handle)

    @property
    def sent(self) -> int:
        """Records submitted since the map was made (discarded ones do not count)."""
        return self._count().sent

    @property
    def lost(self) -> int:
        """Records that found no room."""
        return self._count().lost

    def close(self) -> None:
        """Stops reading; the map, and what is unread in it, stay. Idempotent."""
        if not self._is_closed:
            self._poll.close()
            os.close(self._alarm)
        super().close()


class UserRingBuffer(_Ring):
    """A producer of a user ring buffer map, whose samples a program takes with bpf_user_ringbuf_drain(). Any number of processes may write at the same time."""

    def __init__(self, map_: Map):
        super().__init__(map_, lib.MAP_CAP_USER_RINGBUF, "user_ringbuf")

    def write(self, data: bytes) -> None:
        """Adds one sample. MapError: ENOSPC when there is no room before a program drains some, E2BIG for what never fits."""
        if isinstance(data, str):
            raise TypeError("a sample is bytes, not str: encode it")
        err = lib.user_ringbuf_write(self._handle, self._client, ffi.from_buffer(data), len(data))
        if err:
            raise map_error(-err, self._refusal(len(data), -err))

    def _refusal(self, size: int, number: int) -> str:
        what = f"map {self._map.name!r}: a sample of {size} bytes"
        if number == errno.ENOSPC:
            return f"{what} finds no room: {self.room} of {self.size} bytes are free, and only a program makes more (arm(), then wait for fileno())"
        if number == errno.E2BIG:
            return f"{what}: at most {min(self.size - 8, lib.USER_RINGBUF_MAX_SAMPLE)} bytes fit"
        if number == errno.EBUSY:
            return f"{what}: process {self._blocker()} keeps the ring's lock, and lives"
        return f"{what}: the ring's positions make no sense, somebody has written over them"

    @property
    def room(self) -> int:
        """Free bytes. A sample takes 8 more than its size, rounded up to a multiple of 8."""
        return lib.user_ringbuf_room(self._handle)

    def arm(self) -> bool:
        """Before sleeping until a program has drained samples: asks to be woken. True when all of the ring is free."""
        handle = self._handle  # what the waiter points into stays meanwhile
        self._waiter.clear()
        self._waiter.arm()
        return lib.user_ringbuf_room(handle) == self.size

    @property
    def drained(self) -> int:
        """Samples that programs were shown."""
        return self._count().sent
