"""Instructions as text and back: the disassembler's and the assembler's face, both made from the rows of isa.def."""

from shmbpf.asm.assembler import assemble, encode
from shmbpf.asm.disasm import disassemble
from shmbpf.asm.isa import IsaRow, isa_rows

__all__ = ["IsaRow", "assemble", "disassemble", "encode", "isa_rows"]
