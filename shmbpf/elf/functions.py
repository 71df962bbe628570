"""Code sections cut into functions, and the choice of which functions are programs.

Every byte of a code section belongs to exactly one Function: what symbols cover, and nameless pieces for what they do not. So any address in
code is (function, instruction within it), even in objects whose symbols were stripped.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Iterator, Sequence

from shmbpf.elf.container import STB_LOCAL, STT_FUNC, STT_NOTYPE, Container, Section, Symbol

INSN_SIZE = 8
MAX_FUNCTIONS = 65_536


@dataclass(frozen=True, eq=False)
class Function:
    """`count` instructions from instruction `start` of a code section. `symbol` is None for code that no symbol covers."""

    name: str
    section: Section
    start: int
    count: int
    symbol: Symbol | None = None

    @property
    def is_static(self) -> bool:
        """Its symbol is local to the file."""
        return self.symbol is not None and self.symbol.bind == STB_LOCAL

    @property
    def code(self) -> memoryview:
        """Its bytes, as they are in the file."""
        return self.section.data[self.start * INSN_SIZE : (self.start + self.count) * INSN_SIZE]


class CodeMap:
    """The functions of all code sections, by address."""

    def __init__(self, container: Container):
        self._container = container
        self._functions: dict[int, list[Function]] = {}
        self._starts: dict[int, list[int]] = {}
        symbols: dict[int, list[Symbol]] = {section.index: [] for section in container.sections if section.is_code}
        for symbol in container.symbols:
            if symbol.section in symbols and (symbol.type == STT_FUNC or symbol.type == STT_NOTYPE and symbol.bind != STB_LOCAL):
                symbols[symbol.section].append(symbol)
        if sum(map(len, symbols.values())) > MAX_FUNCTIONS:
            raise container.fail(f"more than {MAX_FUNCTIONS} functions")
        for index, found in symbols.items():
            functions = _cut(container, container.sections[index], found)
            self._functions[index] = functions
            self._starts[index] = [function.start for function in functions]

    @property
    def sections(self) -> list[Section]:
        """All code sections."""
        return [self._container.sections[index] for index in self._functions]

    def functions(self, section: Section) -> list[Function]:
        """The functions of a section, in order; aliases (two symbols, one address) follow each other."""
        return self._functions[section.index]

    def find(self, section_index: int, insn: int) -> tuple[Function, int] | None:
        """The function that covers an instruction, and the position inside it; None when the address is not code."""
        if section_index not in self._functions or insn < 0:
            return None
        found = bisect_right(self._starts[section_index], insn) - 1
        function = self._functions[section_index][found]
        if insn >= function.start + function.count:
            return None
        while found and self._starts[section_index][found - 1] == function.start:
            found -= 1  # of aliases, the first stands for all
        return self._functions[section_index][found], insn - function.start


def _cut(container: Container, section: Section, symbols: list[Symbol]) -> list[Function]:
    if section.size % INSN_SIZE:
        raise container.fail(f"section {section.name!r}: {section.size} bytes of code, not a multiple of {INSN_SIZE}")
    total = section.size // INSN_SIZE
    typed = [symbol for symbol in symbols if symbol.type == STT_FUNC]
    symbols = sorted(typed or symbols, key=lambda symbol: (symbol.value, symbol.bind == STB_LOCAL))
    for symbol in symbols:
        if symbol.value % INSN_SIZE or symbol.size % INSN_SIZE or symbol.value + symbol.size > section.size or symbol.value >= section.size:
            raise container.fail(
                f"section {section.name!r}: function {symbol.name!r} at {symbol.value:#x} ({symbol.size} bytes) does not lie on "
                f"instructions of the section ({section.size} bytes)"
            )
    if not symbols:
        return [Function(section.name, section, 0, total)]
    return list(_cover(section, symbols, total))


def _cover(section: Section, symbols: Sequence[Symbol], total: int) -> Iterator[Function]:
    """One function per symbol and one per gap between them. A function ends where the next begins, whatever its size says."""
    groups: dict[int, list[Symbol]] = {}
    for symbol in symbols:
        groups.setdefault(symbol.value // INSN_SIZE, []).append(symbol)
    starts = [*groups, total]
    if starts[0]:
        yield _gap(section, 0, starts[0])
    for (start, aliases), following in zip(groups.items(), starts[1:]):
        sizes = [symbol.size // INSN_SIZE for symbol in aliases]
        end = min(following, start + max(sizes)) if all(sizes) else following
        for symbol in aliases:
            yield Function(symbol.name or f"{section.name}+{symbol.value:#x}", section, start, end - start, symbol)
        if end < following:
            yield _gap(section, end, following)


def _gap(section: Section, start: int, end: int) -> Function:
    return Function(f"{section.name}+{start * INSN_SIZE:#x}", section, start, end - start)


def choose_programs(code: CodeMap, called: set[Function]) -> list[Function]:
    """The functions that are programs. `called` are those that some code calls or takes the address of.

    As in libbpf, `.text` holds subprograms and every other code section programs. Beyond libbpf: static functions count as programs where a
    section has nothing else, code without symbols is one program per section, and an object with nothing but `.text` offers the functions in it
    that nobody calls.
    """
    found: list[Function] = []
    for section in code.sections:
        if not is_text(section.name):
            found += _programs_of(code.functions(section), called)
    if not found:
        for section in code.sections:
            found += _entries_of(code.functions(section), called)
    return found


def is_text(name: str) -> bool:
    """True for the compiler's own code sections, which hold subprograms."""
    return name == ".text" or name.startswith(".text.")


def _programs_of(functions: list[Function], called: set[Function]) -> list[Function]:
    public = [function for function in functions if function.symbol and not function.is_static]
    return public or _entries_of(functions, called)


def _entries_of(functions: list[Function], called: set[Function]) -> list[Function]:
    """Where execution can start: what nobody calls (or, if everything is called, what comes first)."""
    named = [function for function in functions if function.symbol] or functions[:1]
    free = [function for function in named if function not in called]
    return free or named[:1]
