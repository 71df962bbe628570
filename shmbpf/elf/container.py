"""The ELF container, copied into plain values: sections, symbols, relocations. No other module sees pyelftools or a raw header.

    file bytes -> open_container() -> Container
                                        |- sections[i]           name, flags, memoryview of its bytes (nothing is copied)
                                        |- symbols[i]            name, value, section index
                                        `- relocations(section)  the entries that patch this section, by offset

Invariants a caller may rely on: every section lies inside the file and no two of them overlap, so all of them together are no larger than the
file; every string ends inside its table; every relocation lies inside the section it patches and names an existing symbol.

pyelftools reads and judges the file header. The tables behind it are unpacked in bulk: one `Construct` per entry costs 30 us, and its classes
for hash and note sections follow counts from the file without a bound.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Iterator, NamedTuple, Sequence

from shmbpf.errors import ObjectError

MAX_FILE = 64 << 20
MAX_SECTIONS = 65_536
MAX_SYMBOLS = 1_000_000
MAX_RELOCATIONS = 1_000_000
MAX_NAME = 4096

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON, SHN_XINDEX = 0, 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 0, 1, 2, 3, 4
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2

_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_REL = struct.Struct("<QQ")
_RELA = struct.Struct("<QQq")


class StringTable:
    """NUL-terminated strings addressed by byte offset.

    Offsets may point into the middle of a string, so a hostile table of n bytes could be read as n strings of n bytes: the bytes handed out
    are counted and bounded by a few times the table's size (real tables share tails, no more).
    """

    def __init__(self, data: bytes, error: type[ObjectError] = ObjectError, where: str = "string table"):
        self._data = data
        self._error = error
        self._where = where
        self._cache: dict[int, str] = {0: ""}
        self._budget = 4 * len(data) + (1 << 16)

    def get(self, offset: int) -> str:
        """The string at `offset`; offset 0 is the empty string."""
        text = self._cache.get(offset)
        if text is not None:
            return text
        end = self._data.find(b"\0", offset, offset + MAX_NAME) if offset < len(self._data) else -1
        if end < 0:
            raise self._error(f"{self._where}: no string at offset {offset} of {len(self._data)} (strings end with NUL within {MAX_NAME} bytes)")
        self._budget -= end - offset
        if self._budget < 0:
            raise self._error(f"{self._where}: strings overlap too often to be real")
        text = self._cache[offset] = self._data[offset:end].decode("utf-8", "replace")
        return text


@dataclass(frozen=True)
class Section:
    """One section header. `data` is empty for NOBITS sections (.bss), whose length is `size`."""

    index: int
    name: str
    type: int
    flags: int
    size: int
    link: int
    info: int
    data: memoryview

    @property
    def is_code(self) -> bool:
        """Executable and with bytes in the file."""
        return bool(self.flags & SHF_EXECINSTR) and self.type == SHT_PROGBITS and self.size > 0


class Symbol(NamedTuple):
    """One symbol. `section` is the section's index, 0 (SHN_UNDEF) for an extern, or a reserved SHN_* number."""

    name: str
    value: int
    size: int
    bind: int
    type: int
    section: int

    @property
    def is_undefined(self) -> bool:
        """True for an extern (a definition in a real section has a section index)."""
        return self.section == SHN_UNDEF


class Relocation(NamedTuple):
    """One patch: at `offset` of the target section. `addend` is None when it is stored in place (SHT_REL)."""

    offset: int
    type: int
    symbol: Symbol
    addend: int | None


class Container:
    """Sections, symbols and relocations of one relocatable BPF object."""

    def __init__(self, where: str, sections: Sequence[Section], symbols: Sequence[Symbol]):
        self.where = where
        self.sections = sections
        self.symbols = symbols
        self._relocation_sections: dict[int, list[Section]] = {}
        for section in sections:
            if section.type in (SHT_REL, SHT_RELA):
                self._relocation_sections.setdefault(section.info, []).append(section)

    def find(self, name: str) -> Section | None:
        """The first section of that name, or None."""
        return next((section for section in self.sections if section.name == name), None)

    def relocations(self, section: Section) -> list[Relocation]:
        """All relocations that patch `section`, in order of their offset."""
        found = [entry for table in self._relocation_sections.get(section.index, ()) for entry in self._unpack_relocations(table, section)]
        found.sort(key=lambda entry: entry.offset)
        return found

    def fail(self, reason: str) -> ObjectError:
        """An error about this file."""
        return ObjectError(f"{self.where}: {reason}")

    def _unpack_relocations(self, table: Section, target: Section) -> Iterator[Relocation]:
        layout = _RELA if table.type == SHT_RELA else _REL
        if table.size % layout.size or table.size // layout.size > MAX_RELOCATIONS:
            raise self.fail(f"section {table.name!r}: {table.size} bytes are not up to {MAX_RELOCATIONS} relocations of {layout.size} bytes")
        for offset, info, *addend in layout.iter_unpack(table.data):
            if offset >= target.size:
                raise self.fail(
                    f"section {table.name!r}: relocation at {offset:#x} is out of range of section {target.name!r} ({target.size:#x} bytes)"
                )
            if info >> 32 >= len(self.symbols):
                raise self.fail(f"section {table.name!r}: relocation at {offset:#x} names symbol {info >> 32} of {len(self.symbols)}")
            yield Relocation(offset, info & 0xFFFFFFFF, self.symbols[info >> 32], addend[0] if addend else None)


def open_container(data: bytes, where: str) -> Container:
    """Take an object file apart. `where` names the file in messages. Raises ObjectError for anything but a little-endian BPF relocatable."""
    if len(data) > MAX_FILE:
        raise ObjectError(f"{where}: {len(data)} bytes; objects of more than {MAX_FILE} bytes are not read")
    header = _read_header(data, where)
    sections = _read_sections(data, where, header)
    return Container(where, sections, _read_symbols(where, sections))


def _read_header(data: bytes, where: str):
    if data[:4] != b"\x7fELF":
        raise ObjectError(f"{where}: not an ELF object (starts with {data[:4].hex(' ') or 'nothing'}); compile C with `clang -target bpf -O2 -g -c`")
    if data[4:6] == b"\x02\x02" and data[18:20] == b"\x00\xf7":
        raise ObjectError(f"{where}: big-endian BPF; compile with `clang -target bpfel`")
    from elftools.elf.elffile import ELFFile  # 50 ms of import that commands without an object need not pay

    try:
        elf = ELFFile(io.BytesIO(data[:64] + bytes(24)))  # the header alone; what it points to is read below
        header = elf.header
        machine, kind, bits, little = header["e_machine"], header["e_type"], elf.elfclass, elf.little_endian
        entry_size = header["e_shentsize"]
    except Exception as exc:  # pyelftools lets everything escape: ELFError, AssertionError, OverflowError, AttributeError...
        raise ObjectError(f"{where}: the ELF header is broken or truncated ({type(exc).__name__}: {exc})") from None
    if machine not in ("EM_BPF", "EM_NONE"):
        raise ObjectError(f"{where}: ELF for {_machine_name(machine)}, not for BPF; compile with `clang -target bpf`")
    if bits != 64 or not little:
        raise ObjectError(f"{where}: {bits}-bit {'little' if little else 'big'}-endian ELF; BPF objects are 64-bit little-endian")
    if kind != "ET_REL":
        raise ObjectError(f"{where}: ELF of type {kind}, not a relocatable object (ET_REL); compile with -c and do not link")
    if header["e_shoff"] and entry_size != _SECTION_HEADER.size:
        raise ObjectError(f"{where}: section headers of {entry_size} bytes, expected {_SECTION_HEADER.size}")
    return header


def _machine_name(machine: object) -> str:
    return str(machine).removeprefix("EM_").lower().replace("_", "-") if isinstance(machine, str) else f"machine {machine}"


def _read_sections(data: bytes, where: str, header) -> list[Section]:
    offset, count, names_index = header["e_shoff"], header["e_shnum"], header["e_shstrndx"]
    if offset == 0:
        raise ObjectError(f"{where}: no sections; nothing to load")
    if offset + _SECTION_HEADER.size > len(data):
        raise ObjectError(f"{where}: truncated: section headers at {offset:#x}, the file has {len(data):#x} bytes")
    first = _SECTION_HEADER.unpack_from(data, offset)
    count = count or first[5]  # more than 0xfeff sections: the real numbers are in section 0 (ELF gABI, "Section Header")
    names_index = first[6] if names_index == SHN_XINDEX else names_index
    if count > MAX_SECTIONS:
        raise ObjectError(f"{where}: {count} sections; more than {MAX_SECTIONS} are not read")
    if offset + count * _SECTION_HEADER.size > len(data):
        raise ObjectError(f"{where}: truncated: {count} section headers at {offset:#x}, the file has {len(data):#x} bytes")
    raw = list(_SECTION_HEADER.iter_unpack(memoryview(data)[offset : offset + count * _SECTION_HEADER.size]))
    bodies = _slice_bodies(data, where, raw)
    if names_index >= len(raw):
        raise ObjectError(f"{where}: section names in section {names_index} of {len(raw)}")
    names = StringTable(bytes(bodies[names_index]), ObjectError, f"{where}: section names")
    return [
        Section(index, names.get(entry[0]), entry[1], entry[2], entry[5], entry[6], entry[7], bodies[index]) for index, entry in enumerate(raw)
    ]


def _slice_bodies(data: bytes, where: str, raw: list[tuple]) -> list[memoryview]:
    view, total, bodies = memoryview(data), 0, []
    for index, (_, kind, _, _, offset, size, *_) in enumerate(raw):
        if kind in (0, SHT_NOBITS):
            bodies.append(view[:0])
            continue
        if offset + size > len(data):
            raise ObjectError(f"{where}: truncated: section {index} ends at {offset + size:#x}, the file has {len(data):#x} bytes")
        total += size
        bodies.append(view[offset : offset + size])
    if total > len(data):
        raise ObjectError(f"{where}: sections overlap: {total} bytes of sections in a file of {len(data)}")
    return bodies


def _read_symbols(where: str, sections: Sequence[Section]) -> list[Symbol]:
    table = next((section for section in sections if section.type == SHT_SYMTAB), None)
    if table is None:
        return []
    if table.size % _SYMBOL.size or table.size // _SYMBOL.size > MAX_SYMBOLS:
        raise ObjectError(f"{where}: section {table.name!r}: {table.size} bytes are not up to {MAX_SYMBOLS} symbols of {_SYMBOL.size} bytes")
    if table.link >= len(sections):
        raise ObjectError(f"{where}: section {table.name!r}: symbol names in section {table.link} of {len(sections)}")
    names = StringTable(bytes(sections[table.link].data), ObjectError, f"{where}: symbol names")
    symbols = []
    for name, info, _, index, value, size in _SYMBOL.iter_unpack(table.data):
        kind = info & 15
        if len(sections) <= index < SHN_LORESERVE:
            raise ObjectError(f"{where}: symbol {names.get(name)!r} is in section {index} of {len(sections)}")
        text = names.get(name)
        if kind == STT_SECTION and not text and index < len(sections):
            text = sections[index].name
        symbols.append(Symbol(text, value, size, info >> 4, kind, index))
    return symbols
