"""What a map declaration says is what the spec says, whatever decade it was written in."""

from __future__ import annotations

import struct

import pytest
from support.compile import compile_bpf
from support.elf_writer import OBJECT, ElfWriter

from shmbpf.elf import load_object
from shmbpf.errors import ObjectError
from shmbpf.uapi import MapType

from .objects import loaded

HEADER = '#include "bpf_api.h"\n'
PROGRAM = '\nSEC("xdp") int p(void *c) { return 2; }'


def shape(spec):
    return MapType(spec.type).name, spec.key_size, spec.value_size, spec.max_entries, spec.flags


def test_btf_map_with_types():
    spec = loaded("btf_maps").maps["flows"]
    assert shape(spec) == ("HASH", 16, 24, 1000, 1)
    assert (spec.pinning, spec.pin_by_name) == (1, True)
    assert [member.name for member in spec.btf.resolve(spec.btf_key_type_id).members] == ["saddr", "daddr", "sport", "dport"]
    assert spec.btf.resolve(spec.btf_value_type_id).name == "flow"


def test_btf_map_with_sizes_behind_a_typedef():
    assert shape(loaded("btf_maps").maps["by_size"]) == ("ARRAY", 4, 24, 64, 0)


def test_perf_event_array_without_size_stays_zero():
    assert shape(loaded("btf_maps").maps["events"]) == ("PERF_EVENT_ARRAY", 4, 4, 0, 0)


def test_map_extra_from_an_enum():
    assert loaded("btf_maps").maps["seen"].map_extra == 3


def test_map_in_map_has_template_and_slots():
    outer = loaded("btf_maps").maps["outer"]
    assert shape(outer) == ("ARRAY_OF_MAPS", 4, 4, 8, 0)
    assert shape(outer.inner) == ("HASH", 4, 8, 5, 0) and outer.inner.name == "outer.inner"
    assert outer.slots == {2: ("map", "inner_a"), 5: ("map", "inner_b")}


def test_anonymous_inner_definition():
    assert shape(loaded("btf_maps").maps["outer_hash"].inner) == ("ARRAY", 4, 16, 2, 0)


def test_static_program_array():
    assert loaded("btf_maps").maps["jumps"].slots == {0: ("prog", "entry"), 3: ("prog", "leaf")}


def test_program_array_passes_its_type_on():
    leaf = loaded("btf_maps").programs["leaf"]
    assert (leaf.section, leaf.type) == ("some/leaf", 3)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("__uint(max_entries, 1);", "has no map type"),
        ("__uint(type, 1); __uint(colour, 1);", "unknown member 'colour'"),
        ("__uint(type, 1); __u32 key;", "member 'key' is a INT, expected __type"),
        ("__uint(type, 1); __type(key, __u32); __uint(key_size, 8);", "key_size is given twice, as 4 and 8"),
        ("__uint(type, 1); int max_entries;", "member 'max_entries' is a INT"),
        ("__uint(type, 1); __array(values, int(void *));", "cannot have 'values'"),
        ("__uint(type, 3); __array(values, int);", "point to a INT, expected functions"),
        ("__uint(type, 1); __type(key, struct nowhere);", "has no size"),
    ],
)
def test_broken_definition_names_map_and_reason(body, message):
    source = HEADER + f"struct nowhere; struct {{ {body} }} broken SEC(\".maps\");" + PROGRAM
    with pytest.raises(ObjectError, match="section '.maps': map 'broken'.*" + message):
        load_object(compile_bpf(source))


def test_slot_that_refers_to_a_subprogram_is_refused():
    source = HEADER + (
        "__noinline int helper(void *c) { return 3; }\n"
        "struct { __uint(type, 3); __uint(max_entries, 2); __uint(key_size, 4); __array(values, int(void *)); } jumps"
        ' SEC(".maps") = { .values = { [1] = &helper } };'
    ) + PROGRAM
    with pytest.raises(ObjectError, match=r"\('helper'\): slot 1 of map 'jumps' does not refer to a program"):
        load_object(compile_bpf(source))


def test_static_slots_need_numbers_as_keys():
    source = HEADER + (
        'struct in { __uint(type, 2); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); } in SEC(".maps");'
        "struct { __uint(type, 13); __uint(max_entries, 2); __uint(key_size, 8); __array(values, struct in); } out"
        ' SEC(".maps") = { .values = { &in } };'
    ) + PROGRAM
    with pytest.raises(ObjectError, match="map 'out' has keys of 8 bytes; static slots need 4"):
        load_object(compile_bpf(source))


def test_btf_maps_without_btf_are_refused():
    source = HEADER + 'struct { __uint(type, 1); } m SEC(".maps");' + PROGRAM
    with pytest.raises(ObjectError, match="section '.maps' needs BTF.*compile with -g"):
        load_object(compile_bpf(source, debug=False))


def test_iproute2_object_of_2017():
    spec = loaded("legacy_iproute2")
    assert shape(spec.maps["counts"]) == ("ARRAY", 4, 8, 10, 0)
    assert (spec.maps["counts"].pinning, spec.maps["counts"].pin_by_name) == (2, False)
    assert spec.maps["jumps"].elf_id == 0xABC
    assert spec.maps["jumps"].slots == {1: ("prog", "one"), 7: ("prog", "seven")}
    assert spec.maps["outer"].slots == {3: ("map", "inner")} and shape(spec.maps["outer"].inner)[0] == "ARRAY"


def test_annotation_struct_types_a_legacy_map():
    counts = loaded("legacy_iproute2").maps["counts"]
    assert counts.btf.resolve(counts.btf_value_type_id).name == "unsigned long long"


def test_tail_call_sections_get_the_type_of_their_caller():
    programs = loaded("legacy_iproute2").programs
    assert {program.type for program in programs.values()} == {3}
    assert (programs["one"].tail_slot, programs["seven"].tail_slot) == ((0xABC, 1), (2748, 7))


def test_samples_object_with_inner_map_index():
    maps = loaded("legacy_samples").maps
    assert shape(maps["b_outer"].inner) == ("HASH", 4, 8, 2, 0)
    assert maps["c_near"].pinning == 0 and maps["c_near"].elf_id == 0  # the last word is a NUMA node here


def legacy(words: list[list[int]], sections: tuple[str, ...] = ("classifier",), padding: int = 0, name: str = "maps") -> ElfWriter:
    elf = ElfWriter()
    data = b"".join(struct.pack(f"<{len(row)}I", *row) + bytes(padding) for row in words)
    for section in sections:
        elf.code(section)
    maps = elf.section(name, data)
    for index in range(len(words)):
        elf.symbol(f"m{index}", maps, index * (len(data) // len(words)), kind=OBJECT)
    return elf


HASH, ARRAY, PROG_ARRAY, ARRAY_OF_MAPS = [1, 4, 8, 16], [2, 4, 4, 5], [3, 4, 4, 5], [12, 4, 4, 5]


@pytest.mark.parametrize(
    ("words", "sections", "flags", "elf_id", "pinning"),
    [
        (HASH, ("tc",), 0, 0, 0),
        ([*HASH, 1], ("tc",), 1, 0, 0),  # libbpf, 20 bytes: flags
        ([*PROG_ARRAY, 7], ("tc", "7/0"), 0, 7, 0),  # iproute2 2015-04: id, told by the section 7/0
        ([*PROG_ARRAY, 7, 0], ("tc", "7/0"), 0, 7, 0),  # iproute2 2015-11
        ([*HASH, 3, 2], ("tc",), 0, 3, 2),  # iproute2 2015-11, told by the pinning
        ([*HASH, 1, 0], ("tc",), 1, 0, 0),  # samples of 4.12: flags, inner_map_idx
        ([*HASH, 1, 5, 2], ("tc",), 1, 5, 2),  # iproute2 2016
        ([*HASH, 4, 0, 1], ("xdp",), 4, 0, 0),  # samples of 4.14: BPF_F_NUMA_NODE explains the last word
        ([*HASH, 1, 5, 6, 0, 0], ("tc",), 1, 5, 6),  # iproute2 2017, custom pinning id 6
        ([*HASH, 1, 2] + [0] * 64, ("tc",), 1, 0, 2),  # gobpf, 280 bytes
        ([*HASH, 1] + [0] * 6, ("tc",), 1, 0, 0),  # libbpf: longer, but zero
    ],
)
def test_legacy_layout_is_told_by_size_and_content(words, sections, flags, elf_id, pinning):
    (spec,) = load_object(legacy([words], sections).to_bytes()).maps.values()
    assert (spec.flags, spec.elf_id, spec.pinning) == (flags, elf_id, pinning)
    assert [spec.type, spec.key_size, spec.value_size, spec.max_entries] == words[:4]


def test_samples_layout_points_to_its_inner_map_by_index():
    maps = load_object(legacy([[*HASH, 0, 0, 0], [*ARRAY, 0, 0, 0], [*ARRAY_OF_MAPS, 0, 1, 0]]).to_bytes()).maps
    assert maps["m2"].inner.type == MapType.ARRAY


@pytest.mark.parametrize(
    ("elf", "message"),
    [
        (legacy([[1, 4, 8]]), "map 'm0' has 12 bytes, a map definition has at least 16"),
        (legacy([[*HASH, 0, 1, 2, 3, 4, 5, 6]]), "map 'm0' is a definition of 44 bytes in an unknown layout"),
        (legacy([[*ARRAY_OF_MAPS, 0, 0, 0, 9, 0]]), "map 'm0' wants the map of id 9 as its inner map; there is none"),
        (legacy([[*ARRAY_OF_MAPS, 0, 5, 0]]), "map 'm0' wants the map of id 0|number 5"),
    ],
)
def test_broken_legacy_map_is_refused(elf, message):
    with pytest.raises(ObjectError, match="section 'maps': " + message):
        load_object(elf.to_bytes())


def test_map_symbol_past_its_section_is_refused():
    elf = legacy([HASH])
    elf.symbol("far", 2, 4096, kind=OBJECT)
    with pytest.raises(ObjectError, match="section 'maps': map 'far' at 0x1000 lies past"):
        load_object(elf.to_bytes())


def test_section_per_map_without_symbols_is_named_by_the_section():
    elf = ElfWriter()
    elf.code("xdp")
    elf.section("maps/packets", struct.pack("<5I", *HASH, 1))
    assert shape(load_object(elf.to_bytes()).maps["packets"]) == ("HASH", 4, 8, 16, 1)


@pytest.mark.parametrize("section", ["maps", "maps/m0", "lirc_mode2/maps"])
def test_sections_that_hold_legacy_maps(section):
    (spec,) = load_object(legacy([[*HASH, 0, 0, 0]], name=section).to_bytes()).maps.values()
    assert (spec.name, shape(spec), spec.section) == ("m0", ("HASH", 4, 8, 16, 0), section)


def test_legacy_maps_open_beside_broken_btf():
    elf = legacy([HASH])
    elf.section(".BTF", b"\x9f\xeb\x01" + bytes(40), flags=0)
    spec = load_object(elf.to_bytes())
    assert shape(spec.maps["m0"]) == ("HASH", 4, 8, 16, 0) and spec.btf is None
    assert ".BTF" in spec.warnings[0]


@pytest.mark.parametrize(
    ("name", "shape_", "data", "frozen"),
    [
        ("data_sec.data", ("ARRAY", 4, 4, 1, 0x400), struct.pack("<I", 42), False),
        ("data_sec.bss", ("ARRAY", 4, 4, 1, 0x400), bytes(4), False),
        ("data_sec.rodata", ("ARRAY", 4, 10, 1, 0x480), struct.pack("<I6s", 9, b"hello"), True),
        (".data.custom", ("ARRAY", 4, 4, 1, 0x400), struct.pack("<I", 5), False),
        (".data.hidden", ("ARRAY", 4, 4, 1, 0), struct.pack("<I", 6), False),  # only statics: not mmapable (libbpf)
        ("my_data", ("ARRAY", 4, 8, 1, 0x400), struct.pack("<Q", 77), False),  # no libbpf name, but code refers to it
        ("data_se.kconfig", ("ARRAY", 4, 8, 1, 0x480), struct.pack("<II", 0x060C00, 0), True),
    ],
)
def test_data_section_is_an_array_of_one(name, shape_, data, frozen):
    spec = loaded("data_sections").maps[name]
    assert (shape(spec), spec.data, spec.frozen) == (shape_, data, frozen)


def test_data_section_nobody_refers_to_is_left_out():
    assert "not_referenced" not in loaded("data_sections").maps


def test_data_section_is_typed_by_its_datasec():
    spec = loaded("data_sections").maps["data_sec.rodata"]
    table = spec.btf.type(spec.btf_value_type_id)
    assert (table.name, table.size) == (".rodata", 10)
    assert [(spec.btf.type(row.type).name, row.offset) for row in table.variables] == [("limit", 0), ("message", 4)]
