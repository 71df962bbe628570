"""Who keeps what alive: processes by flock, names by pins, objects by holds; and the collector that removes the rest.

A *hold* is a hard link `<holder kind>.<holder id>.<held kind>.<held id>` in the namespace's `.held` directory: a program holds its maps, a program array its
programs (the kernel's reference counts, as names: a killed process cannot get them wrong). The collector marks from the roots, segments that a process has
open or that are pinned, along the holds, so that a program and the array it tail-calls through do not keep each other alive for ever.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path

from shmbpf.shm.segment import SHM_DIR, own_directory, unlink

_SEGMENT = re.compile(r"(?!ctl\.)[a-z]+\.[0-9a-f]+")
_HOLD = re.compile(r"([a-z]+\.[0-9]+)\.([a-z]+\.[0-9]+)")


def held_dir(prefix: str) -> Path:
    """Directory of a namespace's holds; it may not exist."""
    return SHM_DIR / f"{prefix}.held"


def wake_dir(prefix: str) -> Path:
    """Directory of the pipes that wake consumers of events, one named after each segment that has consumers; it may not exist."""
    return SHM_DIR / f"{prefix}.wake"


def hold(prefix: str, holder: str, held: str) -> None:
    """`holder` ("prog.3") keeps `held` ("map.7") alive from now on. Idempotent; FileNotFoundError when `held` is gone. Under the create lock."""
    own_directory(held_dir(prefix))
    try:
        os.link(SHM_DIR / f"{prefix}.{held}", held_dir(prefix) / f"{holder}.{held}")
    except FileExistsError:
        pass


def release(prefix: str, holder: str, keep: Iterable[str] = ()) -> None:
    """Drops the holds of `holder`, but for those in `keep`. Under the create lock."""
    wanted = set(keep)
    for source, target in _holds(prefix):
        if source == holder and target not in wanted:
            (held_dir(prefix) / f"{source}.{target}").unlink(missing_ok=True)


def collect(prefix: str) -> list[str]:
    """Removes segments that nothing keeps alive, and their holds; returns their names ("map.7"). Under the create lock."""
    names = [entry[len(prefix) + 1:] for entry in os.listdir(SHM_DIR) if entry.startswith(prefix + ".")]
    present = {name for name in names if _SEGMENT.fullmatch(name)}
    holds = _holds(prefix)
    claims = {name: _claim(f"{prefix}.{name}", sum(target == name for _, target in holds)) for name in present}
    live = {name for name, claim in claims.items() if claim is None}
    spread = True
    while spread:
        reached = {target for source, target in holds if source in live} & present - live
        live |= reached
        spread = bool(reached)
    for source, target in holds:
        if source not in live:
            (held_dir(prefix) / f"{source}.{target}").unlink(missing_ok=True)
    dead = sorted(present - live)
    for name in dead:
        unlink(f"{prefix}.{name}")
    for claim in claims.values():  # who waits for its lock sees now whether the segment still has a name
        if claim is not None:
            os.close(claim)
    _remove_if_empty(held_dir(prefix))
    _remove_pipes(prefix, live)
    return dead


def _remove_pipes(prefix: str, live: set[str]) -> None:
    """Pipes whose segment is gone."""
    directory = wake_dir(prefix)
    try:
        for name in set(os.listdir(directory)) - live:
            (directory / name).unlink(missing_ok=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    _remove_if_empty(directory)


def _holds(prefix: str) -> list[tuple[str, str]]:
    try:
        entries = os.listdir(held_dir(prefix))
    except FileNotFoundError:
        return []
    return [match.groups() for match in map(_HOLD.fullmatch, entries) if match]


def _claim(entry: str, held: int) -> int | None:
    """None for a root: a process has the segment open, or it has a name besides its own and the holds (a pin), or it is not ours to judge.

    Else a descriptor with the exclusive lock: until it is closed, nobody else gets in.
    """
    try:
        fd = os.open(SHM_DIR / entry, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if found.st_uid == os.getuid() and found.st_nlink <= 1 + held:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        pass
