"""What the CPUs of a runtime have counted, read from its run segment: by the supervisor, or by any other process while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from shmbpf._ffi import ffi, lib
from shmbpf.uapi import Hook

#: counters that are summed as they are
_SUMS = ("packets", "bytes", "run_ns", "faults", "lost", "events_sent", "events_lost", "out_packets", "out_errors")


@dataclass
class CpuReport:
    """Counters of one CPU (or the sum of all). `verdicts[hook][name]` counts program results; `run_ns` is sampled time inside programs."""

    cpu: int | None
    packets: int = 0
    bytes: int = 0
    run_ns: int = 0
    faults: int = 0
    lost: int = 0
    events_sent: int = 0
    events_lost: int = 0
    out_packets: int = 0
    out_errors: int = 0
    runs: int = 0
    restarts: int = 0
    pid: int = 0
    out_errno: int = 0
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def flat_verdicts(self) -> dict[str, int]:
        """Verdicts by name; names are prefixed with their hook (`xdp.pass`, `tc.ok`) when programs of several hooks have run."""
        several = len(self.verdicts) > 1
        return {f"{hook}.{name}" if several else name: count for hook, names in self.verdicts.items() for name, count in names.items()}

    @property
    def ns_per_run(self) -> float:
        """Mean time of a program run in ns (0 when nothing ran)."""
        return self.run_ns / self.runs if self.runs else 0.0

    def as_json(self) -> dict:
        """The document of one CPU."""
        document = {"cpu": self.cpu, "pid": self.pid, "packets": self.packets, "bytes": self.bytes, "verdicts": self.flat_verdicts,
                    "run_ns": self.run_ns, "runs": self.runs, "faults": self.faults, "lost": self.lost, "restarts": self.restarts,
                    "events": {"sent": self.events_sent, "lost": self.events_lost}}  # fmt: skip
        return document if self.cpu is not None else {key: value for key, value in document.items() if key not in ("cpu", "pid")}


def read_cpu(base, cpu: int) -> CpuReport:
    """One CPU's counters out of a mapped run segment."""
    stats = lib.net_run_cpu(base, cpu)
    report = CpuReport(cpu, pid=stats.pid, restarts=stats.restarts, out_errno=-stats.out_errno if stats.out_errno < 0 else stats.out_errno)
    for name in _SUMS:
        setattr(report, name, getattr(stats, name))
    for hook in Hook:
        report.runs += stats.runs[hook]
        if stats.runs[hook]:
            report.verdicts[hook.name.lower()] = _verdicts(stats, hook)
    return report


def _verdicts(stats, hook: Hook) -> dict[str, int]:
    found = {}
    for index in range(lib.NET_VERDICTS):
        name = lib.net_verdict_name(hook, index)
        if name == ffi.NULL:
            break
        if stats.verdicts[hook][index]:
            found[ffi.string(name).decode()] = stats.verdicts[hook][index]
    return found


def sum_reports(reports: list[CpuReport]) -> CpuReport:
    """The total of several CPUs."""
    total = CpuReport(None)
    for report in reports:
        for name in (*_SUMS, "runs", "restarts"):
            setattr(total, name, getattr(total, name) + getattr(report, name))
        for hook, names in report.verdicts.items():
            into = total.verdicts.setdefault(hook, {})
            for name, count in names.items():
                into[name] = into.get(name, 0) + count
    return total
