"""What a measurement gives, and how it is taken: rounds in which every side has its turn, so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One line: ours, and the kernel's in the same unit (None: not asked). `target` is a most, or a least when `at_least`."""

    what: str
    unit: str
    ours: float
    kernel: float | None = None
    target: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours by the kernel's."""
        return self.ours / self.kernel if self.kernel else None

    def document(self) -> dict[str, object]:
        """The figure as JSON has it."""
        bound = {"at_least" if self.at_least else "at_most": self.target} if self.target is not None else None
        return {"what": self.what, "unit": self.unit, "ours": self.ours, "kernel": self.kernel, "ratio": self.ratio, "target": bound}


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds` turns of about `slice_ns` for each side; `large`: maps of a million entries too."""

    rounds: int
    slice_ns: int
    large: bool


@dataclass
class Session:
    """What every measurement is given: how long to measure, whether to ask the kernel too, whom to tell what is being measured; and it adds notes."""

    effort: Effort
    kernel: bool
    progress: Callable[[str], None]
    notes: list[str] = field(default_factory=list)


FULL = Effort(rounds=7, slice_ns=20_000_000, large=True)
QUICK = Effort(rounds=3, slice_ns=4_000_000, large=False)


def best_of(rounds: int, sides: Sequence[Callable[[], float] | None]) -> list[float | None]:
    """The smallest result of each side, after `rounds` turns of all; None stays None."""
    results: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, found in zip(sides, results, strict=True):
            if side:
                found.append(side())
    return [min(found) if found else None for found in results]


def usable_cpus() -> list[int]:
    """CPUs of the machine this process may run on."""
    return sorted(os.sched_getaffinity(0))
