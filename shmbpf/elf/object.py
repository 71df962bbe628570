"""One object file, from bytes to an ObjectSpec.

    container -> BTF -> code map -> maps (.maps | maps, maps/* | data | kconfig) -> linked programs -> slots -> types of unnamed kinds

What the object does not strictly need may be broken: it costs a warning. Everything else is an ObjectError.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Sequence

from shmbpf.elf.btf import Btf
from shmbpf.elf.btf_ext import BtfExt, parse_btf_ext
from shmbpf.elf.container import MAX_FILE, SHT_NOBITS, Container, Section, Symbol, open_container
from shmbpf.elf.data import is_data_section, read_data_maps
from shmbpf.elf.functions import CodeMap, Function, choose_programs
from shmbpf.elf.kconfig import read_kconfig
from shmbpf.elf.legacy_maps import is_legacy_section, read_legacy_maps
from shmbpf.elf.lines import LineTable
from shmbpf.elf.link import INSN_SIZE, LinkedProgram, Linker
from shmbpf.elf.maps import MAPS_SECTION, MapDefinition, fill_slots, read_btf_maps
from shmbpf.elf.sections import parse_tail_slot, read_section_name
from shmbpf.elf.tail_calls import join_tail_slots, spread_types
from shmbpf.errors import BtfError, ObjectError
from shmbpf.spec import FuncInfo, LineInfo, MapSpec, ObjectSpec, ProgramSpec

MAX_LICENSE = 128
MAX_PROGRAMS = 10_000


def load_object(source: str | os.PathLike[str] | bytes, *, name: str | None = None, program_type: int | None = None) -> ObjectSpec:
    """Everything the object file `source` (a path, or its bytes) declares: maps, linked programs, license.

    `name` overrides the object's name (default: the file name up to its first dot; data sections' maps carry it). `program_type` is used for
    programs whose section name does not tell their type. Raises ObjectError (one line: file, section, symbol, reason); OSError for a file that
    cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        path, data = name or "object", bytes(source)
    else:
        path = os.fspath(source)
        data = _read_file(path)
    container = open_container(data, path)
    spec = _Loader(container, path, name or Path(path).name.partition(".")[0], program_type).load()
    return replace(spec, digest=hashlib.sha1(data, usedforsecurity=False).hexdigest())


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE + 1)


class _Loader:
    """The steps of one load, sharing what they have found so far."""

    def __init__(self, container: Container, path: str, name: str, program_type: int | None):
        self._container = container
        self._path = path
        self._name = name
        self._program_type = program_type
        self._warnings: list[str] = []
        self._btf = self._read_btf()
        self._ext = self._read_btf_ext()
        self._code = CodeMap(container)
        self._maps: dict[tuple[int, int], MapDefinition] = {}  # map definitions by (section, offset)
        self._data: dict[int, MapDefinition] = {}  # data sections
        self._kconfig: tuple[MapSpec | None, dict[str, int]] = (None, {})
        self._function_types: dict[str, dict[int, int]] = {}  # section -> byte offset -> BTF FUNC
        self._linker = Linker(container, self._code, self._find_data, self._find_extern)

    def load(self) -> ObjectSpec:
        """Run all steps."""
        self._note_what_is_ignored()
        self._read_maps()
        license = self._read_license()
        programs = self._read_programs(license)
        definitions = [*self._maps.values(), *self._data.values()]
        join_tail_slots(definitions, programs.values())
        maps = [definition.finish() for definition in definitions] + ([self._kconfig[0]] if self._kconfig[0] else [])
        by_name: dict[str, MapSpec] = {}
        for spec in maps:
            if spec.name in by_name:
                raise self._container.fail(f"section {spec.section!r}: map {spec.name!r} exists already in section {by_name[spec.name].section!r}")
            by_name[spec.name] = spec
        programs = spread_types(programs, by_name)
        return ObjectSpec(
            self._path, self._name, MappingProxyType(by_name), MappingProxyType(programs), license, self._btf, tuple(self._warnings)
        )

    def _read_btf(self) -> Btf | None:
        section = self._container.find(".BTF")
        maps = self._container.find(MAPS_SECTION)
        needed = maps is not None and maps.size > 0
        if section is None or not section.size:
            if needed:
                raise self._container.fail(f"section {MAPS_SECTION!r} needs BTF and the object has none; compile with -g (and do not strip .BTF)")
            return None
        try:
            btf = Btf.from_bytes(self._relocate(section))
            return btf.with_section_sizes({found.name: found.size for found in self._container.sections if found.name})
        except ObjectError as exc:
            if needed:
                raise self._container.fail(f"section '.BTF': {exc}") from None
            self._warnings.append(f"section '.BTF' is ignored: {exc}")
            return None

    def _relocate(self, section: Section) -> bytearray:
        """Bytes of .BTF or .BTF.ext with their relocations applied: all are 32-bit words that symbol values are added to."""
        blob = bytearray(section.data)
        for relocation in self._container.relocations(section):
            at = relocation.offset
            if relocation.type == 0 or at + 4 > len(blob):
                continue
            addend = int.from_bytes(blob[at : at + 4], "little") if relocation.addend is None else relocation.addend
            blob[at : at + 4] = ((relocation.symbol.value + addend) & 0xFFFFFFFF).to_bytes(4, "little")
        return blob

    def _read_btf_ext(self) -> BtfExt:
        section = self._container.find(".BTF.ext")
        if section is None or self._btf is None or section.type == SHT_NOBITS:
            return BtfExt()
        try:
            return parse_btf_ext(bytes(self._relocate(section)), self._btf)
        except ObjectError as exc:
            self._warnings.append(f"section '.BTF.ext' is ignored, there will be no source lines: {exc}")
            return BtfExt()

    def _note_what_is_ignored(self) -> None:
        for section in self._container.sections:
            if section.name.startswith(".struct_ops") and section.size:
                self._warnings.append(f"section {section.name!r} is ignored: struct_ops maps need a kernel")
            elif is_data_section(section) and any(entry.type for entry in self._container.relocations(section)):
                self._warnings.append(f"section {section.name!r}: pointers in initialised data are not resolved (libbpf leaves them, too)")

    def _read_maps(self) -> None:
        tail_ids = {slot[0] for slot in (parse_tail_slot(section.name.removeprefix("?")) for section in self._code.sections) if slot}
        for section in self._container.sections:
            if not section.size or section.type == SHT_NOBITS:
                continue
            if section.name == MAPS_SECTION and self._btf is not None:
                self._add_maps(section, self._read_btf_maps(section, self._btf))
            elif is_legacy_section(section.name) and not section.is_code:
                self._add_maps(section, read_legacy_maps(self._container, section, self._btf, tail_ids))
        for definition in read_data_maps(self._container, self._name, self._btf, self._linker.referenced_sections()):
            self._data[definition.section.index] = definition
        undefined = {symbol.name: symbol for symbol in self._container.symbols if symbol.is_undefined and symbol.name}
        self._kconfig = read_kconfig(self._name, self._btf, undefined)

    def _read_btf_maps(self, section: Section, btf: Btf) -> list[MapDefinition]:
        try:
            return read_btf_maps(self._container, section, btf)
        except BtfError as exc:
            raise self._container.fail(f"section {section.name!r}: {exc}") from None

    def _add_maps(self, section: Section, definitions: Sequence[MapDefinition]) -> None:
        for definition in definitions:
            other = self._maps.setdefault((section.index, definition.offset), definition)
            if other is not definition:
                raise self._container.fail(f"section {section.name!r}: maps {other.spec.name!r} and {definition.spec.name!r} are at the same place")

    def _read_license(self) -> str:
        section = self._container.find("license")
        return bytes(section.data[:MAX_LICENSE]).partition(b"\0")[0].decode("ascii", "replace") if section else ""

    def _read_programs(self, license: str) -> dict[str, ProgramSpec]:
        entries = choose_programs(self._code, self._linker.called())
        if not entries:
            raise self._container.fail("no programs: no section has code; write C functions with SEC(\"xdp\") and compile with clang -target bpf")
        if len(entries) > MAX_PROGRAMS:
            raise self._container.fail(f"{len(entries)} programs; at most {MAX_PROGRAMS} are loaded")
        by_name: dict[str, Function] = {}
        for function in entries:  # two sections of one name, or two static functions: both can be reached
            name = function.name if function.name not in by_name else f"{function.name}#{function.section.index}:{function.start}"
            by_name[name] = function
        self._fill_slots({function: name for name, function in by_name.items()})
        return {name: self._make_program(name, function, license) for name, function in by_name.items()}

    def _fill_slots(self, names: dict[Function, str]) -> None:
        by_section: dict[int, list[MapDefinition]] = {}
        for definition in self._maps.values():
            by_section.setdefault(definition.section.index, []).append(definition)
        for index, definitions in by_section.items():
            section = self._container.sections[index]
            if section.name == MAPS_SECTION:
                fill_slots(self._container, section, definitions, self._map_at, lambda where, offset: self._program_at(names, where, offset))

    def _map_at(self, section_index: int, offset: int) -> str | None:
        found = self._maps.get((section_index, offset))
        return found.spec.name if found else None

    def _program_at(self, names: dict[Function, str], section_index: int, offset: int) -> str | None:
        found = self._code.find(section_index, offset // INSN_SIZE)
        return names.get(found[0]) if found and found[1] == 0 else None

    def _find_data(self, section_index: int, offset: int) -> tuple[str, int | None] | None:
        found = self._maps.get((section_index, offset))
        if found is not None:
            return found.spec.name, None
        data = self._data.get(section_index)
        return (data.spec.name, offset) if data and 0 <= offset <= data.size else None

    def _find_extern(self, symbol: Symbol) -> tuple[str, int] | None:
        spec, offsets = self._kconfig
        return (spec.name, offsets[symbol.name]) if spec and symbol.name in offsets else None

    def _make_program(self, name: str, function: Function, license: str) -> ProgramSpec:
        meaning = read_section_name(function.section.name, self._program_type)
        linked = self._linker.link(function)
        return ProgramSpec(
            name=name,
            section=function.section.name.removeprefix("?"),
            type=meaning.type,
            expected_attach_type=meaning.attach_type,
            insns=linked.insns,
            map_refs=linked.map_refs,
            lines=self._lines(linked),
            funcs=self._funcs(linked),
            license=license,
            autoload=meaning.autoload,
            tail_slot=meaning.tail_slot,
            flags=meaning.flags,
        )

    def _lines(self, linked: LinkedProgram) -> Sequence[LineInfo]:
        if self._btf is None:
            return ()
        table = LineTable(self._btf)
        for insn, function in linked.placed:
            start = function.start * INSN_SIZE
            table.add_function(insn, self._ext.lines.get(function.section.name, ()), start, start + function.count * INSN_SIZE)
        return table

    def _funcs(self, linked: LinkedProgram) -> tuple[FuncInfo, ...]:
        found = []
        for insn, function in linked.placed:
            section = function.section.name
            if section not in self._function_types:
                self._function_types[section] = {record.offset: record.type_id for record in self._ext.funcs.get(section, ())}
            found.append(FuncInfo(insn, function.name, self._function_types[section].get(function.start * INSN_SIZE, 0)))
        return tuple(found)
