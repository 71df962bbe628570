"""All groups of measurements, and the document they make."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shmbpf.bench.events import measure_events
from shmbpf.bench.figures import FULL, QUICK, Figure, Session
from shmbpf.bench.loops import measure_loops
from shmbpf.bench.maps import measure_maps
from shmbpf.bench.packets import measure_packets
from shmbpf.bench.start import measure_start
from shmbpf.testing.kernel import kernel_available

#: group -> (title, measurement)
GROUPS = {
    "compute": ("Compute loops: interpreter, beside the kernel's JIT", measure_loops),
    "maps": ("Map operations from C, u32 -> u64", measure_maps),
    "packets": ("Packet path of one CPU", measure_packets),
    "events": ("Events of 64 bytes, and their consumers", measure_events),
    "start": ("Start-up", measure_start),
}
NO_KERNEL = "the kernel's figures need bpf(2): run as root, or with CAP_BPF and CAP_NET_ADMIN"


@dataclass(frozen=True)
class Results:
    """Figures by group; `kernel` tells whether the kernel was asked, `notes` what is missing and why."""

    groups: dict[str, list[Figure]]
    kernel: bool
    notes: list[str]

    def document(self) -> dict[str, object]:
        """The results as JSON has them."""
        machine = {"cpus": len(os.sched_getaffinity(0)), "machine": platform.machine(), "release": platform.release()}
        groups = {group: [figure.document() for figure in figures] for group, figures in self.groups.items()}
        return {"machine": machine, "kernel": self.kernel, "notes": self.notes, "groups": groups}


def run_suite(groups: Sequence[str], *, quick: bool = False, progress: Callable[[str], None] = lambda _: None) -> Results:
    """Measures these groups one after the other. `progress` is told what is being measured."""
    session = Session(QUICK if quick else FULL, kernel_available(), progress)
    if not session.kernel:
        session.notes.append(NO_KERNEL)
    return Results({group: GROUPS[group][1](session) for group in groups}, session.kernel, session.notes)
