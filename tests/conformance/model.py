"""What every instruction means, said again in Python and as plainly as possible: the independent half of the ISA tests.

Written from RFC 9669 and Linux's documentation, not from the C code; slow and obvious. Memory is a dict of named byte arrays at made-up addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

MASK64, MASK32 = (1 << 64) - 1, (1 << 32) - 1
STACK_TOP, STACK_BYTES, MEMORY_AT = 0x7000_0000_1000, 512, 0x7100_0000_0000


class Fault(Exception):
    """The program did what it may not do."""


def signed(value: int, bits: int) -> int:
    """The low `bits` of `value` as a two's complement number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _truncated_quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _divide(a: int, b: int, bits: int) -> int:
    return a // b if b else 0


def _modulo(a: int, b: int, bits: int) -> int:
    return a % b if b else a


def _signed_divide(a: int, b: int, bits: int) -> int:
    return _truncated_quotient(signed(a, bits), signed(b, bits)) if b else 0


def _signed_modulo(a: int, b: int, bits: int) -> int:
    x, y = signed(a, bits), signed(b, bits)
    return x - _truncated_quotient(x, y) * y if b else a


#: operation by the high four bits of the opcode; operands are already cut to `bits`
ALU: dict[int, Callable[[int, int, int], int]] = {
    0x0: lambda a, b, n: a + b,
    0x1: lambda a, b, n: a - b,
    0x2: lambda a, b, n: a * b,
    0x3: _divide,
    0x4: lambda a, b, n: a | b,
    0x5: lambda a, b, n: a & b,
    0x6: lambda a, b, n: a << b % n,
    0x7: lambda a, b, n: a >> b % n,
    0x9: _modulo,
    0xA: lambda a, b, n: a ^ b,
    0xB: lambda a, b, n: b,
    0xC: lambda a, b, n: signed(a, n) >> b % n,
}
SIGNED_DIVISION = {0x3: _signed_divide, 0x9: _signed_modulo}

JUMP: dict[int, Callable[[int, int, int], bool]] = {
    0x0: lambda a, b, n: True,
    0x1: lambda a, b, n: a == b,
    0x2: lambda a, b, n: a > b,
    0x3: lambda a, b, n: a >= b,
    0x4: lambda a, b, n: bool(a & b),
    0x5: lambda a, b, n: a != b,
    0x6: lambda a, b, n: signed(a, n) > signed(b, n),
    0x7: lambda a, b, n: signed(a, n) >= signed(b, n),
    0xA: lambda a, b, n: a < b,
    0xB: lambda a, b, n: a <= b,
    0xC: lambda a, b, n: signed(a, n) < signed(b, n),
    0xD: lambda a, b, n: signed(a, n) <= signed(b, n),
    0xE: lambda a, b, n: False,  # may_goto, before its eight million rounds
}

ATOMIC = {0x00: lambda a, b: a + b, 0x40: lambda a, b: a | b, 0x50: lambda a, b: a & b, 0xA0: lambda a, b: a ^ b}
SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}


@dataclass
class Model:
    """A machine: registers, one stack frame per call, one memory block in r1."""

    code: bytes
    memory: bytearray
    reg: list[int] = field(default_factory=lambda: [0] * 11)
    stack: bytearray = field(default_factory=lambda: bytearray(STACK_BYTES * 8))
    steps: int = 0
    pc: int = 0
    calls: list[tuple[int, list[int]]] = field(default_factory=list)

    def run(self, limit: int = 1_000_000) -> int:
        """r0 at the exit. Raises Fault, also when `limit` steps were not enough."""
        self.reg[1], self.reg[2], self.reg[10] = MEMORY_AT, len(self.memory), STACK_TOP
        while self.steps < limit:
            self.steps += 1
            if self.step():
                return self.reg[0]
        raise Fault("limit")

    def fetch(self, slot: int) -> tuple[int, int, int, int, int]:
        insn = self.code[slot * 8 : slot * 8 + 8]
        return (insn[0], insn[1] & 15, insn[1] >> 4, signed(int.from_bytes(insn[2:4], "little"), 16), signed(int.from_bytes(insn[4:], "little"), 32))

    def step(self) -> bool:
        """One instruction; True at the exit of the outermost frame."""
        code, dst, src, off, imm = self.fetch(self.pc)
        self.pc += 1
        if code == 0x95:
            return self.leave()
        if code == 0x85:
            self.enter(imm)
        elif code & 7 in (4, 7):
            self.reg[dst] = self.alu(code, dst, src, off, imm)
        elif code & 7 in (5, 6):
            self.jump(code, dst, src, off, imm)
        elif code == 0x18:
            self.reg[dst] = (imm & MASK32) | (self.fetch(self.pc)[4] & MASK32) << 32
            self.pc += 1
        else:
            self.access(code, dst, src, off, imm)
        return False

    def enter(self, distance: int) -> None:
        if len(self.calls) == 7:
            raise Fault("frames")
        self.calls.append((self.pc, self.reg[6:10]))
        self.reg[10] -= STACK_BYTES
        self.pc += distance

    def leave(self) -> bool:
        if not self.calls:
            return True
        self.pc, self.reg[6:10] = self.calls.pop()
        self.reg[10] += STACK_BYTES
        return False

    def alu(self, code: int, dst: int, src: int, off: int, imm: int) -> int:
        bits = 64 if code & 7 == 7 else 32
        mask = (1 << bits) - 1
        op, b = code >> 4, (self.reg[src] if code & 8 else imm)
        if op == 0xD:
            return self.swap(code, dst, imm)
        if op == 0x8:
            return -self.reg[dst] & mask
        if op == 0xB and off:
            return signed(self.reg[src], off) & mask
        function = SIGNED_DIVISION[op] if off == 1 else ALU[op]
        return function(self.reg[dst] & mask, b & mask, bits) & mask

    def swap(self, code: int, dst: int, bits: int) -> int:
        low = (self.reg[dst] & ((1 << bits) - 1)).to_bytes(bits // 8, "little")
        swapped = code & 7 == 7 or code & 8
        return int.from_bytes(low, "big" if swapped else "little")

    def jump(self, code: int, dst: int, src: int, off: int, imm: int) -> None:
        bits = 64 if code & 7 == 5 else 32
        mask = (1 << bits) - 1
        b = self.reg[src] if code & 8 else imm
        if JUMP[code >> 4](self.reg[dst] & mask, b & mask, bits):
            self.pc += imm if code == 0x06 else off

    def place(self, address: int, size: int) -> tuple[bytearray, int]:
        """The block and offset of `size` bytes at an address."""
        bottom = STACK_TOP - STACK_BYTES * (len(self.calls) + 1)
        if bottom <= address and address + size <= STACK_TOP:
            return self.stack, address - STACK_TOP + len(self.stack)
        if MEMORY_AT <= address and address + size <= MEMORY_AT + len(self.memory):
            return self.memory, address - MEMORY_AT
        raise Fault(f"{size} bytes at {address:#x}")

    def load(self, address: int, size: int) -> int:
        block, at = self.place(address & MASK64, size)
        return int.from_bytes(block[at : at + size], "little")

    def store(self, address: int, size: int, value: int) -> None:
        block, at = self.place(address & MASK64, size)
        block[at : at + size] = (value & ((1 << size * 8) - 1)).to_bytes(size, "little")

    def access(self, code: int, dst: int, src: int, off: int, imm: int) -> None:
        size, mode, kind = SIZES[code & 0x18], code & 0xE0, code & 7
        if kind == 1:
            value = self.load(self.reg[src] + off, size)
            self.reg[dst] = signed(value, size * 8) & MASK64 if mode == 0x80 else value
        elif mode == 0xC0:
            self.atomic(size, dst, src, off, imm)
        else:
            self.store(self.reg[dst] + off, size, self.reg[src] if kind == 3 else imm)

    def atomic(self, size: int, dst: int, src: int, off: int, imm: int) -> None:
        address = (self.reg[src if imm == 0x100 else dst] + off) & MASK64
        self.place(address, size)
        if address % size:
            raise Fault("misaligned atomic")
        mask, old, value = (1 << size * 8) - 1, self.load(address, size), self.reg[src]
        if imm == 0x100:
            self.reg[dst] = old
        elif imm == 0x110:
            self.store(address, size, value)
        elif imm == 0xF1:
            if old == self.reg[0] & mask:
                self.store(address, size, value)
            self.reg[0] = old
        else:
            self.store(address, size, value if imm == 0xE1 else ATOMIC[imm & 0xF0](old, value & mask))
            if imm & 1:
                self.reg[src] = old


def count_instructions(code: bytes, memory: bytes) -> int:
    """How many instructions a program executes."""
    model = Model(code, bytearray(memory))
    model.run(limit=10_000_000)
    return model.steps
