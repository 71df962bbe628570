"""Instructions as the kernel and bpftool print them."""

from __future__ import annotations

from shmbpf._ffi import ffi, lib

_TEXT_BYTES = 128


def disassemble(insns: bytes, start: int = 0, count: int | None = None) -> list[str]:
    """One line for each instruction (ld_imm64 is one line for its two slots), from slot `start`, at most `count` lines.

    `insns` is `struct bpf_insn[]`, 8 bytes each. Unknown opcodes give "unknown opcode xx"; nothing is refused.
    """
    total = len(insns) // 8
    code = ffi.from_buffer("uint8_t[]", insns)
    text = ffi.new("char[]", _TEXT_BYTES)
    lines: list[str] = []
    at = start
    while at < total and (count is None or len(lines) < count):
        slots = lib.vm_disasm(ffi.cast("struct bpf_insn *", code) + at, total - at, text, _TEXT_BYTES)
        lines.append(ffi.string(text).decode())
        at += slots
    return lines
