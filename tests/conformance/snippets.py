"""One program shape for the whole ISA matrix: operands come in packet bytes, results go back into them, so one load serves many operands.

    bytes 0-7    a -> r2 and the stack word at r10-16     <- r2
    bytes 8-15   b -> r3                                  <- r3
    bytes 16-23  c -> r0                                  <- r0
    bytes 24-31                                           <- the stack word

The same code runs as an XDP program (ours and the kernel's) and as a bare program (ours and the model's); only the first lines differ.
"""

from __future__ import annotations

import struct

from shmbpf.asm import IsaRow, assemble, encode, isa_rows

_XDP_PROLOGUE = "r6 = *(u32 *)(r1 +0)\nr7 = *(u32 *)(r1 +4)\nr1 = r6\nr1 += 64\nif r1 > r7 goto +%d"
_BARE_PROLOGUE = "r6 = r1"
_LOAD = "r2 = *(u64 *)(r6 +0)\nr3 = *(u64 *)(r6 +8)\nr0 = *(u64 *)(r6 +16)\n*(u64 *)(r10 -16) = r2"
_STORE = "*(u64 *)(r6 +0) = r2\n*(u64 *)(r6 +8) = r3\n*(u64 *)(r6 +16) = r0\nr4 = *(u64 *)(r10 -16)\n*(u64 *)(r6 +24) = r4"
_END = "r0 = 2\nexit"

STACK, A, B = 10, 2, 3

#: rows that a snippet cannot show: control flow with its own tests, and what needs maps or a socket buffer
ELSEWHERE = frozenset(
    name for name, row in isa_rows().items()
    if row.form in ("CALL", "CALL_LOCAL", "CALL_KFUNC", "EXIT", "LD_ABS", "LD_IND") or (row.form == "IMM64" and name != "LD_IMM64")
)  # fmt: skip


def operate(row: IsaRow, imm: int = 0) -> bytes:
    """The instruction on the snippet's operands. A jump that is taken leaves r2 alone, one that is not sets r2 to 7."""
    match row.form:
        case "ALU_K":
            return encode(row, A, imm=imm)
        case "ALU_X" | "ALU_1":
            return encode(row, A, B if row.form == "ALU_X" else 0)
        case "IMM64":
            return encode(row, A, imm=imm)
        case "LDX" | "LOAD_ACQ":
            return encode(row, A, STACK, -16)
        case "ST":
            return encode(row, STACK, 0, -16, imm)
        case "STX" | "ATOMIC" | "ATOMIC_FETCH" | "CMPXCHG" | "STORE_REL":
            return encode(row, STACK, B, -16)
    return _jump(row, imm) + assemble("r2 = 7")


def _jump(row: IsaRow, imm: int) -> bytes:
    if row.form == "JA32":
        return encode(row, imm=0)
    if row.form in ("JA", "MAY_GOTO"):
        return encode(row, off=0 if row.form == "JA" else 1)
    return encode(row, A, B if row.form == "JMP_X" else 0, 1, imm)


def uses_imm(row: IsaRow) -> bool:
    return row.form in ("ALU_K", "ST", "JMP_K", "IMM64")


def program(middle: bytes, *, bare: bool) -> bytes:
    """A whole program round instructions that work on the operands."""
    body = assemble(_LOAD) + middle + assemble(_STORE)
    prologue = _BARE_PROLOGUE if bare else _XDP_PROLOGUE % (len(body) // 8)
    return assemble(prologue) + body + assemble(_END)


def packet(a: int, b: int, c: int) -> bytes:
    return struct.pack("<3Q", a, b, c).ljust(64, b"\0")


def results(data: bytes) -> tuple[int, int, int, int]:
    """(r2, r3, r0, stack word)."""
    return struct.unpack_from("<4Q", data)
