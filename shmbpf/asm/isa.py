"""The rows of isa.def, as the compiled library has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from shmbpf._ffi import ffi, lib


@dataclass(frozen=True)
class IsaRow:
    """One instruction: its opcode byte, and which other fields select it (None = free or reserved, see `form`)."""

    name: str
    code: int
    src: int | None
    off: int | None
    imm: int | None
    form: str  #: `ALU_K`, `LDX`, ...: which fields are operands
    version: int  #: -mcpu= level of clang that emits it first

    @property
    def slots(self) -> int:
        """2 for ld_imm64, else 1."""
        return 2 if self.form == "IMM64" else 1


@cache
def isa_rows() -> dict[str, IsaRow]:
    """Every row by name, in the order of the table."""
    forms = {value: name.removeprefix("ISA_") for value, name in ffi.typeof("enum vm_isa_form").elements.items()}
    rows, index = {}, 0
    while (row := lib.vm_isa_at(index)) != ffi.NULL:
        name, match = ffi.string(row.name).decode(), row.match
        fixed = [getattr(row, field) if match & bit else None for field, bit in (("src", lib.ISA_SRC), ("off", lib.ISA_OFF), ("imm", lib.ISA_IMM))]
        rows[name] = IsaRow(name, row.code, *fixed, forms[row.form], row.version)
        index += 1
    return rows
