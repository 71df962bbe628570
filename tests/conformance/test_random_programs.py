"""Random programs: straight code with forward jumps, stack and memory traffic and calls; the interpreter and the model agree on everything."""

from __future__ import annotations

import contextlib
import random

import pytest

from shmbpf.asm import assemble, disassemble, encode, isa_rows
from shmbpf.engine.bare import BareProgram
from shmbpf.errors import LoadError, ProgramFault
from tests.conformance.model import Fault, Model

ROWS = isa_rows()
ALU = [row for row in ROWS.values() if row.form in ("ALU_K", "ALU_X", "ALU_1")]
JUMPS = [row for row in ROWS.values() if row.form in ("JMP_K", "JMP_X", "JA")]
MEMORY = [row for row in ROWS.values() if row.form in ("LDX", "ST", "STX", "ATOMIC", "ATOMIC_FETCH", "CMPXCHG", "LOAD_ACQ", "STORE_REL")]
VALUES = (0, 1, 2, 8, 31, 63, 0xFF, 0x8000, 0x7FFF_FFFF, -1, -2, -0x8000_0000)
MEMORY_BYTES = 64


def random_program(rng: random.Random, length: int) -> bytes:
    """r1 stays the memory, r10 the stack; r0, r2..r9 are numbers that are never used as addresses."""
    numbers = (0, 2, 3, 4, 5, 6, 7, 8, 9)
    code = b"".join(encode("LD_IMM64", reg, imm=rng.getrandbits(64)) for reg in numbers)
    body = []
    for at in range(length):
        dst, src, imm = rng.choice(numbers), rng.choice(numbers), rng.choice((rng.choice(VALUES), rng.getrandbits(31)))
        kind = rng.random()
        if kind < 0.55:
            row = rng.choice(ALU)
            body.append(encode(row, dst, src if row.form == "ALU_X" else 0, imm=imm if row.form == "ALU_K" else 0))
        elif kind < 0.7:
            row, distance = rng.choice(JUMPS), rng.randrange(0, min(6, length - at))
            body.append(encode(row, dst if row.form != "JA" else 0, src if row.form == "JMP_X" else 0, distance, imm if row.form == "JMP_K" else 0))
        else:
            body.append(random_access(rng, numbers, imm))
    return code + b"".join(body) + assemble("exit")


def random_access(rng: random.Random, numbers: tuple[int, ...], imm: int) -> bytes:
    """Mostly in bounds; sometimes just outside, or misaligned."""
    row = rng.choice(MEMORY)
    size = {"B": 1, "H": 2, "W": 4, "DW": 8}[row.name.rsplit("_", 1)[1]]
    base = rng.choice((1, 10))
    room = MEMORY_BYTES if base == 1 else 512
    off = rng.randrange(0, room // size) * size if rng.random() < 0.97 else rng.randrange(-9, room + 9)
    off = off if base == 1 else off - 512
    number = rng.choice(numbers)
    if row.form in ("LDX", "LOAD_ACQ"):
        return encode(row, number, base, off)
    return encode(row, base, number if row.form != "ST" else 0, off, imm if row.form == "ST" else 0)


@pytest.mark.parametrize("seed", range(400))
def test_random_program_equals_the_model(seed):
    rng = random.Random(seed)
    code, memory = random_program(rng, 60), rng.randbytes(MEMORY_BYTES)
    model = Model(code, bytearray(memory))
    model.stack = bytearray(len(model.stack))
    # what a frame holds at first is undefined: make it defined
    head = b"".join(encode("ST_DW", 10, 0, off) for off in range(-512, 0, 8))
    model.code = code = head + code
    with BareProgram(code) as bare:
        try:
            expected = model.run()
        except Fault:
            with pytest.raises(ProgramFault):
                bare.run(memory)
            return
        got = bare.run(memory)
        assert (got.r0, got.memory) == (expected, bytes(model.memory)), "\n".join(disassemble(code))


def test_random_bytes_are_refused_or_run_to_an_end():
    """No input makes the decoder or the interpreter misbehave: whatever is accepted ends by itself, by a fault, or by its budget."""
    rng, accepted, rows = random.Random(7), 0, list(ROWS.values())
    for _ in range(4000):
        insns = b"".join(
            encode(rng.choice(rows), rng.choice((0, 0, 1, 10, 11)), rng.choice((0, 0, 1, 10)), rng.choice((0, 0, 0, 1, -1, -8, rng.randrange(-40, 40))),
                   rng.choice((0, 0, 0, 1, 8, rng.getrandbits(31))))
            for _ in range(rng.randrange(1, 5))
        ) + assemble("exit")  # fmt: skip
        try:
            bare = BareProgram(insns)
        except LoadError:
            continue
        accepted += 1
        with bare, contextlib.suppress(ProgramFault):
            bare.run(bytes(32), budget=10_000)
    assert accepted > 100
