"""Type information written by hand, for tests that need types and no compiler."""

from __future__ import annotations

from shmbpf.elf.btf import Btf, BtfType, Enumerator, Kind, Member, SectionVariable
from shmbpf.elf.btf_subset import BtfWriter


class Types:
    """Collects types; every method returns the new one's id. `u8` ... `s64`, `char` and `bool` are there from the start."""

    def __init__(self) -> None:
        self._writer = BtfWriter()
        names = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long", 16: "unsigned __int128"}
        for size, name in names.items():
            setattr(self, f"u{8 * size}", self.integer(name, size))
        for size, name in {1: "signed char", 2: "short", 4: "int", 8: "long long"}.items():
            setattr(self, f"s{8 * size}", self.integer(name, size, 1))
        self.char = self.integer("char", 1, 1)
        self.bool = self.integer("_Bool", 1, 4)

    def _add(self, kind: Kind, **fields) -> int:
        return self._writer.add(BtfType(0, kind, **fields))

    def integer(self, name: str, size: int, encoding: int = 0) -> int:
        return self._add(Kind.INT, name=name, size=size, encoding=encoding, bits=8 * size)

    def real(self, name: str, size: int) -> int:
        return self._add(Kind.FLOAT, name=name, size=size)

    def pointer(self, to: int) -> int:
        return self._add(Kind.PTR, ref=to)

    def typedef(self, name: str, to: int) -> int:
        return self._add(Kind.TYPEDEF, name=name, ref=to)

    def const(self, to: int) -> int:
        return self._add(Kind.CONST, ref=to)

    def array(self, of: int, count: int) -> int:
        return self._add(Kind.ARRAY, ref=of, index_type=self.u32, count=count)

    def enum(self, name: str, values: dict[str, int], size: int = 4) -> int:
        signed = any(value < 0 for value in values.values())
        enumerators = tuple(Enumerator(*item) for item in values.items())
        return self._add(Kind.ENUM64 if size == 8 else Kind.ENUM, name=name, size=size, kind_flag=signed, enumerators=enumerators)

    def struct(self, name: str, *members: tuple, size: int | None = None, union: bool = False) -> int:
        """Members are (name, type, byte offset) or (name, type, bit offset, bits) for bit fields."""
        has_bits = any(len(member) == 4 for member in members)
        rows = tuple(Member(m[0], m[1], m[2] * 8, 0) if len(m) == 3 else Member(*m) for m in members)
        if size is None:
            btf = self.btf()
            size = max((m[2] + btf.size_of(m[1]) for m in members if len(m) == 3), default=0)
        return self._add(Kind.UNION if union else Kind.STRUCT, name=name, size=size, kind_flag=has_bits, members=rows)

    def section(self, name: str, *variables: tuple[str, int, int], size: int) -> int:
        """A data section of (name, type, offset)."""
        rows = []
        btf_sizes = self.btf()
        for variable, number, offset in variables:
            var = self._add(Kind.VAR, name=variable, ref=number, linkage=1)
            rows.append(SectionVariable(var, offset, btf_sizes.size_of(number)))
        return self._add(Kind.DATASEC, name=name, size=size, variables=tuple(rows))

    def btf(self) -> Btf:
        return Btf.from_bytes(self._writer.to_bytes())
