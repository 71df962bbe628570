"""`extern ... __kconfig` variables: the few whose value this kernel-less machine can answer, as one read-only map, as libbpf makes it.

LINUX_KERNEL_VERSION is that of the Linux whose behaviour is reproduced. Weak CONFIG_ options read as 0, libbpf's value for an unset option;
a strong one has no answer and stays undefined, which the linker reports when code uses it.
"""

from __future__ import annotations

from typing import Mapping

from shmbpf.elf.btf import Btf, Kind
from shmbpf.elf.container import STB_WEAK, Symbol
from shmbpf.elf.data import data_map_name
from shmbpf.errors import BtfError
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapFlag, MapType

SECTION = ".kconfig"
KERNEL_VERSION = 6 << 16 | 12 << 8
MAX_VARIABLE = 4096


def read_kconfig(object_name: str, btf: Btf | None, undefined: Mapping[str, Symbol]) -> tuple[MapSpec | None, dict[str, int]]:
    """The `.kconfig` map (None if nothing of it can be answered) and each answered variable's offset in its value."""
    try:
        table = btf.find(SECTION, Kind.DATASEC) if btf else None
        rows = [(btf.type(variable.type), btf.size_of(variable.type)) for variable in table.variables] if btf and table else []
    except BtfError:
        return None, {}
    data, offsets = bytearray(), {}
    for variable, size in rows:
        symbol = undefined.get(variable.name)
        if symbol is None or not 0 < size <= MAX_VARIABLE:
            continue
        if variable.name == "LINUX_KERNEL_VERSION" and size == 4:
            number = KERNEL_VERSION
        elif symbol.bind == STB_WEAK:
            number = 0
        else:
            continue
        data += bytes(-len(data) % min(size, 8))
        offsets[variable.name] = len(data)
        data += number.to_bytes(size, "little")
    if not offsets:
        return None, {}
    flags = int(MapFlag.RDONLY_PROG | MapFlag.MMAPABLE)
    name = data_map_name(object_name, SECTION)
    return MapSpec(name, int(MapType.ARRAY), 4, len(data), 1, flags, data=bytes(data), frozen=True, section=SECTION), offsets
