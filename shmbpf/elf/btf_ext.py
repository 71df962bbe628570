"""`.BTF.ext`: what belongs to instructions. Lines, functions and CO-RE relocations, per code section.

CO-RE relocations are honoured by doing nothing: clang has already written the offsets, sizes and ids of the object's own types into the
instructions, and those types are the target here (there is no other kernel whose layout could differ). They are parsed so that a broken table
is noticed and so that tools can show them.

Layout (include/linux/btf.h, struct btf_ext_header; tools/lib/bpf/btf.c): a header of (offset, length) pairs; each part is a record size and then,
per code section, its name, a count and that many records, whose first word is the byte offset of an instruction in the section.
"""

from __future__ import annotations

import struct
from typing import Iterator, Mapping, NamedTuple

from shmbpf.elf.btf import MAGIC, Btf
from shmbpf.errors import BtfError

#: part -> smallest record; longer ones come from newer compilers and keep these fields first.
_FUNC, _LINE, _CORE = 8, 16, 16


class LineRecord(NamedTuple):
    """A source position, strings still as offsets (there are many, and few are ever looked at)."""

    offset: int  #: byte offset of the instruction in its section
    file: int
    text: int
    line_column: int  #: line << 10 | column


class FuncRecord(NamedTuple):
    """A function starts at this byte offset of its section."""

    offset: int
    type_id: int


class CoreRecord(NamedTuple):
    """One CO-RE relocation: `kind` is an enum bpf_core_relo_kind, `access` the offset of a string such as "0:1:2"."""

    offset: int
    type_id: int
    access: int
    kind: int


class BtfExt(NamedTuple):
    """The three tables, by section name, each ordered by offset."""

    lines: Mapping[str, list[LineRecord]] = {}
    funcs: Mapping[str, list[FuncRecord]] = {}
    core: Mapping[str, list[CoreRecord]] = {}


def parse_btf_ext(blob: bytes, btf: Btf) -> BtfExt:
    """Read a `.BTF.ext` section whose strings are those of `btf`."""
    if len(blob) < 24:
        raise BtfError(f".BTF.ext: {len(blob)} bytes, shorter than its header (24)")
    magic, version, _, header, *parts = struct.unpack_from("<HBBIIIII", blob)
    if magic != MAGIC or version != 1:
        raise BtfError(f".BTF.ext: magic {magic:#06x} version {version}, expected {MAGIC:#06x} version 1")
    parts += struct.unpack_from("<II", blob, 24) if header >= 32 and len(blob) >= 32 else (0, 0)
    tables = []
    for (start, length), smallest, record in zip(_pairs(parts), (_FUNC, _LINE, _CORE), (FuncRecord, LineRecord, CoreRecord)):
        if header + start + length > len(blob):
            raise BtfError(f".BTF.ext: truncated: a part ends at {header + start + length}, the section has {len(blob)} bytes")
        tables.append(_by_section(blob[header + start : header + start + length], smallest, record, btf))
    return BtfExt(lines=tables[1], funcs=tables[0], core=tables[2])


def _pairs(parts: list[int]) -> Iterator[tuple[int, int]]:
    return zip(parts[0::2], parts[1::2])


def _by_section(part: bytes, smallest: int, record, btf: Btf) -> dict[str, list]:
    """One part as {section name: records}. Several blocks for one section are merged."""
    found: dict[str, list] = {}
    if not part:
        return found
    size = int.from_bytes(part[:4], "little")
    if size < smallest or size % 4:
        raise BtfError(f".BTF.ext: records of {size} bytes, expected at least {smallest}")
    layout, at = struct.Struct(f"<{smallest // 4}I{size - smallest}x"), 4
    while at < len(part):
        if at + 8 > len(part):
            raise BtfError(".BTF.ext: truncated inside a section's header")
        name, count = struct.unpack_from("<II", part, at)
        at += 8
        if count * size > len(part) - at:
            raise BtfError(f".BTF.ext: truncated: {count} records of {size} bytes where {len(part) - at} bytes are left")
        rows = layout.iter_unpack(part[at : at + count * size])
        found.setdefault(btf.string(name), []).extend(map(record._make, rows))
        at += count * size
    for rows in found.values():
        rows.sort()
    return found
