"""BTF-defined maps: the variables of the `.maps` section, whose *types* say what the map is.

    struct {                                        member type            meaning
        __uint(type, BPF_MAP_TYPE_HASH);            int (*type)[1]         PTR -> ARRAY: the number of elements is the number
        __ulong(map_extra, 3);                      enum { x = 3 } name    ENUM or ENUM64 with one value (wider than 32 bits)
        __type(key, u32);                           u32 *key               PTR: the type itself
        __array(values, struct inner);              struct inner *values[] trailing ARRAY of PTR; the bytes behind it are the static slots
    } name SEC(".maps");

Slots are relocations: the entry at `values[i]` refers to a map (map-in-map) or a program (program array).
As in libbpf, parse_btf_map_def() and bpf_object__collect_map_relos() (tools/lib/bpf/libbpf.c).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Callable

from shmbpf.elf.btf import Btf, BtfType, Kind
from shmbpf.elf.container import Container, Relocation, Section
from shmbpf.errors import ObjectError
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapType

MAPS_SECTION = ".maps"
SLOT_SIZE = 8
MAX_MAPS = 2048
MAX_MEMBERS = 64
#: members that are plain numbers -> field of MapSpec (None: accepted and not needed here)
_NUMBERS = {
    "type": "type", "max_entries": "max_entries", "map_flags": "flags", "key_size": "key_size", "value_size": "value_size",
    "pinning": "pinning", "map_extra": "map_extra", "numa_node": None,
}  # fmt: skip
_MAPS_IN_MAP = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)


@dataclass
class MapDefinition:
    """A map and where its definition lies; `values` is the offset of its first static slot in the section (None: it has none)."""

    spec: MapSpec
    section: Section
    offset: int
    size: int
    values: int | None = None
    slots: dict[int, tuple[str, str]] = field(default_factory=dict)

    def finish(self) -> MapSpec:
        """The spec, slots included."""
        return replace(self.spec, slots=MappingProxyType(self.slots)) if self.slots else self.spec


def read_btf_maps(container: Container, section: Section, btf: Btf) -> list[MapDefinition]:
    """All maps declared in `.maps`."""
    table = btf.find(section.name, Kind.DATASEC)
    if table is None:
        raise container.fail(f"section {section.name!r}: the object's BTF does not describe it; compile with -g")
    if len(table.variables) > MAX_MAPS:
        raise container.fail(f"section {section.name!r}: {len(table.variables)} maps; at most {MAX_MAPS} are read")
    found, seen = [], set()
    for variable in table.variables:
        entry = btf.type(variable.type)
        if entry.kind != Kind.VAR:
            raise container.fail(f"section {section.name!r}: BTF lists a {entry.kind.name} among its variables")
        where = f"section {section.name!r}: map {entry.name!r}"
        if variable.offset + variable.size > section.size:
            raise container.fail(f"{where} ends at {variable.offset + variable.size}, past the section's {section.size} bytes")
        if not entry.name or entry.name in seen:
            raise container.fail(f"{where} is declared twice" if entry.name else f"section {section.name!r}: a map without a name")
        seen.add(entry.name)
        try:
            spec, values = _read_definition(btf, entry.ref, entry.name, section.name)
        except ObjectError as exc:
            raise container.fail(f"{where}: {exc}") from None
        found.append(MapDefinition(spec, section, variable.offset, variable.size, None if values is None else variable.offset + values))
    return found


def _read_definition(btf: Btf, type_id: int, name: str, section: str, outer: bool = True) -> tuple[MapSpec, int | None]:
    """The spec of one definition struct, and the byte offset of its `values` (None without)."""
    struct = btf.resolve(type_id)
    if struct.kind != Kind.STRUCT:
        raise ObjectError(f"defined by a {struct.kind.name}, expected a struct")
    if len(struct.members) > MAX_MEMBERS:
        raise ObjectError(f"defined by a struct of {len(struct.members)} members; map definitions have at most {MAX_MEMBERS}")
    fields: dict[str, int] = {}
    inner, values = None, None
    for index, member in enumerate(struct.members):
        if member.name in _NUMBERS:
            number = _read_number(btf, member.type, member.name)
            if _NUMBERS[member.name]:
                _set_once(fields, _NUMBERS[member.name], number)
        elif member.name in ("key", "value"):
            _read_type(btf, member.type, member.name, fields)
        elif member.name == "values" and outer and index == len(struct.members) - 1:
            values = member.bit_offset // 8
            inner = _read_values(btf, member.type, fields.get("type", 0), name, section)
            _set_once(fields, "value_size", 4)
        elif member.name == "values":
            raise ObjectError("member 'values' must be the last one" if outer else "an inner map cannot have 'values' of its own")
        else:
            raise ObjectError(f"unknown member {member.name!r}, expected {', '.join(_NUMBERS)}, key, value or values")
    if "type" not in fields:
        raise ObjectError("has no map type: __uint(type, BPF_MAP_TYPE_...) is missing")
    for required in ("key_size", "value_size", "max_entries"):
        fields.setdefault(required, 0)
    return MapSpec(name=name, section=section, btf=btf, inner=inner, pin_by_name=bool(fields.get("pinning")), **fields), values


def _read_number(btf: Btf, type_id: int, name: str) -> int:
    """`__uint` (elements of the array pointed to) or `__ulong` (the value of an enum)."""
    entry = btf.resolve(type_id)
    if entry.kind in (Kind.ENUM, Kind.ENUM64) and len(entry.enumerators) == 1:
        return entry.enumerators[0].value & 0xFFFFFFFFFFFFFFFF
    array = btf.resolve(entry.ref) if entry.kind == Kind.PTR else entry
    if entry.kind != Kind.PTR or array.kind != Kind.ARRAY:
        raise ObjectError(f"member {name!r} is a {entry.kind.name}, expected __uint({name}, ...) or __ulong({name}, ...)")
    return array.count


def _read_type(btf: Btf, type_id: int, name: str, fields: dict[str, int]) -> None:
    """`__type(key|value, T)`: its size (which a separate key_size must match) and type id."""
    pointer = btf.resolve(type_id)
    if pointer.kind != Kind.PTR:
        raise ObjectError(f"member {name!r} is a {pointer.kind.name}, expected __type({name}, ...)")
    _set_once(fields, f"{name}_size", btf.size_of(pointer.ref))
    fields[f"btf_{name}_type_id"] = pointer.ref


def _set_once(fields: dict[str, int], name: str, number: int) -> None:
    if fields.setdefault(name, number) != number:
        raise ObjectError(f"{name} is given twice, as {fields[name]} and {number}")


def _read_values(btf: Btf, type_id: int, map_type: int, name: str, section: str) -> MapSpec | None:
    """Template of the inner maps (None for a program array)."""
    array = btf.resolve(type_id)
    pointer = btf.resolve(array.ref) if array.kind == Kind.ARRAY else array
    if array.kind != Kind.ARRAY or pointer.kind != Kind.PTR:
        raise ObjectError("member 'values' is not an array of pointers, expected __array(values, ...)")
    target: BtfType = btf.resolve(pointer.ref)
    if map_type == MapType.PROG_ARRAY:
        if target.kind != Kind.FUNC_PROTO:
            raise ObjectError(f"'values' of a program array point to a {target.kind.name}, expected functions")
        return None
    if map_type not in _MAPS_IN_MAP:
        raise ObjectError(f"type {map_type} cannot have 'values': only program arrays and map-in-map can (declare the type first)")
    inner, _ = _read_definition(btf, pointer.ref, f"{name}.inner", section, outer=False)
    if inner.pinning:
        raise ObjectError("inner maps cannot be pinned")
    return inner


def fill_slots(
    container: Container,
    section: Section,
    definitions: list[MapDefinition],
    map_at: Callable[[int, int], str | None],
    program_at: Callable[[int, int], str | None],
) -> None:
    """Read the static slots of the maps in `section`: `map_at` and `program_at` name what lies at (section index, byte offset)."""
    ordered = sorted(definitions, key=lambda definition: definition.offset)
    for relocation in container.relocations(section):
        if relocation.type == 0:
            continue
        owner = _owner_of(ordered, relocation.offset)
        where = f"section {section.name!r}: relocation at {relocation.offset:#x} ({relocation.symbol.name!r})"
        if owner is None or owner.values is None or relocation.offset < owner.values or (relocation.offset - owner.values) % SLOT_SIZE:
            raise container.fail(f"{where} is not a slot of any map's 'values'")
        slot = (relocation.offset - owner.values) // SLOT_SIZE
        kind, lookup = ("prog", program_at) if owner.spec.type == MapType.PROG_ARRAY else ("map", map_at)
        name = _slot_target(section, relocation, lookup)
        if owner.spec.key_size != 4:
            raise container.fail(f"{where}: map {owner.spec.name!r} has keys of {owner.spec.key_size} bytes; static slots need 4 (a number)")
        if name is not None:
            owner.slots[slot] = (kind, name)
        elif not (relocation.symbol.is_undefined and relocation.symbol.bind == 2):  # STB_WEAK: the slot stays empty
            what = "a program" if kind == "prog" else "a map"
            raise container.fail(f"{where}: slot {slot} of map {owner.spec.name!r} does not refer to {what} of this object")


def _owner_of(ordered: list[MapDefinition], offset: int) -> MapDefinition | None:
    """The definition that covers a byte of the section."""
    index = bisect_right(ordered, offset, key=lambda definition: definition.offset) - 1
    return ordered[index] if index >= 0 and offset < ordered[index].offset + ordered[index].size else None


def _slot_target(section: Section, relocation: Relocation, lookup: Callable[[int, int], str | None]) -> str | None:
    addend = relocation.addend
    if addend is None:
        addend = int.from_bytes(section.data[relocation.offset : relocation.offset + SLOT_SIZE], "little")
    return lookup(relocation.symbol.section, relocation.symbol.value + addend)
