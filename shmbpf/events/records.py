"""What consumers of events are given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """One event.

    `data` is what the program sent: exact for ring buffers; with up to 7 stale padding bytes for perf rings, as on Linux. `cpu`: of the ring, -1 for ring buffers, which all
    CPUs share. `index`: the slot, -1 for ring buffers. `time_ns`: CLOCK_MONOTONIC when it was sent, 0 when the ring does not carry times.
    """

    data: bytes
    cpu: int = -1
    index: int = -1
    time_ns: int = 0
    map_id: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """`count` events were lost here: between the records before and behind it of the same CPU."""

    count: int
    cpu: int = -1
    index: int = -1
    time_ns: int = 0
    map_id: int = 0
    ring_id: int = 0


Event = Record | Lost
