"""Reads the output files of a run back, with the project's own reader."""

from __future__ import annotations

import os
from pathlib import Path

from shmbpf._ffi import ffi, lib
from tests.support.captures import Packet
from tests.support.device import capture_reader


def read_capture(data: bytes) -> list[Packet]:
    """All packets of a capture that must be whole."""
    reader, packet, got = capture_reader(data), ffi.new("struct cap_packet *"), []
    while lib.cap_next(reader, packet) == 1:
        got.append(Packet(bytes(ffi.buffer(reader.base + packet.off, packet.caplen)), packet.ts_ns, packet.len, packet.linktype))
    assert ffi.string(reader.warning) == b""
    return got


def read_outputs(directory: str | os.PathLike) -> dict[str, list[Packet]]:
    """Packets per output file, by its stem."""
    return {path.stem: read_capture(path.read_bytes()) for path in sorted(Path(directory).iterdir())}
