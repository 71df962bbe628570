"""Ring buffers by their public protocol alone: positions, headers and data as mmap shows them, of the kernel's maps and of the segments here alike.

Nothing of the library is used, so what these classes read and write is what any stock reader or producer would.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

PAGE = 4096
BUSY, DISCARD = 1 << 31, 1 << 30


class RingBytes:
    """A ring buffer behind a descriptor. `kernel`: of a kernel map, whose pages are mapped with the rights it allows."""

    def __init__(self, fd: int, size: int, *, kernel: bool, user: bool = False):
        self.size, self.user = size, user
        read, write = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
        self._consumer = mmap.mmap(fd, PAGE, mmap.MAP_SHARED, read if user else write, offset=0)
        self._rest = mmap.mmap(fd, PAGE + size * (2 if kernel else 1), mmap.MAP_SHARED, write if user or not kernel else read, offset=PAGE)

    @property
    def consumer_pos(self) -> int:
        return struct.unpack_from("=Q", self._consumer)[0]

    @consumer_pos.setter
    def consumer_pos(self, value: int) -> None:
        struct.pack_into("=Q", self._consumer, 0, value)

    @property
    def producer_pos(self) -> int:
        return struct.unpack_from("=Q", self._rest)[0]

    @producer_pos.setter
    def producer_pos(self, value: int) -> None:
        struct.pack_into("=Q", self._rest, 0, value)

    @property
    def positions(self) -> tuple[int, int, int]:
        """(consumer_pos, producer_pos, pending_pos)."""
        return self.consumer_pos, *struct.unpack_from("=QQ", self._rest)

    def data(self, pos: int, length: int) -> bytes:
        """Bytes of the data area, which goes round."""
        at = pos % self.size
        first = self._rest[PAGE + at : PAGE + min(at + length, self.size)]
        return first + self._rest[PAGE : PAGE + length - len(first)]

    def store(self, pos: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            self._rest[PAGE + (pos + i) % self.size] = byte

    def headers(self) -> list[tuple[int, int, int]]:
        """(position, len word, second word) of everything unread."""
        found, at, end = [], self.consumer_pos, self.producer_pos
        while at < end:
            length, second = struct.unpack("=II", self.data(at, 8))
            found.append((at, length, second))
            at += (length & ~(BUSY | DISCARD)) + 15 & ~7
        return found

    def consume(self) -> Iterator[bytes]:
        """Reads as libbpf does: up to the first open record, discarded ones skipped, the position moved on after each."""
        while (at := self.consumer_pos) < self.producer_pos:
            length = struct.unpack("=I", self.data(at, 4))[0]
            if length & BUSY:
                return
            payload = self.data(at + 8, length & ~DISCARD)
            self.consumer_pos = at + ((length & ~DISCARD) + 15 & ~7)
            if not length & DISCARD:
                yield payload

    def produce(self, payload: bytes, *, flags: int = 0, length: int | None = None) -> None:
        """What a producer of a user ring buffer does. `length`: a lie about it; `flags`: BUSY, DISCARD."""
        at = self.producer_pos
        self.store(at, struct.pack("=II", (len(payload) if length is None else length) | flags, 0) + payload)
        self.producer_pos = at + (len(payload) + 15 & ~7)

    def close(self) -> None:
        self._consumer.close()
        self._rest.close()
