"""What turns a map's keys and values into Python values and text: by BTF, by a type word, or not at all.

    BytesCodec    no type known: bytes stay bytes
    NodeCodec     BTF (maps/layout.py), or a number word (`u32`, `s64`)
    AddressCodec  `ipv4`, `ipv6`, `mac`: text in Python too
    SwappedCodec  `be16` .. `be64`: numbers in network order

Every codec takes `bytes` of the right length where it takes a value.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from typing import Callable

from shmbpf.elf.btf import Btf
from shmbpf.errors import BtfError, ShmbpfError
from shmbpf.maps.layout import Node, Number, Text, ValueRefused, compile_type, exact_bytes, refuse
from shmbpf.maps.text import format_text, parse_address, parse_number
from shmbpf.maps.text import parse_text as parse_node_text


class Codec(ABC):
    """Keys or values of `size` bytes."""

    size: int
    node: Node | None = None  #: the type tree, when there is one

    @abstractmethod
    def decode(self, data: bytes) -> object:
        """Bytes to a Python value."""

    @abstractmethod
    def encode(self, value: object, path: str = "value") -> bytes:
        """A Python value to bytes. Raises ValueRefused naming the field, what was expected and what came."""

    @abstractmethod
    def parse(self, text: str, path: str = "value") -> bytes:
        """One line of text to bytes."""

    def format(self, data: bytes) -> str:
        """Bytes to one line of text."""
        return format_text(self.decode(data))


class BytesCodec(Codec):
    """Bytes as they are; text is hex."""

    def __init__(self, size: int):
        self.size = size

    def decode(self, data: bytes) -> bytes:
        return bytes(data)

    def encode(self, value: object, path: str = "value") -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise refuse(path, f"{self.size} bytes (no type is known)", value)
        return exact_bytes(value, self.size, path)

    def parse(self, text: str, path: str = "value") -> bytes:
        try:
            data = bytes.fromhex(text.strip().removeprefix("0x").replace(":", ""))
        except ValueError:
            raise refuse(path, f"{self.size} bytes in hex", text) from None
        return exact_bytes(data, self.size, path)


class NodeCodec(Codec):
    """A type tree. `size` may exceed the type's (data sections): the rest is zero."""

    def __init__(self, node: Node, size: int | None = None):
        self.node, self.size = node, node.size if size is None else size

    def decode(self, data: bytes) -> object:
        return self.node.decode(bytes(data))

    def encode(self, value: object, path: str = "value") -> bytes:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return exact_bytes(value, self.size, path)
        return self.node.encode(value, path).ljust(self.size, b"\0")

    def parse(self, text: str, path: str = "value") -> bytes:
        value = parse_node_text(self.node, text, path)
        if isinstance(value, bytes):  # an address: as long as the type, not as the map's value
            value = value.ljust(self.size, b"\0")
        return self.encode(value, path)


class SwappedCodec(Codec):
    """An unsigned number in network order."""

    def __init__(self, size: int):
        self.size = size
        self._number = Number(size, False, f"be{8 * size}")

    def decode(self, data: bytes) -> int:
        return int.from_bytes(data, "big")

    def encode(self, value: object, path: str = "value") -> bytes:
        return self._number.encode(value, path)[::-1] if not isinstance(value, bytes) else exact_bytes(value, self.size, path)

    def parse(self, text: str, path: str = "value") -> bytes:
        return parse_address(text, self.size) or self.encode(parse_number(text.strip(), path), path)


class AddressCodec(Codec):
    """IPv4, IPv6 or MAC address: `str` in Python."""

    def __init__(self, size: int):
        self.size = size
        self._word = {4: "an IPv4 address", 6: "a MAC address", 16: "an IPv6 address"}[size]

    def decode(self, data: bytes) -> str:
        return data.hex(":") if self.size == 6 else str(ipaddress.ip_address(bytes(data)))

    def encode(self, value: object, path: str = "value") -> bytes:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return exact_bytes(value, self.size, path)
        return self.parse(str(value), path)

    def parse(self, text: str, path: str = "value") -> bytes:
        data = parse_address(text.strip(), self.size)
        if data is None:
            raise refuse(path, self._word, text)
        return data


def _number_word(size: int, signed: bool) -> Callable[[int], Codec]:
    word = f"{'s' if signed else 'u'}{8 * size}"
    return lambda _: NodeCodec(Number(size, signed, word))


#: What `--key` and `--value` understand; the argument is the map's size.
WORDS: dict[str, Callable[[int], Codec]] = {
    **{f"{sign}{8 * size}": _number_word(size, sign == "s") for sign in "us" for size in (1, 2, 4, 8)},
    **{f"be{8 * size}": lambda _, size=size: SwappedCodec(size) for size in (2, 4, 8)},
    "ipv4": lambda _: AddressCodec(4),
    "ipv6": lambda _: AddressCodec(16),
    "mac": lambda _: AddressCodec(6),
    "text": lambda size: NodeCodec(Text(size)),
    "hex": BytesCodec,
    "bytes": BytesCodec,
}


def codec_of_word(word: str, size: int, what: str) -> Codec:
    """The codec of `u32`, `ipv4`, ... for keys or values (`what`) of `size` bytes. Raises ShmbpfError when they do not fit."""
    if word not in WORDS:
        raise ShmbpfError(f"{what} type {word!r}: expected one of {', '.join(WORDS)}")
    codec = WORDS[word](size)
    if codec.size != size:
        raise ShmbpfError(f"{what} type {word} has {codec.size} bytes, the map's {what}s have {size}")
    return codec


def codec_of_type(btf: Btf | None, type_id: int, size: int) -> Codec:
    """The codec of a BTF type, or plain bytes when there is none or it does not describe `size` bytes."""
    if btf is None or not type_id:
        return BytesCodec(size)
    try:
        node = compile_type(btf, type_id)
    except BtfError:
        return BytesCodec(size)  # a type without a value (void): its bytes can still be seen
    is_section = node.word.startswith("section ")
    return NodeCodec(node, size) if node.size == size or (is_section and node.size <= size) else BytesCodec(size)


def plain_codec(size: int) -> Codec:
    """What scripts get when no type is known: a number where a machine has one of that size, else hex."""
    return NodeCodec(Number(size, False, f"u{8 * size}")) if size in (1, 2, 4, 8) else BytesCodec(size)


def decode(btf: Btf, type_id: int, data: bytes) -> object:
    """The Python value of `data` seen as a BTF type. Raises ValueRefused when the length is wrong."""
    node = compile_type(btf, type_id)
    return node.decode(exact_bytes(data, node.size, node.word))


def encode(btf: Btf, type_id: int, value: object) -> bytes:
    """The bytes of a Python value of a BTF type; missing fields are zero."""
    node = compile_type(btf, type_id)
    return NodeCodec(node).encode(value)


def parse_text(btf: Btf, type_id: int, text: str) -> bytes:
    """The bytes that one line of text means for a BTF type."""
    return NodeCodec(compile_type(btf, type_id)).parse(text)


__all__ = [
    "AddressCodec", "BytesCodec", "Codec", "NodeCodec", "SwappedCodec", "ValueRefused", "codec_of_type", "codec_of_word", "decode", "encode",
    "format_text", "parse_text", "plain_codec",
]  # fmt: skip
