"""What a record's bytes mean, by BTF.

A record may be shorter than its type (a program that sends the first bytes of a struct) or longer (packet bytes appended, padding): what fits is decoded, and
what is left is `rest`. The up to 7 bytes of padding behind a record of a perf ring are neither.

Types come by name from the BTF that event maps keep of the object that made them, and from object files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shmbpf.elf import load_object
from shmbpf.elf.btf import COMPOSITES, MAGIC, Btf, BtfType, Kind
from shmbpf.errors import BtfError, ShmbpfError
from shmbpf.events.records import Record
from shmbpf.maps.layout import Array, Node, Text, compile_type
from shmbpf.maps.layout import Record as RecordNode

_KINDS = {"struct": (Kind.STRUCT,), "union": (Kind.UNION,), "enum": (Kind.ENUM, Kind.ENUM64)}
_NAMED = (*COMPOSITES, Kind.TYPEDEF, Kind.ENUM, Kind.ENUM64, Kind.INT, Kind.FLOAT)
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class DecodedRecord(Record):
    """A Record with its meaning. `value`: a dict for a struct, with the members that are there whole; `rest`: bytes that the type does not explain."""

    value: object = None
    rest: bytes = b""


class RecordType:
    """A type that records are decoded by. Raises BtfError when it cannot be."""

    def __init__(self, btf: Btf, number: int):
        self.node = compile_type(btf, number)
        self.size = self.node.size
        self._padded = (4 + self.size + 7) // 8 * 8 - 4  # PERF_SAMPLE_RAW: a u32 and the data together fill multiples of 8 bytes

    def decode(self, record: Record) -> DecodedRecord:
        """The record with its value; never fails, however long the data is."""
        data = record.data
        if len(data) >= self.size:
            value, end = self.node.decode(data), self.size
        else:
            value, end = decode_part(self.node, data, 0)
        if record.index >= 0 and len(data) == self._padded:
            end = len(data)
        return DecodedRecord(data, record.cpu, record.index, record.time_ns, record.map_id, value, data[end:])


def decode_part(node: Node, data: bytes, at: int) -> tuple[object, int]:
    """The value of a type of which `data` holds the beginning only (from `at` on), and where what was understood ends. None when no part of it is whole."""
    if at + node.size <= len(data):
        return node.decode(data, at), at + node.size
    if isinstance(node, RecordNode):
        return _decode_members(node, data, at)
    if isinstance(node, Array) and node.element.size:
        count = max(len(data) - at, 0) // node.element.size
        return [node.element.decode(data, at + index * node.element.size) for index in range(count)], at + count * node.element.size
    if isinstance(node, Text) and at < len(data):
        return node.decode(data, at), len(data)
    return None, at


def _decode_members(node: RecordNode, data: bytes, at: int) -> tuple[dict[str, object], int]:
    found: dict[str, object] = {}
    end = at
    for name, offset, member in node.fields:
        if at + offset >= len(data) and member.size:
            continue
        value, behind = decode_part(member, data, at + offset)
        if value is not None:
            found[name] = value
            end = max(end, behind)
    return found, end


class TypeCatalog:
    """Types by name. `sources`: (where it is from, Btf) pairs; the first one that has a name counts."""

    def __init__(self, sources: Iterable[tuple[str, Btf]] = ()):
        self._sources = list(sources)

    def find(self, name: str) -> RecordType:
        """`event`, `struct event`, or the name of a typedef, union, enum or number. Raises ShmbpfError naming what there is."""
        word, _, rest = name.strip().partition(" ")
        kinds, plain = (_KINDS[word], rest.strip()) if rest and word in _KINDS else (_NAMED, name.strip())
        for where, btf in self._sources:
            entry = _find(btf, plain, kinds)
            if entry is not None:
                return _compile(btf, entry, name, where)
        raise ShmbpfError(f"type {name!r} is not known: {self._known()}; types of an object file: --type OBJ.o:STRUCT")

    def _known(self) -> str:
        names = sorted({entry.name for _, btf in self._sources for entry in btf if entry.kind in COMPOSITES and entry.name})
        if not names:
            return "no map that is followed keeps any types (their object had no BTF: compile with -g)"
        return f"there are {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"


def _find(btf: Btf, name: str, kinds: tuple[Kind, ...]) -> BtfType | None:
    return next((entry for kind in kinds if (entry := btf.find(name, kind)) is not None), None) if name else None


def _compile(btf: Btf, entry: BtfType, name: str, where: str) -> RecordType:
    try:
        return RecordType(btf, entry.id)
    except BtfError as error:
        raise ShmbpfError(f"type {name!r} of {where} cannot be read: {error}") from None


def read_btf(path: str | os.PathLike[str]) -> Btf:
    """The types of an object file, or of a bare BTF file. Raises ShmbpfError when it has none, OSError when it cannot be read."""
    data = Path(path).read_bytes()
    if data[:2] == MAGIC.to_bytes(2, "little"):
        return Btf.from_bytes(data)
    btf = load_object(data, name=str(path)).btf
    if btf is None:
        raise ShmbpfError(f"{path} has no type information: compile it with -g")
    return btf


def split_type(text: str) -> tuple[str | None, str]:
    """`OBJ.o:STRUCT` as file and name; the file is None for a name alone."""
    path, colon, name = text.rpartition(":")
    return (path, name) if colon else (None, text)
