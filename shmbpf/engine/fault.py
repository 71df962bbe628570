"""Faults in words: CPU, program, instruction, disassembly and source line."""

from __future__ import annotations

from shmbpf._ffi import ffi
from shmbpf.asm import disassemble
from shmbpf.engine.program import Program
from shmbpf.errors import ShmbpfError
from shmbpf.shm.namespace import Namespace


def describe_fault(namespace: Namespace, fault) -> str:
    """One line for a `struct vm_fault`: what happened and where, as exactly as the program's line information allows."""
    what = ffi.string(fault.detail).decode(errors="replace")
    try:
        with Program.open(namespace, fault.prog_id) as program:
            return f"CPU {fault.cpu}: program {program.name} (id {program.id}), {describe_place(program, fault.insn)}: {what}"
    except ShmbpfError:
        return f"CPU {fault.cpu}: program id {fault.prog_id}, instruction {fault.insn}: {what}"


def describe_place(program: Program, insn: int) -> str:
    """`instruction 17 [r0 = *(u32 *)(r1 +4)] at prog.bpf.c:31 "if (x)"`."""
    place = f"instruction {insn}"
    if insn < program.image.insn_cnt:
        code = bytes(ffi.buffer(program.image.insns + insn, min(2, program.image.insn_cnt - insn) * 8))
        place += f" [{disassemble(code)[0]}]"
    line = program.source_line(insn)
    if line:
        place += f" at {line[0]}:{line[1]}" + (f' "{line[2]}"' if line[2] else "")
    return place
