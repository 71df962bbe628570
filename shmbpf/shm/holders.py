"""Who has an object open: the processes whose flock keeps its segment, from /proc/locks."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import SHM_DIR

_LOCK = re.compile(r"\d+: FLOCK +\S+ +\S+ (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ")


@dataclass(frozen=True, order=True)
class Holder:
    """A process: its PID, and its name as ps shows it ("?" when it has just ended)."""

    pid: int
    comm: str


def find_holders(namespace: Namespace) -> dict[str, list[Holder]]:
    """`map.7` -> the processes that have it open, this one aside. A descriptor that was handed on counts for who opened it. Nothing where /proc/locks cannot be read."""
    names = {}
    for entry in namespace.segments():
        try:
            names[os.stat(SHM_DIR / f"{namespace.prefix}.{entry}").st_ino] = entry
        except FileNotFoundError:
            continue
    try:
        text = Path("/proc/locks").read_text()
    except OSError:
        return {}
    found: defaultdict[str, set[int]] = defaultdict(set)
    for pid, inode in _LOCK.findall(text):
        if int(inode) in names and int(pid) not in (0, os.getpid()):
            found[names[int(inode)]].add(int(pid))
    return {name: sorted(Holder(pid, _comm(pid)) for pid in pids) for name, pids in found.items()}


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"
