"""Packets that helper tests share: small, and each with something a helper could trip over."""

from __future__ import annotations

import struct
from typing import Final

_MACS: Final = bytes(6) + bytes.fromhex("020000000001")


def frame(ethertype: int, payload: bytes) -> bytes:
    """An Ethernet frame to the loopback's address (all zeros), so Linux takes it for its own."""
    return _MACS + struct.pack(">H", ethertype) + payload


_IP4_UDP: Final = bytes.fromhex("4500005400010000 4011 0000 0a000001 0a000002 04d2 1a85 0040 0000") + bytes(range(56))
_IP6_UDP: Final = bytes.fromhex("6000000000401140") + bytes(range(32)) + bytes.fromhex("04d21a8500400000") + bytes(range(56))

IPV4: Final = frame(0x0800, _IP4_UDP)
IPV6: Final = frame(0x86DD, _IP6_UDP)
ARP: Final = frame(0x0806, bytes(28))
VLAN: Final = frame(0x8100, bytes.fromhex("20640800") + _IP4_UDP)
QINQ: Final = frame(0x88A8, bytes.fromhex("0064810020650800") + _IP4_UDP)
VLAN_OF_802_3: Final = frame(0x8100, bytes.fromhex("00050100ffff") + bytes(20))
VLAN_OF_VLAN_OF_LENGTH: Final = frame(0x8100, bytes.fromhex("000581000006") + bytes(30))
CUT_VLAN: Final = frame(0x88A8, bytes.fromhex("0005"))
NO_IPV4_HEADER: Final = frame(0x0800, bytes(21))
MULTICAST: Final = bytes.fromhex("01005e000001") + IPV4[6:]
FOREIGN: Final = bytes.fromhex("02aaaaaaaaaa") + IPV4[6:]

ALL: Final = (IPV4, IPV6, ARP, VLAN, QINQ, VLAN_OF_802_3, VLAN_OF_VLAN_OF_LENGTH, CUT_VLAN, NO_IPV4_HEADER, MULTICAST, FOREIGN)
