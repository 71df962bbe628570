"""Writes small ELF objects byte by byte: the untidy and the broken ones that no compiler here produces."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

EXIT = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit
PROGBITS, SYMTAB, STRTAB, NOBITS, REL = 1, 2, 3, 8, 9
WRITE, ALLOC, EXEC = 1, 2, 4
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION = 0, 1, 2, 3


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One instruction."""
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def ld_imm64(dst: int, imm: int = 0) -> bytes:
    """Both slots of a 64-bit load."""
    return insn(0x18, dst, imm=imm) + insn(0)


@dataclass
class ElfWriter:
    """Sections, symbols and relocations in the order they are added; index 0 of both tables is the null entry."""

    machine: int = 247
    kind: int = 1
    sections: list[tuple[str, int, int, bytes, int]] = field(default_factory=list)
    symbols: list[tuple[str, int, int, int, int, int]] = field(default_factory=list)
    relocations: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)

    def section(self, name: str, data: bytes = b"", flags: int = ALLOC, kind: int = PROGBITS, size: int | None = None) -> int:
        """Add a section; returns its index."""
        self.sections.append((name, kind, flags, data, len(data) if size is None else size))
        return len(self.sections)

    def code(self, name: str, data: bytes = EXIT) -> int:
        """Add a code section."""
        return self.section(name, data, ALLOC | EXEC)

    def symbol(self, name: str, section: int, value: int = 0, size: int = 0, bind: int = GLOBAL, kind: int = FUNC) -> int:
        """Add a symbol; returns its index."""
        self.symbols.append((name, section, value, size, bind, kind))
        return len(self.symbols)

    def relocate(self, section: int, offset: int, symbol: int, kind: int) -> None:
        """Add a relocation to a section."""
        self.relocations.setdefault(section, []).append((offset, kind, symbol))

    def to_bytes(self) -> bytes:
        """The file."""
        names, offsets = bytearray(1), {}
        symtab_index = len(self.sections) + 1
        symtab = bytearray(24)
        for name, section, value, size, bind, kind in self.symbols:
            symtab += struct.pack("<IBBHQQ", _name(names, offsets, name), bind << 4 | kind, 0, section, value, size)
        rows = [(name, kind, flags, data, size, 0, 0) for name, kind, flags, data, size in self.sections]
        rows.append((".symtab", SYMTAB, 0, bytes(symtab), len(symtab), symtab_index + 1, 1))
        rows.append((".strtab", STRTAB, 0, b"", 0, 0, 0))
        for target, entries in self.relocations.items():
            data = b"".join(struct.pack("<QQ", offset, symbol << 32 | kind) for offset, kind, symbol in entries)
            rows.append((".rel" + self.sections[target - 1][0], REL, 0, data, len(data), symtab_index, target))
        headers, body = bytearray(64), bytearray(64)
        name_offsets = [_name(names, offsets, row[0]) for row in rows]
        for row, name_offset in zip(rows, name_offsets, strict=True):
            data, size = (bytes(names), len(names)) if row[0] == ".strtab" else (row[3], row[4])
            headers += struct.pack("<IIQQQQIIQQ", name_offset, row[1], row[2], 0, len(body), size, row[5], row[6], 8, 0)
            body += data
        ident = b"\x7fELF\x02\x01\x01" + bytes(9)
        body[:64] = ident + struct.pack(
            "<HHIQQQIHHHHHH", self.kind, self.machine, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(rows) + 1, symtab_index + 1
        )
        return bytes(body + headers)


def _name(names: bytearray, offsets: dict[str, int], text: str) -> int:
    if text not in offsets:
        offsets[text] = len(names) if text else 0
        names += text.encode() + b"\0" if text else b""
    return offsets[text]
