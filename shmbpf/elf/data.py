"""Data sections as maps: `.data`, `.bss`, `.rodata`, their `.x` variants, and any other data section that code refers to.

Each becomes an array with one element that is the section; read-only ones are closed to programs and frozen once filled. Names, flags and the
value type (the section's BTF DATASEC) are libbpf's: internal_map_name(), bpf_object__init_internal_map(), map_is_mmapable() (tools/lib/bpf/libbpf.c).
"""

from __future__ import annotations

from typing import Collection

from shmbpf.elf.btf import Btf, BtfType, Kind
from shmbpf.elf.container import SHF_ALLOC, SHF_EXECINSTR, SHT_NOBITS, SHT_PROGBITS, Container, Section
from shmbpf.elf.legacy_maps import is_legacy_section
from shmbpf.elf.maps import MAPS_SECTION, MapDefinition
from shmbpf.errors import BtfError
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapFlag, MapType

MAX_DATA = 256 << 20
NAME_LENGTH = 15  # BPF_OBJ_NAME_LEN without its NUL
_DATA_SECTIONS = (".data", ".bss", ".rodata")
_NOT_DATA = (MAPS_SECTION, "license", "version", ".ksyms", ".kconfig", ".addr_space.1", ".struct_ops", ".struct_ops.link")
_IF_REFERENCED = ("license", "version")


def data_map_name(object_name: str, section_name: str) -> str:
    """libbpf's name: object name and section name in 15 characters, or the section name alone if it is a custom one."""
    suffix = max(7, len(section_name))
    prefix = 0 if "." in section_name[1:] or section_name[:1] != "." else max(0, min(NAME_LENGTH - suffix, len(object_name)))
    name = (object_name[:prefix] + section_name)[:NAME_LENGTH]
    return _clean(name)


def _clean(name: str) -> str:
    """With '_' for what the kernel allows in no name."""
    return "".join(char if char.isascii() and char.isalnum() or char in "_." else "_" for char in name)


def is_data_section(section: Section, referenced: Collection[int] = ()) -> bool:
    """True if the section becomes a map: by its name, or because code refers to it."""
    if section.type not in (SHT_PROGBITS, SHT_NOBITS) or not section.size or section.flags & (SHF_ALLOC | SHF_EXECINSTR) != SHF_ALLOC:
        return False
    if section.name in _NOT_DATA or is_legacy_section(section.name):
        return section.index in referenced and section.name in _IF_REFERENCED
    return section.index in referenced or any(section.name == name or section.name.startswith(name + ".") for name in _DATA_SECTIONS)


def read_data_maps(container: Container, object_name: str, btf: Btf | None, referenced: Collection[int]) -> list[MapDefinition]:
    """A map for every data section. `referenced` are the indexes of sections that code loads addresses of."""
    sections = [section for section in container.sections if is_data_section(section, referenced)]
    total = sum(section.size for section in sections)
    if total > MAX_DATA:
        raise container.fail(f"data sections of {total} bytes in all; at most {MAX_DATA} are loaded")
    found: dict[str, MapDefinition] = {}
    for section in sections:
        name = data_map_name(object_name, section.name)
        if name in found:  # 15 characters did not suffice to tell two sections apart
            name = _clean(section.name if section.name not in found else f"{section.name}_{section.index}")
        found[name] = MapDefinition(_data_map(name, section, btf), section, 0, section.size)
    return list(found.values())


def _data_map(name: str, section: Section, btf: Btf | None) -> MapSpec:
    readonly = section.name == ".rodata" or section.name.startswith(".rodata.")
    table, mappable = _describe(section, btf)
    flags = (int(MapFlag.RDONLY_PROG) if readonly else 0) | (int(MapFlag.MMAPABLE) if mappable else 0)
    return MapSpec(
        name=name,
        type=int(MapType.ARRAY),
        key_size=4,
        value_size=section.size,
        max_entries=1,
        flags=flags,
        data=bytes(section.size) if section.type == SHT_NOBITS else bytes(section.data),
        frozen=readonly,
        btf=btf if table else None,
        btf_value_type_id=table.id if table else 0,
        section=section.name,
    )


def _describe(section: Section, btf: Btf | None) -> tuple[BtfType | None, bool]:
    """The section's DATASEC, and whether a variable of it is visible outside (a section of statics alone is nobody's to mmap)."""
    try:
        table = btf.find(section.name, Kind.DATASEC) if btf else None
        return table, bool(btf and table and any(btf.type(variable.type).linkage for variable in table.variables))
    except BtfError:  # broken types cost the map its typed dumps, nothing else
        return None, False
