"""The events of maps: rings made for perf event arrays, ring buffers opened, all of them followed as one stream, counted, and decoded if a type is known.

    with EventStream.open([map_]) as stream:        # a Follower: for, async for, poll()
        for event in stream: ...                    # Record, DecodedRecord or Lost
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from shmbpf._ffi import lib
from shmbpf.errors import ClosedError, ShmbpfError
from shmbpf.events.decode import RecordType, TypeCatalog, read_btf, split_type
from shmbpf.events.follow import Follower, Reader
from shmbpf.events.merge import WINDOW_NS
from shmbpf.events.perf import PerfRing
from shmbpf.events.records import Event, Lost
from shmbpf.events.ringbuf import RingBuffer
from shmbpf.maps.map import Map
from shmbpf.uapi import map_type_word

PAGES = 16


def has_rings(map_: Map) -> bool:
    """True for a perf event array."""
    return bool(map_.handle.ops.caps & lib.MAP_CAP_HOLDS_RINGS)


def has_events(map_: Map) -> bool:
    """True for maps that events come out of: perf event arrays and ring buffers."""
    return has_rings(map_) or bool(map_.handle.ops.caps & lib.MAP_CAP_RINGBUF)


def open_readers(map_: Map, cpus: Sequence[int] | None = None, pages: int = PAGES, slots: Sequence[int] | None = None) -> list[Reader]:
    """A ring for each CPU of `cpus` (default: all that have a slot) in the slots of a perf event array (default: of the CPUs' numbers), or the ring buffer.

    A ring buffer is shared by all CPUs: `cpus`, `pages` and `slots` mean nothing to it. Raises ShmbpfError for maps without events.
    """
    if not has_events(map_):
        raise ShmbpfError(f"map {map_.name!r} (id {map_.id}) is of type {map_type_word(map_.type)}: events come from a perf_event_array or a ringbuf")
    if not has_rings(map_):
        return [RingBuffer(map_)]
    chosen = list(range(min(map_.namespace.possible_cpus, map_.max_entries)) if cpus is None else dict.fromkeys(cpus))
    places = chosen if slots is None else list(slots)
    if len(places) != len(chosen):
        raise ShmbpfError(f"{len(chosen)} CPUs and {len(places)} slots: expected a slot for each CPU")
    with ExitStack() as undo:
        readers: list[Reader] = []
        for cpu, slot in zip(chosen, places, strict=True):
            readers.append(PerfRing.open(map_, cpu, pages, slot))
            undo.callback(readers[-1].close)
        undo.pop_all()
    return readers


@dataclass
class Tally:
    """What came and what did not. CPU -1: ring buffers, which all CPUs share."""

    received: Counter[int] = field(default_factory=Counter)
    lost: Counter[int] = field(default_factory=Counter)


class EventStream(Follower):
    """A Follower of maps. `types` says how the records of a map (by id) are decoded."""

    def __init__(self, sources: Sequence[tuple[Map, Reader]], *, types: Mapping[int, RecordType] | None = None, timeout: float | None = None, window_ns: int = WINDOW_NS):
        super().__init__([reader for _, reader in sources], timeout=timeout, window_ns=window_ns)
        self._sources = list(sources)
        self._types = dict(types or {})
        self._received: Counter[int] = Counter()
        self._lost_before = {id(reader): reader.lost for reader in self.readers}
        self._lost_at_end: Counter[int] | None = None
        self._told: Counter[int] = Counter()  #: losses told of, by reader (its id())
        self._ahead: Counter[int] = Counter()  #: of these, how many before the ring did
        self._by_ring = {reader.id: id(reader) for reader in self.readers if reader.cpu >= 0}

    @classmethod
    def open(cls, maps: Iterable[Map], *, cpus: Sequence[int] | None = None, pages: int = PAGES, slots: Sequence[int] | None = None,
             types: Mapping[int, RecordType] | None = None, timeout: float | None = None) -> EventStream:  # fmt: skip
        """Follows these maps from now on; see open_readers()."""
        with ExitStack() as undo:
            sources: list[tuple[Map, Reader]] = []
            for map_ in maps:
                for reader in open_readers(map_, cpus, pages, slots):
                    undo.callback(reader.close)
                    sources.append((map_, reader))
            stream = cls(sources, types=types, timeout=timeout)
            undo.pop_all()
        return stream

    def take(self) -> list[Event]:
        """As Follower.take(), counted and decoded."""
        return self._finish(super().take())

    def drain(self) -> list[Event]:
        """Takes the rings out of their slots, so that no program writes to them any more, and gives what they still hold."""
        for map_, reader in self._sources:
            if reader.slot >= 0:
                map_.withdraw_ring(reader.slot, reader.id)
        waiting, self._ready = list(self._ready), type(self._ready)()
        return waiting + self._finish(super().drain()) + self._untold()

    def _finish(self, events: list[Event]) -> list[Event]:
        types, received = self._types, self._received
        found: list[Event] = []
        for event in events:
            if type(event) is Lost:
                found += self._note_lost(event)
                continue
            received[event.cpu] += 1
            chosen = types.get(event.map_id) if types else None
            found.append(event if chosen is None else chosen.decode(event))
        return found

    def _note_lost(self, event: Lost) -> list[Event]:
        """The same loss, less what has been told of already."""
        key = self._by_ring.get(event.ring_id, 0)
        known = min(event.count, self._ahead[key])
        self._ahead[key] -= known
        self._told[key] += event.count - known
        return [replace(event, count=event.count - known)] if event.count > known else []

    def _untold(self) -> list[Event]:
        """Losses that no record behind them has told of, because none has come; ring buffers never tell."""
        found: list[Event] = []
        for map_, reader in self._sources:
            with suppress(ClosedError):
                count = reader.lost - self._lost_before[id(reader)] - self._told[id(reader)]
                if count > 0:
                    self._told[id(reader)] += count
                    self._ahead[id(reader)] += count if reader.cpu >= 0 else 0
                    found.append(Lost(count, reader.cpu, reader.slot, 0, map_.id, reader.id if reader.cpu >= 0 else 0))
        return found

    def rest(self) -> list[Event]:
        """What is left to say when iteration ends: losses at the very end."""
        return self._untold()

    def _lost(self) -> Counter[int]:
        lost: Counter[int] = Counter()
        for reader in self.readers:
            with suppress(ClosedError):  # its map went first
                lost[reader.cpu] += reader.lost - self._lost_before[id(reader)]
        return lost

    @property
    def tally(self) -> Tally:
        """Records given out and records lost since the stream was opened, by CPU; also after close()."""
        return Tally(Counter(self._received), self._lost() if self._lost_at_end is None else self._lost_at_end)

    def close(self) -> None:
        """Closes every reader. Idempotent."""
        self.stop()
        with self._turn:
            if self._lost_at_end is None:
                self._lost_at_end = self._lost()
            super().close()


def catalog_of(maps: Iterable[Map], others: Iterable[tuple[str, object]] = ()) -> TypeCatalog:
    """The types that these maps keep, and `others` behind them."""
    return TypeCatalog([*((f"map {map_.name!r}", map_.btf) for map_ in maps if map_.btf is not None), *others])


def follow_map(map_: Map, *, timeout: float | None = None, type: str | None = None, pages: int = PAGES, cpus: Sequence[int] | None = None) -> EventStream:
    """The stream behind TypedMap.records()."""
    types: dict[int, RecordType] = {}
    if type is not None:
        path, name = split_type(type)
        others = [] if path is None else [(path, read_btf(path))]
        types[map_.id] = (TypeCatalog(others) if others else catalog_of([map_])).find(name)
    return EventStream.open([map_], cpus=cpus, pages=pages, types=types, timeout=timeout)
