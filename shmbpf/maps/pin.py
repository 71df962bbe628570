"""Pinned maps: pinning by name, opening by path, and reusing what an object asks for.

Which path an object's map wants: `LIBBPF_PIN_BY_NAME` (libbpf's bpf_object__pin_maps()): its name at the root of the tree. iproute2's `PIN_GLOBAL_NS`: tc/globals/<name>;
`PIN_OBJECT_NS`: tc/<SHA-1 of the object file>/<name>; other ids: a directory named in /etc/iproute2/bpf_pinning, or no pin at all (lib/bpf_legacy.c).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from shmbpf.errors import ObjectError, PinError
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import PinTree
from shmbpf.spec import PIN_GLOBAL_NS, PIN_NONE, PIN_OBJECT_NS, MapSpec
from shmbpf.uapi import map_type_word

_CUSTOM_IDS = Path("/etc/iproute2/bpf_pinning")
_RACES = 100


def open_pinned(namespace: Namespace, path: str) -> Map:
    """The map pinned at a path. PinError: ENOENT, EACCES, EINVAL (something else is pinned there)."""
    return Map(namespace, PinTree(namespace).open(path, "map"))


def pin_name(name: str) -> str:
    """A map's name as a file's: libbpf replaces dots."""
    return name.replace(".", "_")


def pin_maps(namespace: Namespace, maps: Mapping[str, Map], directory: str) -> Path:
    """Pins maps by name in a directory of the tree, which is made. A map that is there already stays; PinError when something else has its name."""
    tree = PinTree(namespace)
    for name, map_ in maps.items():
        path = f"{directory}/{pin_name(name)}"
        with suppress(PinError):
            if tree.get(path).object == f"map.{map_.id}":
                continue
        tree.pin("map", map_.id, path, parents=True)
    return tree.place(directory)


def wanted_path(spec: MapSpec, digest: str) -> str | None:
    """Where the object says that this map is to be pinned; None: nowhere. `digest`: SHA-1 of the object file, in hex."""
    if spec.pinning == PIN_NONE:
        return None
    if spec.pin_by_name:
        return pin_name(spec.name)
    if spec.pinning in (PIN_OBJECT_NS, PIN_GLOBAL_NS):
        return f"tc/{digest if spec.pinning == PIN_OBJECT_NS else 'globals'}/{pin_name(spec.name)}"
    directory = _custom_directory(spec.pinning)
    return None if directory is None else f"{directory}/{pin_name(spec.name)}"


def _custom_directory(number: int) -> str | None:
    try:
        lines = _CUSTOM_IDS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split("#")[0].split()
        with suppress(ValueError):
            if len(words) == 2 and int(words[0], 0) == number:
                return words[1]
    return None


def create_or_reuse(namespace: Namespace, spec: MapSpec, path: str, btf_id: int | None = None) -> tuple[Map, bool]:
    """The map pinned at a path, or a new one that now is, whoever else does the same at the same time; and whether it is new.

    Raises ObjectError, saying what differs, when the pinned one is not what the object asks for.
    """
    tree = PinTree(namespace)
    for _ in range(_RACES):
        with suppress(FileNotFoundError):
            return reuse(open_or_missing(namespace, path), spec, path), False
        made = Map.create(namespace, spec, btf_id=btf_id)
        try:
            tree.pin("map", made.id, path, parents=True)
        except PinError as error:
            made.close()
            if error.errno != errno.EEXIST:
                raise
            continue  # somebody was faster: theirs will do
        return made, True
    raise PinError(errno.EBUSY, f"{tree.place(path)} appears and disappears: other processes keep pinning and unpinning it")


def open_or_missing(namespace: Namespace, path: str) -> Map:
    """As open_pinned(), but FileNotFoundError when nothing is there."""
    try:
        return open_pinned(namespace, path)
    except PinError as error:
        if error.errno == errno.ENOENT:
            raise FileNotFoundError(path) from None
        raise


def reuse(map_: Map, spec: MapSpec, path: str) -> Map:
    """The same map, if it is what the spec asks for; else it is closed and ObjectError names every difference. libbpf: map_is_reuse_compat()."""
    there = {"type": map_type_word(map_.type), "key size": map_.key_size, "value size": map_.value_size, "max_entries": map_.max_entries, "flags": map_.flags, "map_extra": map_.map_extra}
    asked = {"type": map_type_word(spec.type), "key size": spec.key_size, "value size": spec.value_size, "max_entries": spec.max_entries, "flags": spec.flags, "map_extra": spec.map_extra}
    differences = [f"{field} {there[field]}, the object asks for {asked[field]}" for field in there if there[field] != asked[field]]
    if not differences:
        return map_
    map_.close()
    raise ObjectError(f"map {spec.name!r} cannot use what is pinned at {path}: it has {'; '.join(differences)}. Remove the pin (shmbpf unpin {path}), or change the object")
