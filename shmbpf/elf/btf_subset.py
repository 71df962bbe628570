"""Writing BTF: records to bytes, and cutting a self-contained piece out of a larger blob (for a map's segment)."""

from __future__ import annotations

import struct
from typing import Iterable, Mapping

from shmbpf.elf.btf import COMPOSITES, MAGIC, MAX_TYPES, SIZED, Btf, BtfType, Kind
from shmbpf.errors import BtfError


class BtfWriter:
    """Collects records and makes a little-endian blob of them. Ids are given in the order of `add`, from 1."""

    def __init__(self) -> None:
        self._types = bytearray()
        self._strings = bytearray(1)
        self._offsets = {"": 0}
        self._count = 0

    def add(self, entry: BtfType) -> int:
        """Append a record whose type ids are already those of the new blob; returns its id."""
        rows = _rows(entry, self._string)
        low = entry.linkage if entry.kind == Kind.FUNC else 0 if _is_fixed(entry.kind) else len(rows)
        info = low | entry.kind << 24 | entry.kind_flag << 31
        word = entry.size if entry.kind in SIZED else 0 if entry.kind == Kind.ARRAY else entry.ref
        self._types += struct.pack("<III", self._string(entry.name), info, word)
        for row in rows:
            self._types += struct.pack(f"<{len(row)}I", *(field & 0xFFFFFFFF for field in row))
        self._count += 1
        return self._count

    def to_bytes(self) -> bytes:
        """The blob: header, types, strings."""
        header = struct.pack("<HBBIIIII", MAGIC, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings))
        return header + bytes(self._types) + bytes(self._strings)

    def _string(self, text: str) -> int:
        offset = self._offsets.get(text)
        if offset is None:
            offset = self._offsets[text] = len(self._strings)
            self._strings += text.encode() + b"\0"
        return offset


def _is_fixed(kind: Kind) -> bool:
    return kind in (Kind.INT, Kind.ARRAY, Kind.VAR, Kind.DECL_TAG)


def _rows(entry: BtfType, string) -> list[tuple[int, ...]]:
    """What follows the 12-byte head, as rows of 32-bit words."""
    if entry.kind == Kind.INT:
        return [(entry.encoding << 24 | entry.bit_offset << 16 | entry.bits,)]
    if entry.kind == Kind.ARRAY:
        return [(entry.ref, entry.index_type, entry.count)]
    if entry.kind == Kind.VAR:
        return [(entry.linkage,)]
    if entry.kind == Kind.DECL_TAG:
        return [(entry.component,)]
    if entry.kind == Kind.ENUM:
        return [(string(name), value) for name, value in entry.enumerators]
    if entry.kind == Kind.ENUM64:
        return [(string(name), value, value >> 32) for name, value in entry.enumerators]
    if entry.kind == Kind.FUNC_PROTO:
        return [(string(name), number) for name, number in entry.parameters]
    if entry.kind == Kind.DATASEC:
        return [tuple(variable) for variable in entry.variables]
    return [(string(name), number, offset | bits << 24) for name, number, offset, bits in entry.members]


def extract(btf: Btf, numbers: Iterable[int]) -> tuple[Btf, Mapping[int, int]]:
    """See `Btf.subset`."""
    roots = [number for number in numbers if number]
    by_value = _reach(btf, roots, through_pointers=False)
    everything = _reach(btf, sorted(by_value), through_pointers=True, whole=by_value)
    kept = sorted(everything | _tags_of(btf, by_value))
    renumbered = {0: 0} | {old: new for new, old in enumerate(kept, 1)}
    writer = BtfWriter()
    for old in kept:
        entry = btf.type(old)
        if entry.kind in COMPOSITES and old not in by_value:
            entry = BtfType(old, Kind.FWD, entry.name, kind_flag=entry.kind == Kind.UNION)
        writer.add(_renumber(entry, renumbered))
    return Btf.from_bytes(writer.to_bytes()), renumbered


def _reach(btf: Btf, roots: list[int], *, through_pointers: bool, whole: frozenset[int] | set[int] = frozenset()) -> set[int]:
    """Closure of `roots`. Through pointers, the insides of a struct count only if it is in `whole`."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        number = todo.pop()
        if number in seen or number == 0:
            continue
        seen.add(number)
        if len(seen) > MAX_TYPES:
            raise BtfError(f"BTF: more than {MAX_TYPES} types")
        entry = btf.type(number)
        if entry.kind == Kind.PTR and not through_pointers:
            continue
        if through_pointers and entry.kind in COMPOSITES and number not in whole:
            continue
        todo += _references(entry)
    return seen


def _references(entry: BtfType) -> list[int]:
    """Ids a record mentions; a function prototype counts its arguments like pointees (they are only described, never stored)."""
    found = [member.type for member in entry.members] + [parameter.type for parameter in entry.parameters]
    found += [variable.type for variable in entry.variables]
    return found + [number for number in (entry.ref, entry.index_type) if number]


def _tags_of(btf: Btf, by_value: set[int]) -> set[int]:
    """Declaration tags on the kept types (`__contains` of graph roots lives there)."""
    return {entry.id for entry in btf if entry.kind == Kind.DECL_TAG and entry.ref in by_value}


def _renumber(entry: BtfType, ids: Mapping[int, int]) -> BtfType:
    if entry.kind == Kind.FWD:
        return entry
    return entry._replace(
        ref=ids[entry.ref],
        index_type=ids[entry.index_type],
        members=tuple(member._replace(type=ids[member.type]) for member in entry.members),
        parameters=tuple(parameter._replace(type=ids[parameter.type]) for parameter in entry.parameters),
        variables=tuple(variable._replace(type=ids[variable.type]) for variable in entry.variables),
    )
