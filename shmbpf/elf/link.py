"""Linking: relocations become references, and a program becomes one instruction stream with everything it can reach.

    analyse   each function once: its calls, callback addresses, map and data references (Reference), from relocations and from the calls that
              the assembler has resolved itself
    link      entry function, then each callee as it is met, depth first (the order of libbpf's bpf_object__reloc_code()), then all
              references patched for where things have landed

A reference to code is (function, instruction within it), so a call into the middle of a function works too: functions are never taken apart.
Relocation arithmetic: LLVM's BPF backend (llvm/docs/BPF, Documentation/bpf/llvm_reloc.rst) and libbpf's bpf_program__record_reloc().
"""

from __future__ import annotations

import enum
import struct
from typing import Callable, NamedTuple

from shmbpf.elf.container import SHN_ABS, SHN_COMMON, STB_WEAK, Container, Relocation, Symbol
from shmbpf.elf.functions import INSN_SIZE, CodeMap, Function
from shmbpf.errors import ObjectError
from shmbpf.spec import MapRef

MAX_INSNS = 1_000_000  # Linux refuses longer programs too (BPF_COMPLEXITY_LIMIT_INSNS)
MAX_TOTAL_INSNS = 4_000_000

R_BPF_NONE, R_BPF_64_64, R_BPF_64_32 = 0, 1, 10
_LD_IMM64, _CALL = 0x18, 0x85
_PSEUDO_CALL, _PSEUDO_KFUNC_CALL = 1, 2  # source register of calls
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE, _PSEUDO_FUNC = 1, 2, 4  # source register of ld_imm64
_IMM = struct.Struct("<i")


class Action(enum.Enum):
    """What a reference does to its instruction."""

    CALL = "call"  # imm = distance to the target
    FUNC = "func"  # ld_imm64 of a function's address
    MAP = "map"  # ld_imm64 of a map, or of an address in its value
    NULL = "null"  # ld_imm64 of a weak symbol that nobody defines: 0
    NO_CALL = "no call"  # call of a weak function that nobody defines: traps if it is ever reached


class Reference(NamedTuple):
    """One instruction (`insn`, counted from the function's first) that depends on where something else is."""

    insn: int
    action: Action
    function: Function | None = None
    offset: int = 0  #: CALL, FUNC: instruction within `function`
    map: str = ""
    value_offset: int | None = None


class LinkedProgram(NamedTuple):
    """A whole program: bytes, map references, and its functions with the instruction each starts at."""

    insns: bytes
    map_refs: tuple[MapRef, ...]
    placed: tuple[tuple[int, Function], ...]


#: (section index, byte offset) -> (map name, value offset or None for the map itself), or None when no map is there
DataLookup = Callable[[int, int], "tuple[str, int | None] | None"]
#: an undefined symbol -> where a virtual variable of that name lives (`.kconfig`), or None
ExternLookup = Callable[[Symbol], "tuple[str, int] | None"]


class Linker:
    """Links programs of one object. Functions are analysed when the first program reaches them."""

    def __init__(self, container: Container, code: CodeMap, data: DataLookup, extern: ExternLookup):
        self._container = container
        self._code = code
        self._data = data
        self._extern = extern
        self._references: dict[Function, list[Reference]] = {}
        self._relocations: dict[int, dict[int, Relocation]] = {}
        self._total = 0

    def called(self) -> set[Function]:
        """Every function that other code calls or takes the address of (recursion does not count)."""
        found: set[Function] = set()
        for section in self._code.sections:
            for function in self._code.functions(section):
                for insn, relocation in self._sites(function):
                    target = self._target_of(function, insn, relocation)
                    if target and target[0] is not function:
                        found.add(target[0])
        return found

    def referenced_sections(self) -> set[int]:
        """Indexes of the sections whose addresses code loads."""
        found: set[int] = set()
        for section in self._code.sections:
            found.update(relocation.symbol.section for relocation in self._relocations_of(section.index).values())
        return found

    def link(self, entry: Function) -> LinkedProgram:
        """The program that starts with `entry`."""
        placed: dict[Function, int] = {}
        code = bytearray()
        pending = [iter((entry,))]
        while pending:
            function = next(pending[-1], None)
            if function is None:
                pending.pop()
            elif function not in placed:
                placed[function] = len(code) // INSN_SIZE
                code += function.code
                self._count(entry, function, len(code) // INSN_SIZE)
                pending.append(iter([ref.function for ref in self._analyse(function) if ref.function is not None]))
        map_refs: list[MapRef] = []
        for function, base in placed.items():
            for ref in self._references[function]:
                _patch(code, base + ref.insn, ref, placed)
                if ref.action is Action.MAP:
                    map_refs.append(MapRef(base + ref.insn, ref.map, ref.value_offset))
        return LinkedProgram(bytes(code), tuple(map_refs), tuple((base, function) for function, base in placed.items()))

    def _count(self, entry: Function, function: Function, length: int) -> None:
        self._total += function.count
        if length > MAX_INSNS or self._total > MAX_TOTAL_INSNS:
            raise self._fail(entry, 0, f"program of more than {MAX_INSNS} instructions (or {MAX_TOTAL_INSNS} in all programs of the object)")

    def _analyse(self, function: Function) -> list[Reference]:
        found = self._references.get(function)
        if found is None:
            found = []
            for insn, relocation in self._sites(function):
                found.append(self._resolve(function, insn, relocation))
            self._references[function] = found
        return found

    def _sites(self, function: Function) -> list[tuple[int, Relocation | None]]:
        """Instructions of a function that refer to something: relocated ones, and local calls without a relocation."""
        relocations = self._relocations_of(function.section.index)
        first, last = function.start, function.start + function.count
        sites: dict[int, Relocation | None] = {}
        code = bytes(function.code)
        opcodes, registers = code[0::INSN_SIZE], code[1::INSN_SIZE]
        at = opcodes.find(_CALL)
        while at >= 0:
            if registers[at] >> 4 == _PSEUDO_CALL:
                sites[at] = None
            at = opcodes.find(_CALL, at + 1)
        if len(relocations) < function.count:
            sites.update((insn - first, entry) for insn, entry in relocations.items() if first <= insn < last)
        else:
            sites.update((insn - first, relocations[insn]) for insn in range(first, last) if insn in relocations)
        return sorted(sites.items())

    def _relocations_of(self, section_index: int) -> dict[int, Relocation]:
        """Relocations of a code section by instruction."""
        found = self._relocations.get(section_index)
        if found is None:
            section = self._container.sections[section_index]
            found = self._relocations[section_index] = {}
            for entry in self._container.relocations(section):
                where = f"section {section.name!r}: relocation at {entry.offset:#x} ({entry.symbol.name!r})"
                if entry.type == R_BPF_NONE:
                    continue
                if entry.type not in (R_BPF_64_64, R_BPF_64_32):
                    raise self._container.fail(f"{where} is of kind {entry.type}, code has kinds {R_BPF_64_64} and {R_BPF_64_32}")
                if entry.offset % INSN_SIZE or entry.offset + INSN_SIZE > section.size:
                    raise self._container.fail(f"{where} is not at an instruction")
                if entry.offset // INSN_SIZE in found:
                    raise self._container.fail(f"{where}: a second relocation of the same instruction")
                found[entry.offset // INSN_SIZE] = entry
        return found

    def _resolve(self, function: Function, insn: int, relocation: Relocation | None) -> Reference:
        opcode = function.code[insn * INSN_SIZE]
        if relocation is not None and relocation.symbol.is_undefined:
            return self._resolve_extern(function, insn, opcode, relocation.symbol)
        target = self._target_of(function, insn, relocation)
        if opcode == _CALL:
            if target is None:
                what = f"call of {relocation.symbol.name!r}" if relocation else "call"
                raise self._fail(function, insn, f"{what} does not lead to code of this object")
            return Reference(insn, Action.CALL, target[0], target[1])
        if opcode != _LD_IMM64 or insn + 1 >= function.count:
            raise self._fail(function, insn, f"relocation against {_name(relocation)} of opcode {opcode:#04x}, which has no 64-bit immediate")
        assert relocation is not None  # without one, only calls are sites
        if target is not None:
            return Reference(insn, Action.FUNC, target[0], target[1])
        return self._resolve_data(function, insn, relocation)

    def _resolve_extern(self, function: Function, insn: int, opcode: int, symbol: Symbol) -> Reference:
        if opcode == _LD_IMM64 and insn + 1 < function.count:
            place = self._extern(symbol)
            if place is not None:
                return Reference(insn, Action.MAP, map=place[0], value_offset=place[1])
            if symbol.bind == STB_WEAK:
                return Reference(insn, Action.NULL)
            raise self._fail(function, insn, f"symbol {symbol.name!r} is not defined in this object, and there is no kernel to take it from")
        if opcode == _CALL:
            if symbol.bind == STB_WEAK:
                return Reference(insn, Action.NO_CALL)
            raise self._fail(function, insn, f"call of {symbol.name!r}, which this object does not define (kernel functions are not available)")
        raise self._fail(function, insn, f"relocation against {symbol.name!r} of opcode {opcode:#04x}, which has no 64-bit immediate")

    def _resolve_data(self, function: Function, insn: int, relocation: Relocation) -> Reference:
        symbol = relocation.symbol
        address = symbol.value + self._addend(function, insn, relocation)
        if symbol.section == SHN_COMMON:
            raise self._fail(function, insn, f"{symbol.name!r} is a common symbol without a section; compile with -fno-common")
        place = self._data(symbol.section, address)
        if place is None:
            known = symbol.section < len(self._container.sections) and symbol.section != SHN_ABS
            where = f"section {self._container.sections[symbol.section].name!r}" if known else f"section number {symbol.section:#x}"
            raise self._fail(function, insn, f"{_name(relocation)} is at {address:#x} of {where}, where no map and no data lies")
        return Reference(insn, Action.MAP, map=place[0], value_offset=place[1])

    def _target_of(self, function: Function, insn: int, relocation: Relocation | None) -> tuple[Function, int] | None:
        """The code a site refers to, or None when it is not code."""
        is_call = function.code[insn * INSN_SIZE] == _CALL
        if relocation is None:
            distance = _IMM.unpack_from(function.code, insn * INSN_SIZE + 4)[0]
            return self._code.find(function.section.index, function.start + insn + 1 + distance)
        addend = self._addend(function, insn, relocation)
        if is_call and relocation.addend is None:
            addend = (addend + 1) * INSN_SIZE  # in place: distance in instructions, seen from the next one
        address = relocation.symbol.value + addend
        return self._code.find(relocation.symbol.section, address // INSN_SIZE) if address % INSN_SIZE == 0 else None

    @staticmethod
    def _addend(function: Function, insn: int, relocation: Relocation) -> int:
        return _IMM.unpack_from(function.code, insn * INSN_SIZE + 4)[0] if relocation.addend is None else relocation.addend

    def _fail(self, function: Function, insn: int, reason: str) -> ObjectError:
        return self._container.fail(f"section {function.section.name!r}: function {function.name!r}: instruction {insn}: {reason}")


def _name(relocation: Relocation | None) -> str:
    return repr(relocation.symbol.name) if relocation else "nothing"


def _patch(code: bytearray, insn: int, ref: Reference, placed: dict[Function, int]) -> None:
    """Write what the kernel expects into the instruction, but for the map's number (imm 0): that is the engine's to fill in."""
    at = insn * INSN_SIZE
    source, imm, high = 0, 0, ref.value_offset or 0
    if ref.function is not None:
        source, imm = (_PSEUDO_CALL if ref.action is Action.CALL else _PSEUDO_FUNC), placed[ref.function] + ref.offset - insn - 1
    elif ref.action is Action.NO_CALL:
        source = _PSEUDO_KFUNC_CALL
    elif ref.action is Action.MAP:
        source = _PSEUDO_MAP_FD if ref.value_offset is None else _PSEUDO_MAP_VALUE
    code[at + 1] = code[at + 1] & 15 | source << 4
    _IMM.pack_into(code, at + 4, imm)
    if ref.action not in (Action.CALL, Action.NO_CALL):
        _IMM.pack_into(code, at + INSN_SIZE + 4, high)
