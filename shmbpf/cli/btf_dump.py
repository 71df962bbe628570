"""A value as bpftool's typed dumps show it, in JSON (`formatted`) and in plain (Linux v6.1 tools/bpf/bpftool/btf_dumper.c).

The two differ in what JSON has no word for: bit fields and 128-bit numbers are `"0x1f"` and `0x1f`, pointers numbers and `0x1f`. Where bpftool gives up
(floats) the value is shown.
"""

from __future__ import annotations

import math
import struct

from shmbpf.cli.render import Pairs, Raw
from shmbpf.elf.btf import Btf, BtfType, Kind
from shmbpf.errors import BtfError
from shmbpf.maps.layout import compile_type, is_text_element

_SIGNED, _CHAR, _BOOL = 1, 2, 4


class BtfDump:
    """Makes documents of values. `plain` chooses between the two forms."""

    def __init__(self, btf: Btf, plain: bool):
        self.btf, self.plain = btf, plain

    def document(self, number: int, data: bytes) -> object:
        """The document of `data` seen as a type. Raises BtfError when the type is damaged or bigger than the data."""
        if compile_type(self.btf, number).size > len(data):  # checks offsets and depth, so that what follows cannot go astray
            raise BtfError(f"type {number} is bigger than the {len(data)} bytes it is to describe")
        return self._type(number, bytes(data), 0)

    def _type(self, number: int, data: bytes, bit: int) -> object:
        entry = self.btf.resolve(number)
        show = getattr(self, f"_{entry.kind.name.lower()}", None)
        return show(entry, data, bit) if show else None

    def _int(self, entry: BtfType, data: bytes, bit: int) -> object:
        if bit or entry.bit_offset or entry.bits % 8 or entry.bits != 8 * entry.size:
            return self._bits(data, bit + entry.bit_offset, entry.bits)
        value = int.from_bytes(data[: entry.size], "little", signed=entry.encoding == _SIGNED)
        if entry.bits == 128:
            return self._hex(value & (1 << 128) - 1)
        if entry.encoding == _BOOL:
            return value != 0
        return self._char(value) if entry.encoding == _CHAR else value

    def _char(self, value: int) -> object:
        if 0x20 <= value < 0x7F:
            return chr(value)
        return Raw(f"0x{value:x}") if self.plain else Raw(f'"\\u00{value:02x}"')

    def _hex(self, value: int) -> str:
        return Raw(f"0x{value:x}") if self.plain else f"0x{value:x}"

    def _bits(self, data: bytes, bit: int, count: int) -> str:
        return self._hex(int.from_bytes(data[bit // 8 : (bit + count + 7) // 8], "little") >> bit % 8 & (1 << count) - 1)

    def _ptr(self, entry: BtfType, data: bytes, bit: int) -> object:
        value = int.from_bytes(data[:8], "little")
        if self.plain:
            return Raw(f"0x{value:x}" if value else "(nil)")
        return value

    def _array(self, entry: BtfType, data: bytes, bit: int) -> object:
        size = self.btf.size_of(entry.ref)
        text = self._text(entry, data[: entry.count]) if is_text_element(self.btf, entry.ref) else None
        return [self._type(entry.ref, data[at * size : (at + 1) * size], 0) for at in range(entry.count)] if text is None else text

    def _text(self, entry: BtfType, data: bytes) -> str | None:
        """A char array that is printable up to a NUL; any other is a list of numbers."""
        text, end, _ = data.partition(b"\0")
        return text.decode() if end and all(0x1F < byte < 0x7F for byte in text) else None

    def _struct(self, entry: BtfType, data: bytes, bit: int) -> Pairs:
        shown = Pairs()
        for member in entry.members:
            rest = data[member.bit_offset // 8 :]
            if member.bit_size:
                shown.append((member.name, self._bits(rest, member.bit_offset % 8, member.bit_size)))
            else:
                shown.append((member.name, self._type(member.type, rest[: self.btf.size_of(member.type) + 1], member.bit_offset % 8)))
        return shown

    _union = _struct

    def _enum(self, entry: BtfType, data: bytes, bit: int) -> object:
        mask = (1 << 8 * entry.size) - 1
        value = int.from_bytes(data[: entry.size], "little", signed=entry.kind == Kind.ENUM or entry.kind_flag)
        return next((name for name, known in entry.enumerators if known & mask == value & mask), value)

    _enum64 = _enum

    def _float(self, entry: BtfType, data: bytes, bit: int) -> object:
        code = {4: "<f", 8: "<d"}.get(entry.size)
        value = struct.unpack(code, data[: entry.size])[0] if code else math.nan
        return value if math.isfinite(value) else str(value)

    def _var(self, entry: BtfType, data: bytes, bit: int) -> object:
        return self._type(entry.ref, data, bit)

    def _datasec(self, entry: BtfType, data: bytes, bit: int) -> dict[str, object]:
        variables = [{self.btf.type(row.type).name: self._type(row.type, data[row.offset :], 0)} for row in entry.variables[:65536]]
        return {entry.name: variables}


