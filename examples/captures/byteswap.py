"""Write a classic pcap file in the other byte order: `byteswap.py IN OUT`. Frames are copied, headers turned round."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

#: Magic numbers of pcap files with microseconds and with nanoseconds.
MAGICS = (0xA1B2C3D4, 0xA1B23C4D)


def swapped(data: bytes) -> bytes:
    """The same capture in the other byte order. ValueError when `data` is not a classic pcap file."""
    order = next((o for o in "<>" if struct.unpack_from(o + "I", data)[0] in MAGICS), None)
    if order is None:
        raise ValueError(f"not a classic pcap file: it starts with {data[:4].hex()}")
    other = "<>"[order == "<"]
    header = struct.unpack_from(order + "IHHiIII", data)
    out, at = [struct.pack(other + "IHHiIII", *header)], 24
    while at < len(data):
        record = struct.unpack_from(order + "IIII", data, at)
        out += struct.pack(other + "IIII", *record), data[at + 16 : at + 16 + record[2]]
        at += 16 + record[2]
    return b"".join(out)


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(swapped(Path(sys.argv[1]).read_bytes()))
