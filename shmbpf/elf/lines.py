"""Source lines of a linked program, without a Python object per line.

A program with thousands of instructions has thousands of line records, and a fault report wants one of them. So a LineTable keeps the section's
shared records and, per function of the program, which of them apply and where the function was put:

    pieces:  | entry: insn 0.. | callee: insn 40.. | ...        each: (first instruction, first byte in its section, records lo..hi)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Iterator, NamedTuple, Sequence, overload

from shmbpf.elf.btf import Btf
from shmbpf.elf.btf_ext import LineRecord
from shmbpf.errors import BtfError
from shmbpf.spec import LineInfo

INSN_SIZE = 8


class _Piece(NamedTuple):
    insn: int
    start: int
    records: Sequence[LineRecord]
    low: int
    high: int


class LineTable(Sequence[LineInfo]):
    """An immutable sequence of LineInfo, ordered by instruction."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._pieces: list[_Piece] = []
        self._ends: list[int] = []  # number of lines up to and including each piece

    def add_function(self, insn: int, records: Sequence[LineRecord], start: int, end: int) -> None:
        """Append the lines of a function that occupies bytes [start, end) of its section and was put at `insn`."""
        low, high = bisect_left(records, (start,)), bisect_left(records, (end,))
        if low < high:
            self._pieces.append(_Piece(insn, start, records, low, high))
            self._ends.append(len(self) + high - low)

    def at(self, insn: int) -> LineInfo | None:
        """The line that instruction `insn` comes from, or None."""
        index = bisect_right(self._pieces, insn, key=lambda piece: piece.insn) - 1
        if index < 0:
            return None
        piece = self._pieces[index]
        record = bisect_right(piece.records, ((insn - piece.insn) * INSN_SIZE + piece.start + 1,), piece.low, piece.high) - 1
        return self._decode(piece, record) if record >= piece.low else None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> LineInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LineInfo]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[position] for position in range(*index.indices(len(self))))
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(index)
        piece = self._pieces[bisect_right(self._ends, index)]
        return self._decode(piece, piece.high - (self._ends[bisect_right(self._ends, index)] - index))

    def __iter__(self) -> Iterator[LineInfo]:
        for piece in self._pieces:
            for index in range(piece.low, piece.high):
                yield self._decode(piece, index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __hash__(self) -> int:
        return hash(len(self))

    def _decode(self, piece: _Piece, index: int) -> LineInfo:
        record = piece.records[index]
        insn = piece.insn + (record.offset - piece.start) // INSN_SIZE
        return LineInfo(insn, self._text(record.file), record.line_column >> 10, record.line_column & 1023, self._text(record.text).strip())

    def _text(self, offset: int) -> str:
        try:
            return self._btf.string(offset)
        except BtfError:  # a broken string must not turn a fault report into another fault
            return ""
