"""Every row of isa.def on boundary operands: the interpreter equals the model, and Linux where bpf(2) is permitted."""

from __future__ import annotations

import itertools

import pytest

from shmbpf.asm import assemble, disassemble, encode, isa_rows
from shmbpf.engine.bare import BareProgram
from shmbpf.errors import LoadError, ProgramFault
from tests.conformance import snippets
from tests.conformance.machine import XDP, HookedProgram
from tests.conformance.model import Model

EDGES = (0, 1, 2, 7, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0000, 0x1122_3344_5566_7788,
         0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, 0x8000_0000_8000_0000, 0xFFFF_FFFF_7FFF_FFFF, 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_FFFF_FFFE,
         0xFFFF_FFFF_FFFF_FFFF)  # fmt: skip
IMMEDIATES = (0, 1, 2, 7, 31, 63, 0x7F, 0x80, 0x1234, 0x7FFF_FFFF, -1, -2, -128, -0x8000_0000)
FEW = (0, 1, 31, 0x8000_0000, 0x8000_0000_0000_0000, 0x1122_3344_8566_7788, 0xFFFF_FFFF_FFFF_FFFF)
ATOMIC_FORMS = ("ATOMIC", "ATOMIC_FETCH", "CMPXCHG", "LOAD_ACQ", "STORE_REL")
ROWS = [row for name, row in isa_rows().items() if name not in snippets.ELSEWHERE]


def operands(row) -> list[tuple[int, int, int]]:
    """(a, b, c): c is r0, which only CMPXCHG looks at, and there it should often equal a."""
    if row.form == "CMPXCHG":
        return [(a, b, c) for a, b in itertools.product(FEW, FEW) for c in (a, a & 0xFFFF_FFFF, a ^ 1, b)]
    if snippets.uses_imm(row) or row.form in ("ALU_1", "LDX", "LOAD_ACQ"):
        return [(a, 5, 9) for a in EDGES]
    return [(a, b, 9) for a, b in itertools.product(EDGES, EDGES)]


def immediates(row) -> tuple[int, ...]:
    if row.form == "IMM64":
        return EDGES
    return IMMEDIATES if snippets.uses_imm(row) else (0,)


def middles(row) -> list[bytes]:
    return [snippets.operate(row, imm) for imm in immediates(row)]


def model_results(middle: bytes, data: bytes) -> tuple[int, int, int, int]:
    model = Model(snippets.program(middle, bare=True), bytearray(data))
    model.run()
    return snippets.results(model.memory)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_equals_the_model(row):
    for middle in middles(row):
        with BareProgram(snippets.program(middle, bare=True)) as bare:
            for values in operands(row):
                data = snippets.packet(*values)
                got = snippets.results(bare.run(data).memory)
                assert got == model_results(middle, data), (disassemble(middle)[0], [hex(v) for v in values])


@pytest.mark.kernel
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_equals_linux(row, kernel):
    for middle in middles(row):
        code = snippets.program(middle, bare=False)
        try:
            oracle = kernel.KernelProgram.from_insns(XDP, code)
        except OSError:
            # constants that Linux refuses (division by zero, shifts too wide) must be refused here as well
            with pytest.raises(LoadError):
                HookedProgram(XDP, code)
            continue
        with oracle, HookedProgram(XDP, code) as ours:
            for values in operands(row):
                data = snippets.packet(*values)
                assert snippets.results(ours.run(data).data) == snippets.results(oracle.run(data).data), (disassemble(middle)[0], [hex(v) for v in values])


def test_every_row_is_tested_here_or_named_elsewhere():
    assert {row.name for row in ROWS} | snippets.ELSEWHERE == set(isa_rows())
    assert len(ROWS) > 150


@pytest.mark.parametrize("bits", (8, 16, 32, 64))
@pytest.mark.parametrize("at", range(-16, 0))
def test_unaligned_store_and_load_meet(bits, at):
    if at + bits // 8 > 0:
        at = -bits // 8
    source = f"""
        r1 = 0x8899aabbccddeeff ll
        *(u{bits} *)(r10 {at}) = r1
        r0 = *(u{bits} *)(r10 {at})
        exit"""
    with BareProgram(assemble(source)) as bare:
        assert bare.run().r0 == 0x8899AABBCCDDEEFF & ((1 << bits) - 1)


@pytest.mark.parametrize("name", [name for name, row in isa_rows().items() if row.form in ATOMIC_FORMS and not name.endswith("_B")])
def test_misaligned_atomic_faults(name):
    row = isa_rows()[name]
    base, value = (10, 2) if row.form != "LOAD_ACQ" else (2, 10)
    with BareProgram(encode(row, base, value, -15) + assemble("exit")) as bare, pytest.raises(ProgramFault, match="not a multiple"):
        bare.run()


def test_local_call_saves_r6_to_r9_and_has_its_own_stack():
    source = """
        r6 = 1
        r7 = 2
        r8 = 3
        r9 = 4
        *(u64 *)(r10 -8) = 100
        r1 = 10
        call double
        r0 += r6
        r0 += r7
        r0 += r8
        r0 += r9
        r1 = *(u64 *)(r10 -8)
        r0 += r1
        exit
    double:
        *(u64 *)(r10 -8) = 7
        r6 = 1000
        r9 = r1
        r0 = r1
        r0 += r9
        exit"""
    with BareProgram(assemble(source)) as bare:
        assert bare.run().r0 == 20 + 10 + 100


def test_callee_reaches_its_callers_stack():
    source = """
        *(u64 *)(r10 -8) = 5
        r1 = r10
        r1 += -8
        call add_one
        r0 = *(u64 *)(r10 -8)
        exit
    add_one:
        r2 = *(u64 *)(r1 +0)
        r2 += 1
        *(u64 *)(r1 +0) = r2
        exit"""
    with BareProgram(assemble(source)) as bare:
        assert bare.run().r0 == 6


def test_may_goto_leaves_the_loop_after_eight_million_rounds():
    source = """
        r0 = 0
    loop:
        may_goto out
        r0 += 1
        goto loop
    out:
        exit"""
    with BareProgram(assemble(source)) as bare:
        assert bare.run().r0 == 8388608
