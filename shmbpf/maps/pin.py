"""Pins: hard links in the namespace's pin tree (D5). A pinned object outlives every process; `rm` of its last pin lets it go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shmbpf.errors import SegmentError
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import SHM_DIR, own_directory

_BPFFS = "/sys/fs/bpf"


def pin_path(namespace: Namespace, path: str) -> Path:
    """Where a pin path lies in the namespace's tree. A leading /sys/fs/bpf is the tree's root; a component with a dot is refused, as bpffs does."""
    relative = path.removeprefix(_BPFFS) if path == _BPFFS or path.startswith(_BPFFS + "/") else path
    parts = [part for part in relative.split("/") if part]
    if any("." in part for part in parts):
        raise SegmentError(f"pin path {path!r}: names in a bpf file system have no dots")
    return namespace.pin_dir.joinpath(*parts)


def pin_maps(namespace: Namespace, maps: Mapping[str, Map], directory: str) -> Path:
    """Pins maps by name in a directory of the tree; dots in names become '_'. SegmentError when a name is taken."""
    for name, map_ in maps.items():
        _link(namespace, f"map.{map_.id}", pin_path(namespace, directory) / name.replace(".", "_"))
    return pin_path(namespace, directory)


def pin_map(namespace: Namespace, map_id: int, path: str) -> Path:
    """Pins a map at a path of the tree. SegmentError when the name is taken."""
    place = pin_path(namespace, path)
    _link(namespace, f"map.{map_id}", place)
    return place


def pin_program(namespace: Namespace, program_id: int, path: str) -> Path:
    """Pins a program (which holds its maps) at a path of the tree. SegmentError when the name is taken."""
    place = pin_path(namespace, path)
    _link(namespace, f"prog.{program_id}", place)
    return place


def _link(namespace: Namespace, name: str, place: Path) -> None:
    with namespace.creating():
        own_directory(namespace.pin_dir)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.link(SHM_DIR / f"{namespace.prefix}.{name}", place)
        except FileExistsError:
            raise SegmentError(f"{place} exists: remove it, or choose another name") from None
