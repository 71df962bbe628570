"""A BTF type compiled into a tree of nodes that turn bytes into Python values and back.

    Number   int, pointer           -> int             Text    char[n]        -> str (up to the first NUL)
    Bool     _Bool                  -> bool            Array   t[n]           -> list
    Real     float, double          -> float           Record  struct, union  -> dict; members of anonymous members are its own
    Choice   enum                   -> name, or int    Bits    a bit field    -> as its base type

The tree is made once per type, and checked then: every member lies inside its struct and nothing is deeper than MAX_DEPTH, so that decoding untrusted
BTF can neither loop nor read outside the value. A node never holds data; it reads at `at` and writes into a Draft.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Iterable, Mapping, NamedTuple

from shmbpf.elf.btf import COMPOSITES, MAX_DEPTH, MODIFIERS, Btf, BtfType, Kind
from shmbpf.errors import BtfError, ShmbpfError

MAX_FIELDS = 65536
_SIGNED, _CHAR, _BOOL = 1, 2, 4


class ValueRefused(ShmbpfError):
    """A value that a type cannot hold: names the field, what was expected and what came."""


def refuse(path: str, expected: str, came: object) -> ValueRefused:
    """`value.port: expected 0 to 65535, got 70000`."""
    shown = repr(came)
    return ValueRefused(f"{path}: expected {expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}")


class Draft:
    """Bytes being filled. Remembers what was written, so that two members of a union cannot contradict each other in silence."""

    def __init__(self, size: int):
        self.data = bytearray(size)
        self._written = bytearray(size)

    def put(self, at: int, data: bytes, path: str) -> None:
        """Store whole bytes."""
        self.put_bits(at, int.from_bytes(data, "little"), (1 << 8 * len(data)) - 1, len(data), path)

    def put_bits(self, at: int, value: int, mask: int, size: int, path: str) -> None:
        """Store the bits of `mask` in the `size` bytes at `at`."""
        old = int.from_bytes(self.data[at : at + size], "little")
        written = int.from_bytes(self._written[at : at + size], "little")
        if (old ^ value) & mask & written:
            raise ValueRefused(f"{path}: overlaps another member of its union that was given a different value (give one of them)")
        self.data[at : at + size] = (old & ~mask | value & mask).to_bytes(size, "little")
        self._written[at : at + size] = (written | mask).to_bytes(size, "little")


class Node(ABC):
    """A type: `size` bytes."""

    size: int
    word = "value"  #: what messages call it

    @abstractmethod
    def decode(self, data: bytes, at: int = 0) -> object:
        """The Python value of the bytes at `at`."""

    @abstractmethod
    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        """Store `value` at `at`. Raises ValueRefused."""


    def encode(self, value: object, path: str = "value") -> bytes:
        """The bytes of a value; `bytes` of the right length are taken as they are."""
        draft = Draft(self.size)
        self.write(draft, 0, value, path)
        return bytes(draft.data)


class Number(Node):
    """A little-endian integer of any whole number of bytes."""

    def __init__(self, size: int, signed: bool, word: str, is_char: bool = False):
        self.size, self.signed, self.word, self.is_char = size, signed, word, is_char
        bits = 8 * size
        self.low, self.high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def decode(self, data: bytes, at: int = 0) -> int:
        return int.from_bytes(data[at : at + self.size], "little", signed=self.signed)

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            draft.put(at, exact_bytes(value, self.size, path), path)
        else:
            draft.put(at, self.check(value, path).to_bytes(self.size, "little", signed=self.signed), path)

    def check(self, value: object, path: str) -> int:
        """The integer meant by `value`, in range."""
        if self.is_char and isinstance(value, str) and len(value) == 1 and ord(value) < 256:
            value = ord(value) - (256 if self.signed and ord(value) > 127 else 0)
        if not hasattr(value, "__index__"):
            raise refuse(path, f"a number ({self.word})", value)
        number = value.__index__()
        if not self.low <= number <= self.high:
            raise refuse(path, f"{self.low} to {self.high} ({self.word})", number)
        return number


class Bool(Number):
    """One byte, 0 or 1."""

    def __init__(self, size: int):
        super().__init__(size, False, "bool")

    def decode(self, data: bytes, at: int = 0) -> bool:
        return super().decode(data, at) != 0

    def check(self, value: object, path: str) -> int:
        if not hasattr(value, "__index__") or value.__index__() not in (0, 1):
            raise refuse(path, "true or false", value)
        return value.__index__()


class Choice(Number):
    """An enum. Values that have no name stay numbers."""

    def __init__(self, size: int, names: Mapping[str, int], signed: bool, word: str):
        super().__init__(size, signed, word)
        self.names = names
        self.by_value: dict[int, str] = {}
        for name, value in names.items():
            self.by_value.setdefault(value, name)
        # BTF's sign flag is younger than enums, so both readings of the highest bit are taken
        self.low, self.high = -(1 << 8 * size - 1), (1 << 8 * size) - 1

    def decode(self, data: bytes, at: int = 0) -> int | str:
        number = super().decode(data, at)
        return self.by_value.get(number, number)

    def check(self, value: object, path: str) -> int:
        if isinstance(value, str):
            if value not in self.names:
                raise refuse(path, f"one of {', '.join(list(self.names)[:12])} ({self.word})", value)
            return self.names[value]
        return super().check(value, path)

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            value = (self.check(value, path) & (1 << 8 * self.size) - 1).to_bytes(self.size, "little")
        super().write(draft, at, value, path)


class Real(Node):
    """IEEE float of 4 or 8 bytes."""

    def __init__(self, size: int, word: str):
        self.size, self.word = size, word
        self._struct = struct.Struct("<" + {2: "e", 4: "f", 8: "d"}[size])

    def decode(self, data: bytes, at: int = 0) -> float:
        return self._struct.unpack_from(data, at)[0]

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            draft.put(at, exact_bytes(value, self.size, path), path)
            return
        try:
            draft.put(at, self._struct.pack(value), path)
        except (struct.error, OverflowError, TypeError):
            raise refuse(path, f"a number ({self.word})", value) from None


class Text(Node):
    """char[n]: text, padded with NULs. Bytes that are no UTF-8 survive as surrogates."""

    word = "text"

    def __init__(self, size: int):
        self.size = size

    def decode(self, data: bytes, at: int = 0) -> str:
        return bytes(data[at : at + self.size]).partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogateescape")
        if isinstance(value, (list, tuple)) and all(isinstance(byte, int) and -128 <= byte < 256 for byte in value):
            value = bytes(byte & 255 for byte in value)
        if not isinstance(value, (bytes, bytearray, memoryview)) or len(value) > self.size:
            raise refuse(path, f"text of at most {self.size} bytes", value)
        draft.put(at, bytes(value).ljust(self.size, b"\0"), path)


class Array(Node):
    """Elements of one type, one behind the other."""

    word = "list"

    def __init__(self, element: Node, count: int):
        self.element, self.count, self.size = element, count, element.size * count

    def decode(self, data: bytes, at: int = 0) -> list:
        step, decode = self.element.size, self.element.decode
        return [decode(data, at + index * step) for index in range(self.count)]

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            draft.put(at, exact_bytes(value, self.size, path), path)
            return
        if not isinstance(value, (list, tuple)) or len(value) != self.count:
            raise refuse(path, f"a list of {self.count}", value)
        for index, item in enumerate(value):
            self.element.write(draft, at + index * self.element.size, item, f"{path}[{index}]")


class Bits(Node):
    """A bit field: `bits` bits from bit `shift` of the byte it starts in. `base` decides how they are read."""

    def __init__(self, base: Number, shift: int, bits: int):
        self.base, self.shift, self.bits, self.word = base, shift, bits, base.word
        self.size = (shift + bits + 7) // 8

    def decode(self, data: bytes, at: int = 0) -> object:
        raw = int.from_bytes(data[at : at + self.size], "little") >> self.shift & (1 << self.bits) - 1
        if self.base.signed and raw >> self.bits - 1:
            raw -= 1 << self.bits
        if isinstance(self.base, Choice):
            return self.base.by_value.get(raw, raw)
        return raw != 0 if isinstance(self.base, Bool) else raw

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        number = self.base.check(value, path)
        low = -(1 << self.bits - 1) if self.base.signed else 0
        high = (1 << self.bits - (1 if self.base.signed else 0)) - 1
        if not low <= number <= high:
            raise refuse(path, f"{low} to {high} ({self.bits} bits)", value)
        draft.put_bits(at, number << self.shift & (1 << 8 * self.size) - 1, (1 << self.bits) - 1 << self.shift, self.size, path)


class Field(NamedTuple):
    """A named member: `at` is its offset in the record in bytes."""

    name: str
    at: int
    node: Node


class Record(Node):
    """A struct or union."""

    word = "struct"

    def __init__(self, size: int, fields: Iterable[Field], word: str, is_union: bool = False):
        self.size, self.word, self.is_union = size, word, is_union
        self.fields = tuple(fields)
        self.by_name = {field.name: field for field in self.fields}

    def decode(self, data: bytes, at: int = 0) -> dict[str, object]:
        return {name: node.decode(data, at + offset) for name, offset, node in self.fields}

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            draft.put(at, exact_bytes(value, self.size, path), path)
            return
        if not isinstance(value, Mapping):
            raise refuse(path, f"{{field: value}} of {self.word} ({', '.join(self.by_name)})", value)
        for name, item in value.items():
            field = self.by_name.get(name)
            if field is None:
                raise refuse(path, f"a field of {self.word} ({', '.join(self.by_name)})", name)
            field.node.write(draft, at + field.at, item, f"{path}.{name}")


class Opaque(Node):
    """Memory without a describable content (`struct {}`, a type that is only declared)."""

    word = "bytes"

    def __init__(self, size: int):
        self.size = size

    def decode(self, data: bytes, at: int = 0) -> bytes:
        return bytes(data[at : at + self.size])

    def write(self, draft: Draft, at: int, value: object, path: str) -> None:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise refuse(path, f"{self.size} bytes", value)
        draft.put(at, exact_bytes(value, self.size, path), path)


def exact_bytes(value: bytes | bytearray | memoryview, size: int, path: str) -> bytes:
    """`value`, which must have `size` bytes."""
    if len(value) != size:
        raise ValueRefused(f"{path}: expected {size} bytes, got {len(value)}")
    return bytes(value)


# -- from BTF --


@lru_cache(maxsize=256)
def compile_type(btf: Btf, number: int) -> Node:
    """The node of a BTF type. Raises BtfError for what has no size or does not hold together."""
    return _compile(btf, number, 0)


def _compile(btf: Btf, number: int, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise BtfError(f"BTF: type {number} is nested deeper than {MAX_DEPTH}")
    entry = btf.resolve(number)
    if entry.kind == Kind.VAR:
        return _compile(btf, entry.ref, depth + 1)
    make = _MAKERS.get(entry.kind)
    if make is None:
        raise BtfError(f"BTF: type {number} {entry.name!r} has no value ({entry.kind.name})")
    return make(btf, entry, depth)


def _integer(btf: Btf, entry: BtfType, depth: int) -> Node:
    if entry.encoding & _BOOL:
        return Bool(entry.size)
    is_char = entry.size == 1 and (entry.name == "char" or bool(entry.encoding & _CHAR))
    number = Number(entry.size, bool(entry.encoding & _SIGNED), entry.name, is_char)
    whole = not entry.bit_offset and entry.bits in (0, 8 * entry.size)
    return number if whole else Bits(number, entry.bit_offset % 8, max(entry.bits, 1))


def _pointer(btf: Btf, entry: BtfType, depth: int) -> Node:
    return Number(8, False, "pointer")


def _enum(btf: Btf, entry: BtfType, depth: int) -> Node:
    signed = entry.kind_flag or any(value < 0 for _, value in entry.enumerators)
    return Choice(entry.size, dict(entry.enumerators), signed, f"enum {entry.name}".strip())


def _real(btf: Btf, entry: BtfType, depth: int) -> Node:
    return Real(entry.size, entry.name) if entry.size in (2, 4, 8) else Opaque(entry.size)


def _array(btf: Btf, entry: BtfType, depth: int) -> Node:
    element = _compile(btf, entry.ref, depth + 1)
    if element.size == 0 and entry.count > MAX_FIELDS or btf.size_of(entry.id) > 1 << 31:
        raise BtfError(f"BTF: type {entry.id} is an array of {entry.count} elements of {element.size} bytes")
    if is_text_element(btf, entry.ref):
        return Text(entry.count)
    return Array(element, entry.count)


def is_text_element(btf: Btf, number: int) -> bool:
    """True for C's `char`. A typedef of it (int8_t, u8) is a number: that is how bpftool tells strings from bytes (tools/bpf/bpftool/btf_dumper.c, is_str_array())."""
    entry = btf.type(number)
    for _ in range(MAX_DEPTH):
        if entry.kind not in MODIFIERS or entry.kind == Kind.TYPEDEF:
            break
        entry = btf.type(entry.ref)
    return entry.kind == Kind.INT and entry.size == 1 and (entry.encoding == _CHAR or entry.name == "char")


def _record(btf: Btf, entry: BtfType, depth: int) -> Node:
    fields: list[Field] = []
    for member in entry.members:
        node = _member_node(btf, member, depth)
        if member.bit_offset // 8 + node.size > entry.size:
            raise BtfError(f"BTF: member {member.name!r} lies outside of {entry.kind.name.lower()} {entry.name!r} ({entry.size} bytes)")
        at = member.bit_offset // 8
        if not member.name and isinstance(node, Record):
            fields += [Field(name, at + offset, inner) for name, offset, inner in node.fields]
        elif member.name:
            fields.append(Field(member.name, at, node))
        if len(fields) > MAX_FIELDS:
            raise BtfError(f"BTF: {entry.name!r} has more than {MAX_FIELDS} members")
    is_union = entry.kind == Kind.UNION
    return Record(entry.size, fields, f"{'union' if is_union else 'struct'} {entry.name}".strip(), is_union)


def _member_node(btf: Btf, member, depth: int) -> Node:
    node = _compile(btf, member.type, depth + 1)
    if not member.bit_size and member.bit_offset % 8 == 0:
        return node
    if isinstance(node, Bits):
        node = node.base
    if not isinstance(node, Number):
        raise BtfError(f"BTF: bit field {member.name!r} is no integer")
    return Bits(node, member.bit_offset % 8, member.bit_size or 8 * node.size)


def _section(btf: Btf, entry: BtfType, depth: int) -> Node:
    fields = []
    for variable in entry.variables:
        node = _compile(btf, variable.type, depth + 1)
        fields.append(Field(btf.type(variable.type).name, variable.offset, node))
    # clang leaves the size of a section to the loader
    size = max([entry.size, *(field.at + field.node.size for field in fields)])
    return Record(size, fields, f"section {entry.name}")


_MAKERS = {
    Kind.INT: _integer, Kind.PTR: _pointer, Kind.ENUM: _enum, Kind.ENUM64: _enum, Kind.FLOAT: _real, Kind.ARRAY: _array,
    **{kind: _record for kind in COMPOSITES}, Kind.DATASEC: _section,
}  # fmt: skip


# -- parts of a value --


def find_part(node: Node, path: str) -> tuple[int, Node]:
    """Byte offset and node of a part named like `stats.bytes` or `counts[3]`. Raises ValueRefused naming what there is."""
    at = 0
    for step in [word for word in path.replace("[", ".[").split(".") if word]:
        if step.startswith("[") and isinstance(node, Array) and step[1:-1].isdigit() and int(step[1:-1]) < node.count:
            at += int(step[1:-1]) * node.element.size
            node = node.element
        elif isinstance(node, Record) and step in node.by_name:
            field = node.by_name[step]
            at, node = at + field.at, field.node
        else:
            known = ", ".join(node.by_name) if isinstance(node, Record) else f"[0] to [{node.count - 1}]" if isinstance(node, Array) else "no parts"
            raise ValueRefused(f"field {path!r}: {node.word} has {known}, not {step!r}")
    return at, node

