"""Maps of the time before BTF: sections like `maps` and `maps/NAME` hold structs of 32-bit words, and nothing says which struct.

All layouts start with {type, key_size, value_size, max_entries}. What follows tells them apart by element size, and where two layouts share a
size, by content:

    bytes  layout                                      written for
    16     -                                           (any)
    20     flags                                       libbpf struct bpf_map_def
           id                                          iproute2 2015-04, if a section `<id>/<slot>` names that id
    24     flags, inner_map_idx                        kernel samples (bpf_load.c) of 4.12
           id, pinning                                 iproute2 2015-11, if a `<id>/<slot>` section or the pinning says so
    28     flags, inner_map_idx, numa_node             kernel samples (bpf_load.c) of 4.14
           flags, id, pinning                          iproute2 2016, aya
    36     flags, id, pinning, inner_id, inner_idx     iproute2 2017 (final), struct bpf_elf_map
    280    flags, pinning, namespace[256]              gobpf
    other  flags, zeros                                libbpf's rule: a longer struct is fine if the rest is zero

The element size is the distance to the next map symbol, which is what the loaders of these sections compute from size and number of symbols
(iproute2 lib/bpf_legacy.c, bpf_fetch_maps_end(); libbpf 0.8, bpf_object__init_user_maps()).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, NamedTuple

from shmbpf.elf.btf import Btf, Kind
from shmbpf.elf.container import SHN_UNDEF, STT_NOTYPE, STT_OBJECT, Container, Section, Symbol
from shmbpf.elf.maps import MAX_MAPS, MapDefinition
from shmbpf.errors import BtfError
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapFlag, MapType

_MAPS_IN_MAP = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
_GOBPF = 280


class _Words(NamedTuple):
    """One definition in the union of all layouts."""

    flags: int = 0
    id: int = 0
    pinning: int = 0
    inner_id: int = 0
    inner_idx: int = -1  #: iproute2: put this map into slot inner_idx of the maps whose inner_id is its id
    inner_map_idx: int = -1  #: bpf_load: the inner map is the section's map of this number


def is_legacy_section(name: str) -> bool:
    """True for the sections these maps live in: `maps`, `maps/NAME` (gobpf), `TYPE/maps` (v4l-utils)."""
    return name == "maps" or name.startswith("maps/") or name.endswith("/maps")


def read_legacy_maps(container: Container, section: Section, btf: Btf | None, tail_ids: Collection[int]) -> list[MapDefinition]:
    """All maps of one section. `tail_ids` are the map ids that program sections `<id>/<slot>` name."""
    symbols = _map_symbols(container, section)
    words: list[_Words] = []
    found: list[MapDefinition] = []
    for index, symbol in enumerate(symbols):
        end = symbols[index + 1].value if index + 1 < len(symbols) else section.size
        size = end - symbol.value
        raw = section.data[symbol.value : end]
        if size < 16 or len(raw) < 16:
            raise container.fail(f"section {section.name!r}: map {symbol.name!r} has {size} bytes, a map definition has at least 16")
        head = [int.from_bytes(raw[at : at + 4], "little") for at in range(0, min(size, 36) // 4 * 4, 4)]
        entry = _interpret(head, raw, size, tail_ids)
        if entry is None:
            raise container.fail(f"section {section.name!r}: map {symbol.name!r} is a definition of {size} bytes in an unknown layout")
        words.append(entry)
        spec = MapSpec(symbol.name, *head[:4], flags=entry.flags, pinning=entry.pinning, section=section.name, elf_id=entry.id)
        found.append(MapDefinition(_add_types(container, spec, btf), section, symbol.value, size))
    _join_inner_maps(container, section, found, words)
    return found


def _map_symbols(container: Container, section: Section) -> list[Symbol]:
    """One symbol per address, in order; a `maps/NAME` section without symbols is one map."""
    by_address: dict[int, Symbol] = {}
    for symbol in container.symbols:
        if symbol.section != section.index or symbol.section == SHN_UNDEF or symbol.type not in (STT_OBJECT, STT_NOTYPE) or not symbol.name:
            continue
        if symbol.value >= section.size:
            raise container.fail(
                f"section {section.name!r}: map {symbol.name!r} at {symbol.value:#x} lies past the section's {section.size:#x} bytes"
            )
        if symbol.value not in by_address or symbol.bind > by_address[symbol.value].bind:
            by_address[symbol.value] = symbol
    if not by_address and section.name.startswith("maps/"):
        by_address[0] = Symbol(section.name.partition("/")[2], 0, section.size, 1, STT_OBJECT, section.index)
    if not by_address:
        raise container.fail(f"section {section.name!r}: {section.size} bytes of maps but no symbol names one")
    if len(by_address) > MAX_MAPS:
        raise container.fail(f"section {section.name!r}: {len(by_address)} maps, at most {MAX_MAPS} are read")
    return [by_address[address] for address in sorted(by_address)]


def _interpret(head: list[int], raw: memoryview, size: int, tail_ids: Collection[int]) -> _Words | None:
    """What the words behind the first four mean (see the table above); None when nothing fits."""
    kind, rest = head[0], head[4:]
    if size == 36:
        return _Words(rest[0], rest[1], rest[2], rest[3], _signed(rest[4]))
    if size == 28 and kind in _MAPS_IN_MAP:
        return _Words(rest[0], inner_map_idx=rest[1])
    if size == 28:
        numa = rest[0] & MapFlag.NUMA_NODE and not rest[1]
        return _Words(rest[0]) if numa else _Words(rest[0], rest[1], rest[2])
    if size == 24 and kind in _MAPS_IN_MAP:
        return _Words(rest[0], inner_map_idx=rest[1])
    if size == 24:
        return _Words(0, rest[0], rest[1]) if rest[1] or rest[0] in tail_ids else _Words(rest[0])
    if size == 20:
        return _Words(0, rest[0]) if kind == MapType.PROG_ARRAY and rest[0] in tail_ids else _Words(rest[0])
    if size == _GOBPF:
        return _Words(rest[0], 0, rest[1])
    if any(raw[20:]):
        return None
    return _Words(rest[0] if rest else 0)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _join_inner_maps(container: Container, section: Section, found: list[MapDefinition], words: list[_Words]) -> None:
    """Give every map-in-map its template, and its static slots (iproute2 bpf_maps_attach_all())."""
    by_id = {entry.id: map for map, entry in zip(found, words) if entry.id and not entry.inner_id}
    for map, entry in zip(found, words):
        if map.spec.type not in _MAPS_IN_MAP:
            continue
        template = by_id.get(entry.inner_id)
        if 0 <= entry.inner_map_idx < len(found):
            template = found[entry.inner_map_idx]
        if template is None or template is map:
            wanted = f"id {entry.inner_id}" if entry.inner_map_idx < 0 else f"number {entry.inner_map_idx}"
            raise container.fail(f"section {section.name!r}: map {map.spec.name!r} wants the map of {wanted} as its inner map; there is none")
        map.spec = replace(map.spec, inner=replace(template.spec, name=f"{map.spec.name}.inner", pinning=0, inner=None, elf_id=0))
        for other, inner in zip(found, words):
            if entry.inner_id and inner.id == entry.inner_id and not inner.inner_id and inner.inner_idx >= 0:
                map.slots[inner.inner_idx] = ("map", other.spec.name)


def _add_types(container: Container, spec: MapSpec, btf: Btf | None) -> MapSpec:
    """Key and value types from `struct ____btf_map_<name> { K key; V value; }` (BPF_ANNOTATE_KV_PAIR)."""
    try:
        pair = btf.find(f"____btf_map_{spec.name}", Kind.STRUCT) if btf else None
        if btf is None or pair is None or [member.name for member in pair.members] != ["key", "value"]:
            return spec
        key, value = (member.type for member in pair.members)
        sizes = btf.size_of(key), btf.size_of(value)
    except BtfError:  # broken types cost the map its typed dumps, nothing else
        return spec
    if sizes != (spec.key_size, spec.value_size):
        raise container.fail(
            f"section {spec.section!r}: map {spec.name!r} has key and value of {spec.key_size} and {spec.value_size} bytes, "
            f"its ____btf_map_ annotation says {sizes[0]} and {sizes[1]}"
        )
    return replace(spec, btf=btf, btf_key_type_id=key, btf_value_type_id=value)
