"""What programs tell about each other through program arrays: slots by section name, and types that a name did not tell.

A tail call needs caller and target to be of one type (Linux kernel/bpf/core.c, bpf_prog_array_compatible()), so a program array passes the type
of any program on it to those whose section name says nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, Mapping

from shmbpf.elf.maps import MapDefinition
from shmbpf.spec import MapSpec, ProgramSpec
from shmbpf.uapi import MapType


def join_tail_slots(definitions: Iterable[MapDefinition], programs: Iterable[ProgramSpec]) -> None:
    """Enter programs of `<id>/<slot>` sections into the program array with that id (iproute2 lib/bpf_legacy.c, bpf_fill_prog_arrays())."""
    arrays = {found.spec.elf_id: found for found in definitions if found.spec.type == MapType.PROG_ARRAY and found.spec.section != ".maps"}
    for program in programs:
        if program.tail_slot and program.tail_slot[0] in arrays:
            arrays[program.tail_slot[0]].slots.setdefault(program.tail_slot[1], ("prog", program.name))


def spread_types(programs: Mapping[str, ProgramSpec], maps: Mapping[str, MapSpec]) -> dict[str, ProgramSpec]:
    """The programs, with types filled in where program arrays (or, for tail-call sections, the rest of the object) tell them."""
    groups = _groups(programs, maps)
    types = {name: program.type for name, program in programs.items()}
    changed = True
    while changed:
        changed = False
        for group in groups:
            known = {types[name] for name in group if types[name]}
            for name in group:
                if len(known) == 1 and not types[name]:
                    types[name], changed = next(iter(known)), True
    rest = {number for number in types.values() if number}
    for name, program in programs.items():
        if not types[name] and program.tail_slot and len(rest) == 1:
            types[name] = next(iter(rest))
    return {name: program if program.type == types[name] else replace(program, type=types[name]) for name, program in programs.items()}


def _groups(programs: Mapping[str, ProgramSpec], maps: Mapping[str, MapSpec]) -> list[set[str]]:
    """Per program array: the programs that use it and the programs in it."""
    groups: dict[str, set[str]] = {
        name: {target for kind, target in spec.slots.values() if kind == "prog"} for name, spec in maps.items() if spec.type == MapType.PROG_ARRAY
    }
    for program in programs.values():
        for name in {ref.map for ref in program.map_refs} & groups.keys():
            groups[name].add(program.name)
    return [group for group in groups.values() if len(group) > 1]
