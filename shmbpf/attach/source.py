"""Packet sources: capture files (mapped), streams (stdin), and packets in memory. Each has a C reader; none copies a packet in Python."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from shmbpf._ffi import ffi, lib
from shmbpf.errors import CaptureError

_CHUNK = 1 << 20


class Source:
    """What a Feed reads from: `reader` is its `struct cap_reader *`, `mapped_index` the number of its mapping in the workers (or NET_INLINE: copy)."""

    def __init__(self, name: str):
        self.name = name
        self.reader = ffi.new("struct cap_reader *")
        lib.cap_init(self.reader)
        self.mapped_index = lib.NET_INLINE
        self.loops = 1
        self.packets = 0
        self.truncated = 0
        self.warnings: list[str] = []

    def rewind(self) -> bool:
        """Called at the end of a round: True when there is another one to feed."""
        self.finish()
        return False

    def fill(self) -> None:
        """Called when the reader wants more bytes of a stream."""
        raise self.error("ended in the middle of a record")

    def error(self, text: str) -> CaptureError:
        """An error naming this source."""
        return CaptureError(f"{self.name}: {text}")

    def finish(self) -> None:
        """Takes over the reader's counts and warning: called once per round."""
        self.packets += self.reader.packets
        self.truncated += self.reader.truncated
        warning = ffi.string(self.reader.warning).decode(errors="replace")
        if warning and warning not in self.warnings:
            self.warnings.append(warning)

    def close(self) -> None:
        """Releases files and mappings."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class CaptureFile(Source):
    """A pcap or pcapng file, mapped read-only; `loops` rounds (0 = for ever)."""

    def __init__(self, path: str | os.PathLike, *, loops: int = 1):
        super().__init__(os.fspath(path))
        self.loops = loops
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not Path(path).is_file():
                raise self.error("expected a capture file")
            if size == 0:
                raise self.error("is empty: expected a pcap or pcapng file")
            self._mapping = mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._view = ffi.from_buffer("uint8_t[]", self._mapping)
        self.size = size
        self._start()

    def _start(self) -> None:
        lib.cap_init(self.reader)
        self.reader.base, self.reader.bytes, self.reader.final = self._view, self.size, 1

    @property
    def mapping(self) -> tuple:
        """(address, bytes, owner) for WorkerPlan.sources."""
        return ffi.cast("uint8_t *", self._view), self.size, self._mapping

    def rewind(self) -> bool:
        self.finish()
        if self.loops == 1:
            return False
        self.loops = max(self.loops - 1, 0)
        self._start()
        return True

    def close(self) -> None:
        ffi.release(self._view)
        self._mapping.close()


class CaptureStream(Source):
    """A capture that arrives on a file object (stdin, a FIFO): read as it comes."""

    def __init__(self, file: BinaryIO, name: str = "stdin"):
        super().__init__(name)
        self._file = file
        self._window = ffi.new("uint8_t[]", 2 * _CHUNK)
        self._fill = 0
        self.reader.base = self._window

    def fill(self) -> None:
        """Moves the unread rest to the front and waits for more bytes."""
        rest = self._fill - self.reader.pos
        ffi.memmove(self._window, self._window + self.reader.pos, rest)
        self.reader.stream_off += self.reader.pos
        self.reader.pos = 0
        chunk = os.read(self._file.fileno(), _CHUNK)
        ffi.memmove(self._window + rest, chunk, len(chunk))
        self._fill = self.reader.bytes = rest + len(chunk)
        self.reader.final = 0 if chunk else 1


class PacketList(Source):
    """Packets given as bytes, as a capture in memory."""

    def __init__(self, packets: Iterable[bytes]):
        super().__init__("packets")
        self._blob = b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(8) + (262144).to_bytes(4, "little") + (1).to_bytes(4, "little")
        self._blob += b"".join(bytes(8) + len(packet).to_bytes(4, "little") * 2 + packet for packet in packets)
        self._view = ffi.from_buffer("uint8_t[]", self._blob)
        self.reader.base, self.reader.bytes, self.reader.final = self._view, len(self._blob), 1

    @classmethod
    def of(cls, packets) -> PacketList | None:
        """A PacketList of bytes or of an iterable of bytes; None for a path."""
        if isinstance(packets, (bytes, bytearray, memoryview)):
            return cls([bytes(packets)])
        if isinstance(packets, (str, os.PathLike)):
            return None
        return cls([bytes(packet) for packet in packets])


def describe_end(source: Source) -> str:
    """Why a source cannot be read, in the reader's words."""
    return ffi.string(source.reader.warning).decode(errors="replace") or "not a pcap or pcapng capture"
