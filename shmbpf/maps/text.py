"""Values as one plain line, for shell scripts: numbers, addresses, `{field: value}`, and back.

    write    42  -1  0x2a  10.0.0.1  fe80::1  02:00:00:00:00:01  GREEN  hello  {port: 80, addr: 10.0.0.1}  [1, 2]
    read     the same, in one spelling: decimal numbers, names of enums, `{a: 1, b: [2, 3]}`

An address is its bytes in network order, in any type of that size (4: IPv4, 16: IPv6, 6: MAC), whatever the type calls itself.
"""

from __future__ import annotations

import ipaddress
import json
import re

from shmbpf.maps.layout import Array, Bool, Choice, Node, Number, Real, Record, Text, ValueRefused, refuse

MAX_NESTING = 64
_NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[bB][01]+|[1-9][0-9_]*|0+)")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){5}")
_BARE = re.compile(r"[^\s,:{}\[\]\"'][^,{}\[\]\"\n]*")
_NAME = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([A-Za-z_]\w*))\s*[:=]')


class Word(str):
    """Text without quotes: what it means depends on the type."""


# -- reading --


def parse_text(node: Node, text: str, path: str = "value") -> object:
    """The value that `text` means for a type; what the node's `encode` takes."""
    text = text.strip()
    if text[:1] in ("{", "["):
        return interpret(node, parse_tree(text, path), path)
    if isinstance(node, Text) and text[:1] == '"':
        return interpret(node, parse_tree(text, path), path)
    return interpret(node, Word(text), path)


def interpret(node: Node, tree: object, path: str) -> object:
    """A tree of dicts, lists, Words and strings, as a value of the node's type."""
    if isinstance(tree, dict):
        if not isinstance(node, Record):
            raise refuse(path, node.word, tree)
        return {name: interpret(_field(node, name, path), item, f"{path}.{name}") for name, item in tree.items()}
    if isinstance(tree, list):
        if not isinstance(node, Array):
            raise refuse(path, node.word, tree)
        return [interpret(node.element, item, f"{path}[{index}]") for index, item in enumerate(tree)]
    if isinstance(tree, Word):
        return _interpret_word(node, tree, path)
    return tree


def _field(node: Record, name: str, path: str) -> Node:
    if name not in node.by_name:
        raise refuse(path, f"a field of {node.word} ({', '.join(node.by_name)})", name)
    return node.by_name[name].node


def _interpret_word(node: Node, word: Word, path: str) -> object:
    base = getattr(node, "base", node)
    if isinstance(base, Text):
        return str(word)
    if isinstance(base, Bool) and word in ("true", "false"):
        return word == "true"
    if isinstance(base, Choice) and word in base.names:
        return str(word)
    if isinstance(base, Real):
        return _real(word, path)
    if isinstance(base, Number) and _NUMBER.fullmatch(word):
        return parse_number(word, path)
    address = parse_address(word, node.size)
    if address is not None and base is node:
        return address
    if isinstance(base, Number) and base.is_char and len(word) == 1:
        return str(word)
    raise refuse(path, _wanted(base), str(word))


def parse_number(text: str, path: str = "value") -> int:
    """Decimal, 0x, 0b, negative. Raises ValueRefused."""
    if not _NUMBER.fullmatch(text):
        raise refuse(path, "a number", text)
    return int(text, 0)


def parse_address(text: str, size: int) -> bytes | None:
    """The bytes of an IPv4, IPv6 or MAC address if `text` is one of that size, else None."""
    if size == 6 and _MAC.fullmatch(text):
        return bytes(int(part, 16) for part in re.split("[:-]", text))
    if size in (4, 16):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
        return address.packed if len(address.packed) == size else None
    return None


def _real(word: str, path: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise refuse(path, "a number", str(word)) from None


def _wanted(node: Node) -> str:
    address = {4: " or an IPv4 address", 6: "a MAC address, ", 16: " or an IPv6 address"}.get(node.size, "")
    if isinstance(node, Record):
        return f"{address if node.size == 6 else ''}{{field: value}} of {node.word} ({', '.join(node.by_name)}){address if node.size != 6 else ''}"
    if isinstance(node, Array):
        return f"{address if node.size == 6 else ''}a list of {node.count}{address if node.size != 6 else ''}"
    if isinstance(node, Choice):
        return f"a number or one of {', '.join(list(node.names)[:12])} ({node.word})"
    if isinstance(node, Number):
        return f"a number{address if node.size == 4 else ''} ({node.word})"
    return node.word


def parse_tree(text: str, path: str = "value") -> object:
    """`{a: 1, b: [x, "y z"]}` as dicts, lists, strings and Words. Names and words need no quotes."""
    tree, end = _Reader(text, path).value(0, 0)
    if text[end:].strip():
        raise ValueRefused(f"{path}: {text[end:].strip()[:40]!r} is left over after {text[:end].strip()[:60]!r}")
    return tree


class _Reader:
    """One pass over the text; each method takes a position and returns what it read and the position behind it."""

    def __init__(self, text: str, path: str):
        self.text, self.path = text, path

    def value(self, at: int, depth: int) -> tuple[object, int]:
        at = self._skip(at)
        if depth > MAX_NESTING:
            raise ValueRefused(f"{self.path}: nested deeper than {MAX_NESTING}")
        first = self.text[at : at + 1]
        if first == "{":
            return self._record(at + 1, depth)
        if first == "[":
            return self._list(at + 1, depth)
        if first == '"':
            return self._quoted(at)
        match = re.compile(r"[^,{}\[\]\"\n]+").match(self.text, at)
        if not match:
            raise self._expected("a value", at)
        return Word(match.group().strip()), match.end()

    def _record(self, at: int, depth: int) -> tuple[dict, int]:
        found: dict[str, object] = {}
        while not self._at(at, "}"):
            match = _NAME.match(self.text, at)
            if not match:
                raise self._expected("`field: value` or `}`", at)
            name = match.group(2) or json.loads(f'"{match.group(1)}"')
            if name in found:
                raise ValueRefused(f"{self.path}: field {name!r} is given twice")
            found[name], at = self.value(match.end(), depth + 1)
            at = self._separator(at, "}")
        return found, self._skip(at) + 1

    def _list(self, at: int, depth: int) -> tuple[list, int]:
        found = []
        while not self._at(at, "]"):
            item, at = self.value(at, depth + 1)
            found.append(item)
            at = self._separator(at, "]")
        return found, self._skip(at) + 1

    def _quoted(self, at: int) -> tuple[str, int]:
        match = re.compile(r'"(?:[^"\\]|\\.)*"').match(self.text, at)
        try:
            return json.loads(match.group() if match else ""), match.end() if match else at
        except ValueError:
            raise self._expected("a string in double quotes", at) from None

    def _separator(self, at: int, end: str) -> int:
        at = self._skip(at)
        if self._at(at, ","):
            return at + 1
        if not self._at(at, end):
            raise self._expected(f"`,` or `{end}`", at)
        return at

    def _at(self, at: int, mark: str) -> bool:
        return self.text[self._skip(at) :][:1] == mark

    def _skip(self, at: int) -> int:
        while self.text[at : at + 1].isspace():
            at += 1
        return at

    def _expected(self, what: str, at: int) -> ValueRefused:
        rest = self.text[self._skip(at) :]
        return ValueRefused(f"{self.path}: expected {what}, got {rest[:40]!r}" if rest else f"{self.path}: expected {what}, got the end of the text")


# -- writing --


def format_text(value: object, nested: bool = False) -> str:
    """A decoded value as one plain line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {format_text(item, True)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(format_text(item, True) for item in value) + "]"
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, str):
        return _format_string(value, nested)
    return repr(value) if isinstance(value, float) else str(value)


def _format_string(value: str, nested: bool) -> str:
    plain = value.isprintable() and not value[:1] == '"' and value == value.strip()
    if plain and (not nested or _BARE.fullmatch(value)):
        return value
    return json.dumps(value)
