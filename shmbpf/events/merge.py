"""Records of several CPUs in the order of their times, as far as that can be known without waiting for ever.

    ring of CPU 0   10 14 19 |            seen up to 19: it holds more, later ones
    ring of CPU 1   12 |                  found empty at time 30: seen up to 30 - SLACK_NS
                    ---------->
    given out       10 12 14 19

A record is given out when every ring has been seen at or past its time: then nothing earlier can come. A record bears the time at which its program sent it and
appears in the ring a moment later, so an empty ring counts as seen up to SLACK_NS ago. No record is held for longer than the window, whatever its time says,
and no ring is read further while it holds a batch that cannot go out: both time and memory are bounded. The order within a ring is never changed, so a loss
stays between its neighbours. Readers whose records bear no times (ring buffers, rings without PERF_SAMPLE_TIME) take no part: theirs go out as they are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter

from shmbpf.events.records import Event

WINDOW_NS = 100_000_000
SLACK_NS = 2_000_000
_ENDLESS = 1 << 64
_by_time = itemgetter(0)


class _Lane:
    """One ring: (time, event) pairs that are held, and how far it has been seen."""

    __slots__ = ("held", "last_ns", "seen_ns", "since_ns")

    def __init__(self) -> None:
        self.held: deque[tuple[int, Event]] = deque()
        self.seen_ns = 0
        self.last_ns = 0  #: time of the last event; what bears none, or goes back, counts as simultaneous with the one before it
        self.since_ns = 0  #: when the oldest event that is held was read

    def take(self, events: Sequence[Event], now_ns: int, is_drained: bool) -> None:
        if events and not self.held:
            self.since_ns = now_ns
        last = self.last_ns
        for event in events:
            last = max(last, event.time_ns)
            self.held.append((last, event))
        self.last_ns = last
        self.seen_ns = max(now_ns - SLACK_NS, last) if is_drained or not last else last

    def give(self, limit_ns: int, now_ns: int) -> list[tuple[int, Event]]:
        held = self.held
        given = []
        while held and held[0][0] <= limit_ns:
            given.append(held.popleft())
        if given:
            self.since_ns = now_ns
        return given


class TimeMerge:
    """Merges `lanes` rings. `put()` what was read of each, `take()` what may go out. All times are CLOCK_MONOTONIC in ns."""

    def __init__(self, lanes: int, window_ns: int = WINDOW_NS):
        self._lanes = [_Lane() for _ in range(lanes)]
        self._window_ns = window_ns

    def put(self, lane: int, events: Sequence[Event], now_ns: int, is_drained: bool) -> None:
        """Events just read of a ring, in its order. `now_ns` is the time before the ring was read; `is_drained`: it held no more."""
        self._lanes[lane].take(events, now_ns, is_drained)

    def held(self, lane: int) -> int:
        """Events of a ring that wait to be given out."""
        return len(self._lanes[lane].held)

    @property
    def is_empty(self) -> bool:
        """True when nothing waits."""
        return not any(lane.held for lane in self._lanes)

    def take(self, now_ns: int) -> list[Event]:
        """What may go out now, earliest first."""
        seen = self._seen_by_all()
        parts = [lane.give(max(seen, self._overdue(lane, now_ns)), now_ns) for lane in self._lanes if lane.held]
        return self._in_order([part for part in parts if part])

    def take_all(self) -> list[Event]:
        """Everything that is held, earliest first: at the end, when nothing more comes."""
        return self._in_order([lane.give(_ENDLESS, 0) for lane in self._lanes if lane.held])

    def due_ns(self, now_ns: int) -> int | None:
        """How long to wait until something that is held may go out although nothing new comes; None when nothing is held."""
        waits = [lane.since_ns + self._window_ns - now_ns for lane in self._lanes if lane.held]
        return max(min(SLACK_NS, *waits), 0) if waits else None

    def _seen_by_all(self) -> int:
        return min((lane.seen_ns for lane in self._lanes), default=_ENDLESS) if len(self._lanes) > 1 else _ENDLESS

    def _overdue(self, lane: _Lane, now_ns: int) -> int:
        return _ENDLESS if now_ns - lane.since_ns >= self._window_ns else 0

    @staticmethod
    def _in_order(parts: list[list[tuple[int, Event]]]) -> list[Event]:
        if len(parts) == 1:
            return [event for _, event in parts[0]]
        return [event for _, event in sorted(chain.from_iterable(parts), key=_by_time)]  # stable: equal times keep their ring's order
