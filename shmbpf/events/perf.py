"""Perf rings: a consumer's own ring of one CPU, put into a slot of a perf event array.

The file of the ring's segment is what Linux's mmap of a perf event shows (docs/shm-layout.md), so a reader written for the kernel can map it too.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shmbpf._ffi import ffi, lib
from shmbpf.errors import ShmbpfError, map_error
from shmbpf.events.records import Event, Lost, Record
from shmbpf.events.wake import Waiter
from shmbpf.maps.map import Map
from shmbpf.shm.live import Handle, owned, take_away
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment
from shmbpf.uapi import map_type_word

if TYPE_CHECKING:
    from shmbpf.maps.typed import TypedMap

RAW, TIME = lib.PERF_SAMPLE_RAW, lib.PERF_SAMPLE_TIME
_RECORD = struct.Struct("=IIQQQII")  # struct ring_record
_BATCH = 1024


class PerfRing:
    """A ring of `pages` data pages (4,096 bytes each) that CPU `cpu` writes and this process reads. Made by `PerfRing.open()`; usable in poll() and `with`.

    `read()` and `chunks()` consume. Records of a CPU come in the order in which it sent them; those that found no room are counted in `lost`, and told of by a
    `Lost` in their place once there is room again.
    """

    _handle = Handle()

    def __init__(self, map_: Map, slot: int, segment: Segment):
        self._map, self._segment = map_, segment
        handle = ffi.new("struct ring *")
        err = lib.ring_attach(handle, segment.base, segment.bytes)
        if err:
            segment.close()
            raise map_error(-err, f"{segment.name}: the ring is damaged")
        self._handle = owned(handle, segment.close)
        self.slot, self.cpu, self.id, self.pages = slot, self._handle.attr.cpu, self._handle.id, self._handle.attr.pages
        self.map_id = map_.id
        self.path = f"/dev/shm/{segment.name}"  #: of the file a foreign reader maps
        self._waiter = Waiter(map_.namespace, "ring", self.id, self._handle.wake)
        self._records = ffi.new("struct ring_record[]", _BATCH)
        self._buffer_bytes = max(1 << 16, min(self._handle.data_bytes, 1 << 20))
        self._buffer = ffi.new("uint8_t[]", self._buffer_bytes)
        self._bounce = ffi.new("uint8_t[]", 1 << 16)
        self._closing = threading.Lock()
        map_.add_ring(self)

    @classmethod
    def open(cls, map_: Map | TypedMap, cpu: int, pages: int = 16, slot: int | None = None, *, sample_type: int = RAW | TIME, wakeup_events: int = 1, watermark: int | None = None,
             sample_id_all: bool = False, backward: bool = False, overwrite: bool = False, disabled: bool = False) -> PerfRing:  # fmt: skip
        """A new ring of a CPU, in slot `slot` (default: the CPU's number) of a perf event array, where it replaces what was there.

        The options are perf_event_attr's: wake up after every `wakeup_events` events, or every `watermark` bytes. `overwrite`: as Linux's read-only mapping, old records give
        way; with `backward` such a ring can be read, newest first. The slot is emptied when this ring or the map object is closed, or this process dies, unless the map
        has BPF_F_PRESERVE_ELEMS. Raises ShmbpfError for sizes and CPUs that do not exist, SpaceError.
        """
        map_ = getattr(map_, "raw", map_)
        if not map_.handle.ops.caps & lib.MAP_CAP_HOLDS_RINGS:
            hint = " (a ring buffer is read with records(), or by hand with shmbpf.RingBuffer)" if map_.handle.ops.caps & lib.MAP_CAP_RINGBUF else ""
            raise map_error(errno.EINVAL, f"map {map_.name!r} is of type {map_type_word(map_.type)}: rings go into a perf_event_array{hint}")
        attr = ffi.new("struct ring_attr *")
        attr.sample_type, attr.cpu, attr.pages = sample_type, _unsigned("cpu", cpu), _unsigned("pages", pages)
        attr.wakeup = _unsigned("wakeup", wakeup_events if watermark is None else watermark)
        attr.flags = (
            lib.RING_WATERMARK * (watermark is not None) | lib.RING_SAMPLE_ID_ALL * sample_id_all | lib.RING_BACKWARD * backward
            | lib.RING_OVERWRITE * overwrite | lib.RING_DISABLED * disabled
        )  # fmt: skip
        ring = cls(map_, cpu if slot is None else slot, cls._create(map_, attr))
        try:
            map_.update(struct.pack("=I", _unsigned("slot", ring.slot)), struct.pack("=I", ring.id))
        except BaseException:
            ring.close()
            raise
        return ring

    @staticmethod
    def _create(map_: Map, attr) -> Segment:
        namespace = map_.namespace
        size = ffi.new("uint64_t *")
        err = lib.ring_plan(attr, namespace.possible_cpus, size)
        if err:
            raise map_error(-err, _refusal(attr, namespace.possible_cpus, -err))

        def fill(segment: Segment, number: int) -> None:
            lib.ring_format(segment.base, segment.bytes, attr, namespace.possible_cpus, number, namespace.client.owner)

        return namespace.create_segment("ring", size[0], fill)[0]

    # -- reading --

    def read(self, max_records: int = _BATCH) -> list[Event]:
        """Up to `max_records` unread records, and losses where they happened; [] when there is nothing."""
        count = lib.ring_read(self._handle, self._records, min(max_records, _BATCH), self._buffer, self._buffer_bytes)
        if count < 0:
            raise map_error(-count, f"ring {self.id}: overwritten forwards, where no record's start is known: open it with backward=True")
        return self._events(count)

    def _events(self, count: int) -> list[Event]:
        found: list[Event] = []
        cpu, slot, map_id, buffer = self.cpu, self.slot, self.map_id, ffi.buffer(self._buffer)
        for kind, _, time_ns, lost, off, size, _ in _RECORD.iter_unpack(ffi.buffer(self._records, count * _RECORD.size)):
            if kind == lib.PERF_RECORD_SAMPLE:
                found.append(Record(buffer[off:off + size], cpu, slot, time_ns, map_id))
            elif kind == lib.PERF_RECORD_LOST:
                found.append(Lost(lost, cpu, slot, time_ns, map_id, self.id))
        return found

    def chunks(self) -> Iterator[memoryview]:
        """Unread records as they lie in the ring, headers included (struct perf_event_header), many in one memoryview, for speed. Each is valid, and consumed,
        until the next one is asked for; ends when nothing is unread."""
        start, size = ffi.new("const uint8_t **"), ffi.new("uint64_t *")
        while True:
            handle = self._handle
            err = lib.ring_peek(handle, self._bounce, start, size)
            if err:
                raise map_error(-err, f"ring {self.id}: overwritten records are read with read()")
            if not size[0]:
                return
            memory = ffi.gc(start[0], lambda _, keeps=handle: None)  # the mapping lives as long as any view of it
            del handle
            yield memoryview(ffi.buffer(memory, size[0])).toreadonly()
            del memory
            lib.ring_consume(self._handle, size[0])

    # -- waiting --

    def fileno(self) -> int:
        """For poll(), epoll and asyncio: readable after a wake-up. Call arm() before sleeping on it."""
        _ = self._handle
        return self._waiter.fileno()

    def arm(self) -> bool:
        """Before sleeping: asks to be woken. True when there is something to read already."""
        handle = self._handle  # what the waiter points into stays meanwhile
        self._waiter.clear()
        self._waiter.arm()
        return lib.ring_unread(handle) > 0

    # -- facts and switches --

    @property
    def unread(self) -> int:
        """Bytes not read yet."""
        return lib.ring_unread(self._handle)

    @property
    def sent(self) -> int:
        """Records put in since the ring was made."""
        return lib.ring_sent(self._handle)

    @property
    def lost(self) -> int:
        """Records that found no room."""
        return lib.ring_lost(self._handle)

    @property
    def broken(self) -> int:
        """Times the ring's bytes made no sense, because somebody scribbled over them, and were skipped."""
        return self._handle.broken

    def pause(self, paused: bool = True) -> None:
        """PERF_EVENT_IOC_PAUSE_OUTPUT: while paused, records are lost (and counted)."""
        self._handle.ctl.paused = paused

    def enable(self, enabled: bool = True) -> None:
        """PERF_EVENT_IOC_ENABLE and _DISABLE: output to a disabled ring fails with EOPNOTSUPP."""
        self._handle.ctl.enabled = enabled

    def check(self) -> None:
        """Raises MapError(EUCLEAN) saying what is wrong with the ring's state."""
        check_ring(self._map.namespace, self.id)

    def close(self) -> None:
        """Takes the ring out of its slot and lets go of it; unread records are gone. Idempotent."""
        with self._closing:
            handle = self.__dict__.get("_handle")
            if handle is None:
                return
            handle.ctl.unmapped = 1
            del handle
            self._map.withdraw_ring(self.slot, self.id)
            self._waiter.close()
            self._segment.unlink()
            take_away(self, "_handle")

    def closed_text(self) -> str:
        """What using it after its end is answered with."""
        return f"ring {self.id} of CPU {self.cpu} is closed (it, its map or its runtime): open a new one"

    def __enter__(self) -> PerfRing:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<perf ring {self.id}: CPU {self.cpu}, {self.pages} pages, slot {self.slot} of map id {self.map_id}>"


def check_ring(namespace: Namespace, number: int) -> None:
    """Looks at the ring with this id, whoever's it is. Raises MapError(EUCLEAN) saying what is wrong, FileNotFoundError when it is gone."""
    with namespace.open_segment("ring", number) as segment:
        ring, why = ffi.new("struct ring *"), ffi.new("char[160]")
        err = lib.ring_attach(ring, segment.base, segment.bytes) or lib.ring_check(ring, why, 160)
        if err:
            raise map_error(-err, f"ring {number}: {ffi.string(why).decode() or 'its segment is damaged'}")


def _unsigned(name: str, value: int) -> int:
    if not 0 <= value < 1 << 32:
        raise ShmbpfError(f"{name} {value}: expected 0 to {(1 << 32) - 1}")
    return value


def _refusal(attr, cpus: int, number: int) -> str:
    if number == errno.ENODEV:
        return f"CPU {attr.cpu} does not exist: this namespace has CPUs 0 to {cpus - 1}"
    if attr.pages == 0 or attr.pages & (attr.pages - 1) or attr.pages > lib.RING_MAX_PAGES:
        return f"a ring of {attr.pages} data pages: expected a power of two, at most {lib.RING_MAX_PAGES}"
    return f"sample type {attr.sample_type:#x}: a field that is not supported here ({os.strerror(number)})"
