"""A small assembler: the text the disassembler prints, plus labels and comments, becomes instructions.

    start:
        r0 = 0
        r2 = *(u32 *)(r1 +4)         ; or # or // as a comment sign
        if r2 s> 5 goto done
        lock *(u64 *)(r10 -8) += r2
        r3 = 0x1122334455667788 ll   ; two slots; `r3 = map[id:3]`, `r3 = subprog[callback]`
        goto start
    done:
        exit

Jump targets are labels, or distances as printed (`pc+3`, `+3`). A number after `=` takes the 64-bit form only with `ll`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from shmbpf.asm.isa import IsaRow, isa_rows
from shmbpf.errors import LoadError

_ALU = {"+=": "ADD", "-=": "SUB", "*=": "MUL", "/=": "DIV", "|=": "OR", "&=": "AND", "<<=": "LSH", ">>=": "RSH", "%=": "MOD", "^=": "XOR", "=": "MOV",
        "s>>=": "ARSH", "s/=": "SDIV", "s%=": "SMOD"}  # fmt: skip
_JUMP = {"==": "JEQ", ">": "JGT", ">=": "JGE", "&": "JSET", "!=": "JNE", "s>": "JSGT", "s>=": "JSGE", "<": "JLT", "<=": "JLE", "s<": "JSLT", "s<=": "JSLE"}
_SIZE = {"8": "B", "16": "H", "32": "W", "64": "DW"}
_WIDTH = {"r": "64", "w": "32"}
_FETCH = {"add": "FETCH_ADD", "or": "FETCH_OR", "and": "FETCH_AND", "xor": "FETCH_XOR"}

_N = r"([-+]?\s*(?:0x[0-9a-fA-F]+|\d+))"  # a number
_R = r"([rw])(\d+)"
_MEM = r"\*?\(([us])(8|16|32|64) \*\)\(?\s*r(\d+)\s*" + _N + r"\s*\)?"
_TARGET = r"(\S+)"


def encode(row: IsaRow | str, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """The instruction of a row with these operands; the row's own fields win. 16 bytes for ld_imm64, whose `imm` has 64 bits."""
    row = isa_rows()[row] if isinstance(row, str) else row
    src = src if row.src is None else row.src
    off = off if row.off is None else row.off
    imm = imm if row.imm is None else row.imm
    low = struct.pack("<BBhI", row.code, dst | src << 4, off, imm & 0xFFFFFFFF)
    return low if row.slots == 1 else low + struct.pack("<iI", 0, imm >> 32 & 0xFFFFFFFF)


def assemble(source: str) -> bytes:
    """`struct bpf_insn[]` for the text. Raises LoadError naming the line."""
    lines, labels, at = [], {}, 0
    for number, line in _statements(source):
        if line.endswith(":"):
            labels[line[:-1].strip()] = at
            continue
        lines.append((number, line, at))
        at += 2 if _is_wide(line) else 1
    return b"".join(_assemble_line(number, line, position, labels) for number, line, position in lines)


def _statements(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        line = re.split(r";|//|#(?!\d)", line)[0].strip()
        if line:
            yield number, line


def _is_wide(line: str) -> bool:
    return line.endswith(" ll") or bool(re.search(r"= (?:map|subprog)\[", line))


def _assemble_line(number: int, line: str, at: int, labels: dict[str, int]) -> bytes:
    def distance(target: str) -> int:
        if target in labels:
            return labels[target] - at - 1
        return _number(target.removeprefix("pc"))

    for pattern, build in _PATTERNS:
        if found := pattern.fullmatch(line):
            try:
                return build(distance, *found.groups())
            except (KeyError, ValueError, struct.error) as error:
                raise LoadError(f"line {number}: {line!r}: {error}") from None
    raise LoadError(f"line {number}: expected an instruction or a label, got {line!r}")


def _number(text: str) -> int:
    return int(text.replace(" ", ""), 0)


def _alu(bank: str, op: str) -> str:
    return _ALU[op] + _WIDTH[bank]


def _load(_: Callable, dst: str, sign: str, bits: str, src: str, off: str) -> bytes:
    return encode(f"LDX{'SX' if sign == 's' else ''}_{_SIZE[bits]}", int(dst), int(src), _number(off))


def _fetch(_: Callable, reg: str, op: str, __: str, bits: str, base: str, off: str, value: str) -> bytes:
    return encode(f"{_FETCH[op]}_{_SIZE[bits]}", int(base), int(value), _number(off))


_PATTERNS: list[tuple[re.Pattern, Callable[..., bytes]]] = [
    (re.compile(pattern), build)
    for pattern, build in (
        (r"exit", lambda d: encode("EXIT")),
        (r"goto " + _TARGET, lambda d, t: encode("JA", off=d(t))),
        (r"gotol " + _TARGET, lambda d, t: encode("JA32", imm=d(t))),
        (r"may_goto " + _TARGET, lambda d, t: encode("MAY_GOTO", off=d(t))),
        (rf"if {_R} (\S+) {_R} goto {_TARGET}",
         lambda d, b, x, op, _, y, t: encode(_JUMP[op] + ("32" if b == "w" else "") + "_X", int(x), int(y), d(t))),
        (rf"if {_R} (\S+) {_N} goto {_TARGET}",
         lambda d, b, x, op, n, t: encode(_JUMP[op] + ("32" if b == "w" else "") + "_K", int(x), 0, d(t), _number(n))),
        (r"call (?:\w*#)?(\d+)", lambda d, n: encode("CALL", imm=int(n))),
        (r"call (pc[-+]\d+|[A-Za-z_]\w*)", lambda d, t: encode("CALL_LOCAL", imm=d(t))),
        (rf"{_R} = -[rw](\d+)", lambda d, b, x, _: encode("NEG" + _WIDTH[b], int(x))),
        (r"r(\d+) = (be|le|bswap)(16|32|64) r\d+", lambda d, x, op, n: encode(op.upper() + n, int(x))),
        (rf"{_R} = \(s(8|16|32)\)[rw](\d+)", lambda d, b, x, n, y: encode(f"MOVSX{_WIDTH[b]}_{n}", int(x), int(y))),
        (rf"r(\d+) = {_N} ll", lambda d, x, n: encode("LD_IMM64", int(x), imm=_number(n))),
        (r"r(\d+) = map\[id:(\d+)\]", lambda d, x, n: encode("LD_MAP_FD", int(x), imm=int(n))),
        (r"r(\d+) = map\[id:(\d+)\]\[0\]\+(\d+)", lambda d, x, n, o: encode("LD_MAP_VALUE", int(x), imm=int(o) << 32 | int(n))),
        (r"r(\d+) = subprog\[(\S+)\]", lambda d, x, t: encode("LD_FUNC", int(x), imm=d(t) & 0xFFFFFFFF)),
        (rf"r(\d+) = {_MEM}", _load),
        (rf"{_MEM} = r(\d+)", lambda d, s, n, x, o, y: encode("STX_" + _SIZE[n], int(x), int(y), _number(o))),
        (rf"{_MEM} = {_N}", lambda d, s, n, x, o, v: encode("ST_" + _SIZE[n], int(x), 0, _number(o), _number(v))),
        (rf"lock {_MEM} (\S+) r(\d+)", lambda d, s, n, x, o, op, y: encode(f"{_ALU[op]}_{_SIZE[n]}", int(x), int(y), _number(o))),
        (rf"r(\d+) = atomic(?:64)?_fetch_(add|or|and|xor)\({_MEM}, r(\d+)\)", _fetch),
        (rf"r\d+ = atomic(?:64)?_xchg\({_MEM}, r(\d+)\)", lambda d, s, n, x, o, y: encode("XCHG_" + _SIZE[n], int(x), int(y), _number(o))),
        (rf"r0 = atomic(?:64)?_cmpxchg\({_MEM}, r0, r(\d+)\)", lambda d, s, n, x, o, y: encode("CMPXCHG_" + _SIZE[n], int(x), int(y), _number(o))),
        (rf"r(\d+) = load_acquire\({_MEM}\)", lambda d, x, s, n, y, o: encode("LOAD_ACQ_" + _SIZE[n], int(x), int(y), _number(o))),
        (rf"store_release\({_MEM}, r(\d+)\)", lambda d, s, n, x, o, y: encode("STORE_REL_" + _SIZE[n], int(x), int(y), _number(o))),
        (rf"r0 = \*\(u(8|16|32) \*\)skb\[{_N}\]", lambda d, n, v: encode("LD_ABS_" + _SIZE[n], imm=_number(v))),
        (rf"r0 = \*\(u(8|16|32) \*\)skb\[r(\d+) \+ {_N}\]", lambda d, n, y, v: encode("LD_IND_" + _SIZE[n], src=int(y), imm=_number(v))),
        (rf"{_R} (s?[-+*/|&<>%^]*=) {_R}", lambda d, b, x, op, _, y: encode(_alu(b, op) + "_X", int(x), int(y))),
        (rf"{_R} (s?[-+*/|&<>%^]*=) {_N}", lambda d, b, x, op, n: encode(_alu(b, op) + "_K", int(x), imm=_number(n))),
    )
]  # fmt: skip
