"""The disassembler's text: equal to bpftool's, and understood by the assembler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from shmbpf.asm import assemble, disassemble, encode, isa_rows
from tests.conformance import snippets
from tests.conformance.machine import SCHED_CLS, XDP

SHOWN = [row for name, row in isa_rows().items() if name not in snippets.ELSEWHERE]
NO_TEXT = ("CALL_KFUNC", "LD_BTF_ID", "LD_MAP_IDX", "LD_MAP_IDX_VALUE")

KNOWN_TEXT = {
    "r0 = *(u32 *)(r1 +4)": encode("LDX_W", 0, 1, 4),
    "r0 = *(s8 *)(r1 -4)": encode("LDXSX_B", 0, 1, -4),
    "if r1 s> 0x5 goto pc+3": encode("JSGT_K", 1, 0, 3, 5),
    "if w1 != w2 goto pc-3": encode("JNE32_X", 1, 2, -3),
    "call bpf_map_lookup_elem#1": encode("CALL", imm=1),
    "call pc+7": encode("CALL_LOCAL", imm=7),
    "r1 = map[id:3]": encode("LD_MAP_FD", 1, imm=3),
    "r1 = map[id:3][0]+8": encode("LD_MAP_VALUE", 1, imm=8 << 32 | 3),
    "r1 = subprog[+5]": encode("LD_FUNC", 1, imm=5),
    "lock *(u64 *)(r1 +0) += r2": encode("ADD_DW", 1, 2),
    "r2 = atomic64_fetch_or((u64 *)(r1 +0), r2)": encode("FETCH_OR_DW", 1, 2),
    "r0 = atomic_cmpxchg((u32 *)(r1 +0), r0, r2)": encode("CMPXCHG_W", 1, 2),
    "r0 = *(u16 *)skb[12]": encode("LD_ABS_H", imm=12),
    "r1 = 0x1122334455667788": encode("LD_IMM64", 1, imm=0x1122334455667788),
    "w1 s/= -3": encode("SDIV32_K", 1, imm=-3),
    "exit": encode("EXIT"),
}


@pytest.mark.parametrize("text", KNOWN_TEXT)
def test_instruction_reads_as_in_the_kernel(text):
    assert disassemble(KNOWN_TEXT[text]) == [text]


@pytest.mark.parametrize("row", [row for name, row in isa_rows().items() if name not in NO_TEXT], ids=lambda row: row.name)
def test_disassembly_assembles_to_the_same_bytes(row):
    operands = {"dst": 3, "src": 4, "off": 5, "imm": 6}
    unused = {"ALU_K": ("src", "off"), "ALU_X": ("off", "imm"), "ALU_1": ("src", "off"), "JA": ("dst", "src", "imm"), "JA32": ("dst", "src", "off"),
              "JMP_X": ("imm",), "JMP_K": ("src",), "MAY_GOTO": ("dst", "imm"), "CALL": ("dst", "off"), "CALL_LOCAL": ("dst", "off"), "EXIT": tuple(operands),
              "LDX": ("imm",), "STX": ("imm",), "ST": ("src",), "IMM64": ("off",), "LD_ABS": ("dst", "src", "off"), "LD_IND": ("dst", "off")}  # fmt: skip
    unused["ALU_1"] += () if row.imm is not None else ("imm",)
    code = encode(row, **{name: 0 if name in unused.get(row.form, ()) else value for name, value in operands.items()})
    (text,) = disassemble(code)
    assert assemble(text + (" ll" if row.name == "LD_IMM64" else "")) == code, text


def xlated(code: bytes, type: int, kernel) -> list[str]:
    """What bpftool shows of the program once the kernel has it."""
    with kernel.KernelProgram.from_insns(type, code) as program:
        dump = subprocess.run([shutil.which("bpftool"), "prog", "dump", "xlated", "id", str(program.id)], capture_output=True, text=True, check=True)
    return [re.sub(r"^\s*\d+: \([0-9a-f]{2}\) ", "", line) for line in dump.stdout.splitlines() if re.match(r"^\s*\d+: \(", line)]


def rewritten(row) -> bool:
    """Rows the verifier replaces by other instructions, so that xlated does not show them."""
    return row.name.startswith(("DIV", "MOD", "LE")) or row.form == "JA"


@pytest.mark.kernel
@pytest.mark.skipif(not shutil.which("bpftool"), reason="bpftool is not installed")
@pytest.mark.skipif(sys.byteorder != "little", reason="the kernel shows le16 and be16 as it runs them")
@pytest.mark.parametrize("row", [row for row in SHOWN if not rewritten(row) and row.version < 4], ids=lambda row: row.name)
def test_text_equals_bpftool(row, kernel):
    """Not for v4 instructions, which a bpftool older than the kernel misreads."""
    middle = snippets.operate(row, 5 if snippets.uses_imm(row) else 0)
    # the middle of an XDP program is where the verifier changes nothing but context accesses
    dump = xlated(snippets.program(middle, bare=False), XDP, kernel)
    assert [line for line in disassemble(middle) if line not in dump] == [], dump


@pytest.mark.kernel
@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row.name)
def test_text_equals_the_verifiers_log(row, kernel):
    """The log of a refused program quotes its instructions in the kernel's own words."""
    middle = snippets.operate(row, 5 if snippets.uses_imm(row) else 0)
    refused = snippets.program(middle, bare=False)[: -len(assemble("exit"))] + assemble("r0 = *(u64 *)(r9 +0)\nexit")
    with pytest.raises(OSError) as error:
        kernel.KernelProgram.from_insns(XDP, refused)
    log = [re.sub(r"\s*;.*", "", line) for line in re.findall(r"^\d+: \([0-9a-f]{2}\) (.*)$", str(error.value), re.MULTILINE)]
    assert disassemble(middle)[0] in log, log


@pytest.mark.kernel
@pytest.mark.skipif(not shutil.which("bpftool"), reason="bpftool is not installed")
def test_calls_and_subprograms_equal_bpftool(kernel):
    code = assemble("r6 = r1\ncall f\nr0 += r6\nr0 = 0\nexit\nf:\nr0 = 7\nexit")
    dump = xlated(code.replace(assemble("r0 += r6"), assemble("r0 += 1")), SCHED_CLS, kernel)
    ours = disassemble(code.replace(assemble("r0 += r6"), assemble("r0 += 1")))
    # bpftool adds the callee's name behind '#'
    assert [line.split("#")[0] for line in dump] == [line.split("#")[0] for line in ours]


def test_unknown_opcodes_are_named():
    assert disassemble(bytes.fromhex("ff00000000000000")) == ["unknown opcode ff"]
    assert disassemble(bytes.fromhex("1800000000000000")) == ["ld_imm64 without its second slot"]


def test_any_bytes_have_a_text():
    lines = disassemble(os.urandom(8 * 4096))
    assert lines and all(lines)
