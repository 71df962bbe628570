"""Faults as a person wants to hear of them: each kind at once when it first happens, then how often it came again, at most one line a second.

Every CPU counts its faults by kind (same program, same instruction, same code) in the run segment, so nothing is dropped however fast they come:
the numbers here are those of the `faults` column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shmbpf._ffi import lib
from shmbpf.engine.fault import describe_fault
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment

_EVERY_S = 1.0
_NAMED = 3  #: kinds that a line about repetitions names

Kind = tuple[int, int, int]  #: program id, instruction, code


@dataclass
class FaultCount:
    """One kind of fault, over all CPUs."""

    text: str  #: the first one, described
    program: int
    insn: int
    count: int = 0
    told: int = 0  #: of these, how many the lines so far account for

    def as_json(self) -> dict:
        """Its entry in the document of a run."""
        return {"count": self.count, "prog_id": self.program, "insn": self.insn, "first": self.text}


class FaultWatch:
    """What has gone wrong in a runtime. `look()` gives the lines that are due; `kinds` has the counts as of the last look."""

    def __init__(self, namespace: Namespace, run: Segment, cpus: int):
        self._namespace, self._run, self._cpus = namespace, run, cpus
        self.kinds: dict[Kind, FaultCount] = {}
        self.others = 0  #: faults of more kinds than a CPU keeps apart
        self._others_told = 0
        self._next_line = 0.0

    def look(self, now: float, *, is_last: bool = False) -> Iterator[str]:
        """Lines about what came since the last look. `now` is time.monotonic(); repetitions wait for their second, unless this is the last look."""
        for kind in self._count():
            self._next_line = self._next_line or now + _EVERY_S
            kind.told += 1
            yield f"fault: {kind.text}"
        if self._next_line and (is_last or now >= self._next_line):
            self._next_line = now + _EVERY_S
            yield from self._repetitions()

    def totals(self) -> list[FaultCount]:
        """Every kind, the most frequent first."""
        return sorted(self.kinds.values(), key=lambda kind: -kind.count)

    def _count(self) -> list[FaultCount]:
        """Takes over the counters of every CPU; returns the kinds that are new."""
        new: list[FaultCount] = []
        for kind in self.kinds.values():
            kind.count = 0
        self.others = 0
        for cpu in range(self._cpus):
            faults = lib.net_run_faults(self._run.base, self._run.bytes, cpu)
            self.others += faults.others
            for index in range(min(lib.net_run_fault_kinds(faults), lib.NET_FAULT_KINDS)):
                entry = faults.kind[index]
                key = (entry.first.prog_id, entry.first.insn, entry.first.code)
                if key not in self.kinds:
                    self.kinds[key] = FaultCount(describe_fault(self._namespace, entry.first), *key[:2])
                    new.append(self.kinds[key])
                self.kinds[key].count += entry.count
        return new

    def _repetitions(self) -> Iterator[str]:
        again = sorted((kind for kind in self.kinds.values() if kind.count > kind.told), key=lambda kind: kind.told - kind.count)
        total = sum(kind.count - kind.told for kind in again) + self.others - self._others_told
        if not total:
            return
        named = [f"{kind.count - kind.told:,} times {_short(kind.text)}" for kind in again[:_NAMED]]
        rest = f", and {len(again) - _NAMED} other kinds" if len(again) > _NAMED else ""
        yield f"faults: {total:,} more: {', '.join(named)}{rest}"
        for kind in again:
            kind.told = kind.count
        self._others_told = self.others


def _short(text: str) -> str:
    """`program f (id 3), instruction 7` out of a fault's line."""
    return text.partition(": ")[2].partition(" [")[0].partition(": ")[0]


