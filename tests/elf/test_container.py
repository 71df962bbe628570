"""What is not a BPF object is refused in one line that says why and what to do."""

from __future__ import annotations

import struct
import time

import pytest
from support.elf_writer import ALLOC, EXEC, EXIT, FUNC, NOBITS, ElfWriter

from shmbpf.elf import load_object
from shmbpf.elf.container import MAX_FILE, StringTable
from shmbpf.errors import ObjectError

from .objects import compiled


def tiny(**kwargs) -> ElfWriter:
    elf = ElfWriter(**kwargs)
    elf.symbol("p", elf.code("xdp"))
    return elf


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def test_minimal_object_loads():
    program = load_object(tiny().to_bytes()).programs["p"]
    assert (program.insns, program.type, program.license) == (EXIT, 6, "")


@pytest.mark.parametrize("machine", [0, 247])
def test_machine_none_and_bpf_are_both_bpf(machine):
    assert "p" in load_object(tiny(machine=machine).to_bytes()).programs


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF object .starts with nothing.*clang -target bpf"),
        (b"#!/bin/sh\n", "not an ELF object .starts with 23 21 2f 62"),
        (b"\x7fELF", "broken or truncated"),
        (tiny(machine=62).to_bytes(), "ELF for x86-64, not for BPF.*clang -target bpf"),
        (tiny(machine=183).to_bytes(), "ELF for aarch64"),
        (tiny(machine=9999).to_bytes(), "ELF for machine 9999"),
        (tiny(kind=2).to_bytes(), "ELF of type ET_EXEC, not a relocatable object"),
        (patched(tiny().to_bytes(), 5, b"\x02")[:18] + b"\x00\xf7" + bytes(44), "big-endian BPF; compile with .*bpfel"),
        (patched(tiny().to_bytes(), 40, bytes(8)), "no sections"),
        (patched(tiny().to_bytes(), 40, struct.pack("<Q", 1 << 40)), "truncated: section headers at 0x10000000000"),
        (patched(tiny().to_bytes(), 58, b"\x20\0"), "section headers of 32 bytes"),
        (tiny().to_bytes()[:-1], "truncated"),
        (ElfWriter().to_bytes(), "no programs: no section has code"),
    ],
)
def test_refused_with_reason(data, message):
    with pytest.raises(ObjectError, match="^object: .*" + message):
        load_object(data)


def test_an_object_of_this_machine_is_refused(tmp_path):
    with pytest.raises(ObjectError, match="/true: ELF (for|of type)"):
        load_object("/usr/bin/true")


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_object(tmp_path / "missing.o")


def test_file_names_the_object(tmp_path):
    path = tmp_path / "flow-stats.bpf.o"
    path.write_bytes(compiled("data_sections").read_bytes())
    spec = load_object(path)
    assert (spec.name, spec.path) == ("flow-stats", str(path))
    assert "flow_sta.rodata" in spec.maps  # bytes that a map's name cannot have become _


@pytest.mark.parametrize(
    ("value", "size", "message"),
    [(4, 8, "does not lie on instructions"), (0, 24, "does not lie on instructions"), (16, 0, "does not lie on"), (1 << 63, 8, "does not lie on")],
)
def test_function_outside_its_section_is_refused(value, size, message):
    elf = ElfWriter()
    elf.symbol("f", elf.code("xdp"), value, size)
    with pytest.raises(ObjectError, match=f"section 'xdp': function 'f' at .*{message}"):
        load_object(elf.to_bytes())


def test_code_of_odd_length_is_refused():
    elf = ElfWriter()
    elf.code("xdp", EXIT + b"\0")
    with pytest.raises(ObjectError, match="section 'xdp': 17 bytes of code, not a multiple of 8"):
        load_object(elf.to_bytes())


def test_symbol_in_a_section_that_does_not_exist_is_refused():
    elf = tiny()
    elf.symbol("lost", 77, kind=FUNC)
    with pytest.raises(ObjectError, match="symbol 'lost' is in section 77 of"):
        load_object(elf.to_bytes())


def test_relocation_outside_its_section_is_refused():
    elf = tiny()
    elf.relocate(1, 4096, 1, 1)
    with pytest.raises(ObjectError, match="relocation at 0x1000 is out of range of section 'xdp'"):
        load_object(elf.to_bytes())


def test_relocation_of_a_missing_symbol_is_refused():
    elf = tiny()
    elf.relocate(1, 0, 1000, 1)
    with pytest.raises(ObjectError, match="relocation at 0x0 names symbol 1000 of"):
        load_object(elf.to_bytes())


def test_oversized_file_is_refused():
    with pytest.raises(ObjectError, match=f"more than {MAX_FILE} bytes"):
        load_object(bytes(MAX_FILE + 1))


def test_oversized_bss_is_refused_before_it_is_allocated():
    elf = tiny()
    elf.section(".bss", flags=ALLOC, kind=NOBITS, size=1 << 40)
    with pytest.raises(ObjectError, match="data sections of 1099511627776 bytes"):
        load_object(elf.to_bytes())


def test_overlapping_sections_are_refused():
    data = bytearray(tiny().to_bytes())
    headers, = struct.unpack_from("<Q", data, 40)
    for index in (2, 3):
        struct.pack_into("<QQ", data, headers + 64 * index + 24, 0, len(data))
    with pytest.raises(ObjectError, match="sections overlap"):
        load_object(bytes(data))


def test_strings_inside_strings_do_not_multiply():
    table = StringTable(b"\0" + b"x" * 4000 + b"\0")
    with pytest.raises(ObjectError, match="overlap"):
        for offset in range(1, 4000):
            table.get(offset)


def test_many_programs_sharing_much_code_are_refused_quickly():
    elf = ElfWriter()
    text = elf.section(".text", EXIT * 60_000, ALLOC | EXEC)
    symbol = elf.symbol("shared", text)
    call = struct.pack("<BBhi", 0x85, 0x10, 0, -1) + EXIT
    index = elf.code("xdp", call * 2000)
    for number in range(2000):
        elf.symbol(f"p{number}", index, number * len(call))
        elf.relocate(index, number * len(call), symbol, 10)
    started = time.perf_counter()
    with pytest.raises(ObjectError, match="more than .* instructions"):
        load_object(elf.to_bytes())
    assert time.perf_counter() - started < 5
