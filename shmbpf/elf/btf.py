"""BTF, the type information of BPF objects: a bounded reader.

    Btf.from_bytes(blob)     one pass finds where each type starts; a type is decoded when it is asked for
        .type(id)            the record as written (id 0 is void)
        .resolve(id)         the same behind typedef, const, volatile, restrict and type tags
        .size_of(id)         bytes a value of it takes
        .find(name, kind)    by name
        .subset(ids)         the smallest blob that describes these types

Nothing here trusts the blob: ids, string offsets and sizes are checked when they are used and raise BtfError; chains end after MAX_DEPTH steps,
so a type that contains itself is an error and never a loop. Format: Linux Documentation/bpf/btf.rst and include/uapi/linux/btf.h.
"""

from __future__ import annotations

import enum
import struct
from typing import Iterable, Iterator, Mapping, NamedTuple

from shmbpf.elf.container import StringTable
from shmbpf.errors import BtfError

MAX_BLOB = 16 << 20  # Linux's bound too (include/linux/btf.h, BTF_MAX_SIZE)
MAX_TYPES = 1_000_000
MAX_DEPTH = 32
MAX_SIZE = 0xFFFFFFFF
POINTER_SIZE = 8
MAGIC = 0xEB9F


class Kind(enum.IntEnum):
    """Linux's BTF_KIND_* numbers."""

    VOID, INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE = range(10)
    CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(10, 20)


#: Kinds that only rename or qualify what they refer to.
MODIFIERS = frozenset((Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG))
COMPOSITES = frozenset((Kind.STRUCT, Kind.UNION))
#: Kinds whose third word is a size in bytes; for the others it is a type id (or nothing).
SIZED = frozenset((Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.DATASEC, Kind.FLOAT, Kind.ENUM64))

#: kind -> (bytes once, bytes per element) behind the 12-byte head.
_TAILS = {kind: (0, 0) for kind in range(1, 20)} | {
    Kind.INT: (4, 0), Kind.ARRAY: (12, 0), Kind.STRUCT: (0, 12), Kind.UNION: (0, 12), Kind.ENUM: (0, 8), Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0), Kind.DATASEC: (0, 12), Kind.DECL_TAG: (4, 0), Kind.ENUM64: (0, 12),
}  # fmt: skip


class Member(NamedTuple):
    """A field of a struct or union. `bit_size` is 0 unless it is a bit field."""

    name: str
    type: int
    bit_offset: int
    bit_size: int


class Parameter(NamedTuple):
    """An argument of a function prototype."""

    name: str
    type: int


class Enumerator(NamedTuple):
    """A named value of an enum, sign already applied."""

    name: str
    value: int


class SectionVariable(NamedTuple):
    """A variable's place in a data section; `type` is a VAR."""

    type: int
    offset: int
    size: int


class BtfType(NamedTuple):
    """One decoded record. Fields that its kind does not have are 0, empty or False."""

    id: int
    kind: Kind
    name: str = ""
    size: int = 0  #: bytes (kinds in SIZED)
    ref: int = 0  #: type id: pointee, array element, aliased type, function prototype, variable's type, return type
    kind_flag: bool = False  #: FWD: a union; ENUM, ENUM64: signed; STRUCT, UNION: has bit fields; tags: an attribute
    linkage: int = 0  #: FUNC, VAR: 0 static, 1 global, 2 extern
    encoding: int = 0  #: INT: 1 signed, 2 char, 4 bool
    bits: int = 0  #: INT
    bit_offset: int = 0  #: INT
    index_type: int = 0  #: ARRAY
    count: int = 0  #: ARRAY: number of elements
    component: int = -1  #: DECL_TAG: member or argument number, -1 = the type itself
    members: tuple[Member, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    enumerators: tuple[Enumerator, ...] = ()
    variables: tuple[SectionVariable, ...] = ()


VOID = BtfType(0, Kind.VOID, "void")


class Btf:
    """The types of one object or map. Immutable; make one with `from_bytes`."""

    def __init__(self, blob: bytes, order: str, offsets: list[int], strings: StringTable):
        self._blob = blob
        self._order = order
        self._offsets = offsets  # of each type's head; [0] stands for void
        self._strings = strings
        self._decoded: dict[int, BtfType] = {0: VOID}
        self._names: dict[str, list[int]] | None = None

    @classmethod
    def from_bytes(cls, blob: bytes) -> Btf:
        """Index a `.BTF` section. Raises BtfError when its frame (header, record lengths, strings) does not hold together."""
        if len(blob) > MAX_BLOB:
            raise BtfError(f"BTF: {len(blob)} bytes; at most {MAX_BLOB} are read")
        blob = bytes(blob)
        if len(blob) < 24:
            raise BtfError(f"BTF: {len(blob)} bytes, shorter than its header (24)")
        order = "<" if blob[:2] == b"\x9f\xeb" else ">"
        magic, version, _, header, type_off, type_len, str_off, str_len = struct.unpack_from(order + "HBBIIIII", blob)
        if magic != MAGIC or version != 1:
            raise BtfError(f"BTF: magic {magic:#06x} version {version}, expected {MAGIC:#06x} version 1")
        if header < 24 or header + type_off + type_len > len(blob) or header + str_off + str_len > len(blob):
            raise BtfError(f"BTF: truncated: types or strings lie outside its {len(blob)} bytes")
        strings = blob[header + str_off : header + str_off + str_len]
        if strings[:1] != b"\0" or strings[-1:] != b"\0":
            raise BtfError("BTF: the string table does not start and end with NUL")
        start = header + type_off
        return cls(blob, order, _index_types(blob, order, start, start + type_len), StringTable(strings, BtfError, "BTF strings"))

    def to_bytes(self) -> bytes:
        """The blob as it came."""
        return self._blob

    def __len__(self) -> int:
        """Number of types, void included: valid ids are below it."""
        return len(self._offsets)

    def __iter__(self) -> Iterator[BtfType]:
        return (self.type(number) for number in range(1, len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Btf) and self._blob == other._blob

    def __hash__(self) -> int:
        return hash(self._blob)

    def string(self, offset: int) -> str:
        """The string at `offset` of the string table (line info points there)."""
        return self._strings.get(offset)

    def type(self, number: int) -> BtfType:
        """The record with this id, modifiers included."""
        found = self._decoded.get(number)
        if found is None:
            if not 0 <= number < len(self._offsets):
                raise BtfError(f"BTF: type id {number} does not exist (there are {len(self)})")
            found = self._decoded[number] = self._decode(number)
        return found

    def resolve(self, number: int) -> BtfType:
        """What is left of a type without typedefs, qualifiers and type tags."""
        found = self.type(number)
        for _ in range(MAX_DEPTH):
            if found.kind not in MODIFIERS:
                return found
            found = self.type(found.ref)
        raise BtfError(f"BTF: type {number} {self.type(number).name!r} refers to itself or goes deeper than {MAX_DEPTH}")

    def size_of(self, number: int) -> int:
        """Bytes a value of the type takes. Raises BtfError for what has no size (void, functions, forward declarations)."""
        factor, current = 1, number
        for _ in range(MAX_DEPTH):
            found = self.type(current)
            if found.kind in SIZED or found.kind == Kind.PTR:
                size = factor * (POINTER_SIZE if found.kind == Kind.PTR else found.size)
                if size > MAX_SIZE:
                    break
                return size
            if found.kind == Kind.ARRAY:
                factor = min(factor * found.count, MAX_SIZE + 1)
            elif found.kind not in MODIFIERS and found.kind != Kind.VAR:
                raise BtfError(f"BTF: type {number} {self.type(number).name!r} has no size ({found.kind.name})")
            current = found.ref
        raise BtfError(f"BTF: type {number} {self.type(number).name!r} contains itself, is nested deeper than {MAX_DEPTH} or exceeds 4 GiB")

    def find(self, name: str, kind: Kind | None = None) -> BtfType | None:
        """The first type of that name (and kind), or None."""
        if self._names is None:
            self._names = {}
            for number in range(1, len(self._offsets)):
                offset = struct.unpack_from(self._order + "I", self._blob, self._offsets[number])[0]
                if offset:
                    self._names.setdefault(self._strings.get(offset), []).append(number)
        found = (self.type(number) for number in self._names.get(name, ()))
        return next((entry for entry in found if kind is None or entry.kind == kind), None)

    def subset(self, numbers: Iterable[int]) -> tuple[Btf, Mapping[int, int]]:
        """A new blob with only these types and what they consist of, and the map from old ids to new ones.

        Structs that are reached only through pointers shrink to forward declarations, so that a pointer to a kernel structure does not drag
        half the kernel along.
        """
        from shmbpf.elf.btf_subset import extract

        return extract(self, numbers)

    def with_section_sizes(self, sizes: Mapping[str, int]) -> Btf:
        """The same types, with the data sections' sizes filled in and their variables in order of offset.

        Compilers leave the size at 0 and the order open; Linux wants both (libbpf: btf_fixup_datasec()).
        """
        blob = bytearray(self._blob)
        for entry in (self.type(number) for number in self._numbers_of(Kind.DATASEC)):
            if entry.name not in sizes or not 0 <= sizes[entry.name] <= MAX_SIZE:
                continue
            at = self._offsets[entry.id]
            struct.pack_into(self._order + "I", blob, at + 8, sizes[entry.name])
            for index, row in enumerate(sorted(entry.variables, key=lambda variable: variable.offset)):
                struct.pack_into(self._order + "III", blob, at + 12 + 12 * index, *row)
        return Btf.from_bytes(blob)

    def _numbers_of(self, kind: Kind) -> list[int]:
        info = struct.Struct(self._order + "I")
        return [number for number in range(1, len(self)) if info.unpack_from(self._blob, self._offsets[number] + 4)[0] >> 24 & 31 == kind]

    def _decode(self, number: int) -> BtfType:
        at, order, text = self._offsets[number], self._order, self._strings.get
        name, info, word = struct.unpack_from(order + "III", self._blob, at)
        kind, flag = Kind(info >> 24 & 31), bool(info >> 31)
        head = BtfType(number, kind, text(name), word if kind in SIZED else 0, 0 if kind in SIZED else word, flag)
        once, each = _TAILS[kind]
        if once:
            return _decode_fixed(head, struct.unpack_from(order + "I" * (once // 4), self._blob, at + 12))
        if not each:
            return head._replace(linkage=info & 0xFFFF) if kind == Kind.FUNC else head
        rows = struct.iter_unpack(order + "I" * (each // 4), self._blob[at + 12 : at + 12 + each * (info & 0xFFFF)])
        return _decode_rows(head, rows, text)


def _index_types(blob: bytes, order: str, start: int, end: int) -> list[int]:
    """Offsets of all records; [0] is a placeholder for void."""
    offsets, at, head = [0], start, struct.Struct(order + "I")
    while at < end:
        if at + 12 > end:
            raise BtfError(f"BTF: truncated: type {len(offsets)} is cut off")
        info = head.unpack_from(blob, at + 4)[0]
        tail = _TAILS.get(info >> 24 & 31)
        if tail is None:
            raise BtfError(f"BTF: type {len(offsets)} has the unknown kind {info >> 24 & 31}")
        if len(offsets) > MAX_TYPES:
            raise BtfError(f"BTF: more than {MAX_TYPES} types")
        offsets.append(at)
        at += 12 + tail[0] + tail[1] * (info & 0xFFFF)
    if at != end:
        raise BtfError(f"BTF: truncated: type {len(offsets) - 1} is cut off")
    return offsets


def _decode_fixed(head: BtfType, words: tuple[int, ...]) -> BtfType:
    if head.kind == Kind.INT:
        return head._replace(encoding=words[0] >> 24 & 15, bit_offset=words[0] >> 16 & 255, bits=words[0] & 255)
    if head.kind == Kind.ARRAY:
        return head._replace(ref=words[0], index_type=words[1], count=words[2])
    if head.kind == Kind.VAR:
        return head._replace(linkage=words[0])
    return head._replace(component=_signed(words[0], 32))  # DECL_TAG


def _decode_rows(head: BtfType, rows: Iterator[tuple[int, ...]], text) -> BtfType:
    if head.kind in COMPOSITES:
        if head.kind_flag:
            return head._replace(members=tuple(Member(text(n), t, o & 0xFFFFFF, o >> 24) for n, t, o in rows))
        return head._replace(members=tuple(Member(text(n), t, o, 0) for n, t, o in rows))
    if head.kind == Kind.ENUM:
        return head._replace(enumerators=tuple(Enumerator(text(n), _signed(v, 32) if head.kind_flag else v) for n, v in rows))
    if head.kind == Kind.ENUM64:
        wide = ((n, low | high << 32) for n, low, high in rows)
        return head._replace(enumerators=tuple(Enumerator(text(n), _signed(v, 64) if head.kind_flag else v) for n, v in wide))
    if head.kind == Kind.FUNC_PROTO:
        return head._replace(parameters=tuple(Parameter(text(n), t) for n, t in rows))
    return head._replace(variables=tuple(SectionVariable(*row) for row in rows))  # DATASEC


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
