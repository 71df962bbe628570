"""bpftool's grammar: words in free order, every keyword usable by any prefix (Linux v6.1 tools/bpf/bpftool/main.h, is_prefix(); map.c, parse_elem()).

A `Words` is consumed from the front. A word that does not fit is a UsageError (exit 2); a word that fits and asks for the impossible is a ShmbpfError.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from shmbpf.errors import ShmbpfError


class Words:
    """What is left of a command's arguments."""

    def __init__(self, words: Sequence[str]):
        self._left = list(words)

    def __bool__(self) -> bool:
        return bool(self._left)

    def __len__(self) -> int:
        return len(self._left)

    def peek(self) -> str:
        """The next word, which stays; '' at the end."""
        return self._left[0] if self._left else ""

    def take(self, what: str) -> str:
        """The next word. `what` names it when there is none."""
        if not self._left:
            raise click.UsageError(f"{what} is missing")
        return self._left.pop(0)

    def take_text(self, what: str) -> str:
        """The next word; of a `{...}` or `[...]` that the shell took apart, all its words."""
        text = self.take(what)
        while self._left and _open_brackets(text) > 0:
            text += " " + self._left.pop(0)
        return text

    def take_number(self, what: str) -> int:
        """The next word as a number (decimal, 0x, leading 0 octal as in C)."""
        word = self.take(what)
        try:
            return int(word, 8) if re.fullmatch(r"0[0-7]+", word) else int(word, 0)
        except ValueError:
            raise click.UsageError(f"{what}: expected a number, got {word!r}") from None

    def insert(self, word: str) -> None:
        """Puts a word before the next one."""
        self._left.insert(0, word)

    def is_next(self, keyword: str) -> bool:
        """True when the next word is `keyword` or a prefix of it."""
        return bool(self._left) and self._left[0] != "" and keyword.startswith(self._left[0])

    def accept(self, keyword: str) -> bool:
        """Takes the next word if it is `keyword` or a prefix of it."""
        if self.is_next(keyword):
            self._left.pop(0)
            return True
        return False

    def choose(self, keywords: Sequence[str], what: str) -> str:
        """Takes the next word, which must be (a prefix of) one of these; the first that matches wins."""
        word = self.take(what)
        for keyword in keywords:
            if keyword.startswith(word):
                return keyword
        raise click.UsageError(f"expected {' or '.join(keywords)}, got: {word}")

    def rest(self) -> list[str]:
        """Takes all words that are left."""
        rest, self._left = self._left, []
        return rest

    def finish(self) -> None:
        """Refuses words that nobody took."""
        if self._left:
            raise click.UsageError(f"unexpected: {' '.join(self._left[:4])}")

    def take_bytes(self, size: int, what: str) -> bytes:
        """`[hex] B...`: exactly `size` bytes, each decimal, 0x or octal, or hexadecimal throughout after `hex`."""
        base = 16 if self.accept("hex") else 0
        found = bytearray()
        while self._left and len(found) < size and _is_byte(self._left[0], base):
            found.append(_byte(self._left.pop(0), base))
        if len(found) == size:
            return bytes(found)
        if self._left and not found:
            raise ShmbpfError(f"error parsing byte: {self._left[0]}")
        raise ShmbpfError(f"{what} expected {size} bytes got {len(found)}" + (f", then: {self._left[0]}" if self._left else ""))


def _open_brackets(text: str) -> int:
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    return sum(bare.count(mark) for mark in "{[") - sum(bare.count(mark) for mark in "}]")


def _is_byte(word: str, base: int) -> bool:
    return bool(re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", word) if base else re.fullmatch(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", word))


def _byte(word: str, base: int) -> int:
    value = int(word, 16) if base else int(word, 8) if re.fullmatch(r"0[0-7]+", word) else int(word, 0)
    if value > 255:
        raise ShmbpfError(f"byte {word}: expected 0 to 255 (numbers of several bytes are written byte by byte, or typed: shmbpf map set)")
    return value
