"""A whole object made live: its maps created and filled, its programs checked and published, its tail calls wired."""

from __future__ import annotations

import struct
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import replace

from shmbpf._ffi import lib
from shmbpf.engine.program import Program, Registry
from shmbpf.errors import LoadError, ObjectError
from shmbpf.maps.map import Map, new_btf_id
from shmbpf.maps.pin import create_or_reuse, open_or_missing, pin_name, reuse, wanted_path
from shmbpf.shm.namespace import Namespace
from shmbpf.spec import MapSpec, ObjectSpec, ProgramSpec
from shmbpf.uapi import ANY, MapType, ProgType, prog_type_word


class LoadedObject:
    """The live maps and programs of an object, by name. Closing it lets go of all of them."""

    def __init__(self, spec: ObjectSpec):
        self.spec = spec
        self.name = spec.name
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, Program] = {}
        self.warnings: list[str] = list(spec.warnings)
        self.left_out: list[str] = []  #: why programs that nobody asked for by name are not here
        self._stack = ExitStack()

    def close(self) -> None:
        """Closes every map and program. Idempotent."""
        self._stack.close()

    def __enter__(self) -> LoadedObject:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def load_spec(
    namespace: Namespace, spec: ObjectSpec, *, only: Collection[str] | None = None, program_type: int | None = None, with_others: bool = False,
    use_maps: str | None = None,
) -> LoadedObject:
    """Creates the object's maps and loads its programs (`only` these and their tail-call targets, or all that can run here).

    `with_others` loads those that `only` leaves out as well, so that they can be put into program arrays; what cannot be loaded goes to `left_out`.

    Maps that the object wants pinned are opened where they are pinned already, or pinned there; `use_maps` is a directory of the pin tree whose maps stand in
    for the object's of the same name. Either must be what the object asks for.

    `program_type` stands in for a type that a section name does not tell. Raises ObjectError, LoadError, MapError or SpaceError; then nothing is left.
    """
    loaded = LoadedObject(spec)
    with ExitStack() as undo:
        undo.callback(loaded.close)
        btf_id = new_btf_id(namespace) if spec.btf is not None else 0
        for name, map_spec in spec.maps.items():
            map_, is_new = _open_or_create(namespace, spec, _sized(map_spec, namespace), use_maps, btf_id)
            loaded.maps[name] = loaded._stack.enter_context(map_)
            if is_new:
                _fill(map_, map_spec)
        chosen = _choose(spec, only, program_type, loaded.warnings)
        with Registry(namespace) as registry:
            for program_spec in chosen:
                program = Program.create(namespace, program_spec, loaded.maps, registry, btf=spec.btf, btf_id=btf_id)
                loaded.programs[program_spec.name] = loaded._stack.enter_context(program)
            for program_spec in _others(spec, chosen, program_type) if with_others else ():
                try:
                    program = Program.create(namespace, program_spec, loaded.maps, registry, btf=spec.btf, btf_id=btf_id)
                except LoadError as error:
                    loaded.left_out.append(str(error))
                else:
                    loaded.programs[program_spec.name] = loaded._stack.enter_context(program)
        _wire_tail_calls(loaded)
        undo.pop_all()
    return loaded


def _open_or_create(namespace: Namespace, owner: ObjectSpec, spec: MapSpec, use_maps: str | None, btf_id: int) -> tuple[Map, bool]:
    """One map of an object, and whether it is new. Read-only data is always the object's own."""
    if use_maps is not None and not spec.frozen:
        path = f"{use_maps}/{pin_name(spec.name)}"
        with suppress(FileNotFoundError):
            return reuse(open_or_missing(namespace, path), spec, path), False
    path = wanted_path(spec, owner.digest)
    return create_or_reuse(namespace, spec, path, btf_id) if path else (Map.create(namespace, spec, btf_id=btf_id), True)


def _sized(spec: MapSpec, namespace: Namespace) -> MapSpec:
    """With the number of entries that libbpf would ask for: a perf event array without one gets a slot for each possible CPU, a ring buffer's size is rounded up to a
    power of two of pages (libbpf's map_set_def_max_entries() and adjust_ringbuf_sz())."""
    if spec.type == MapType.PERF_EVENT_ARRAY and not spec.max_entries:
        return replace(spec, max_entries=namespace.fix_cpus(namespace.possible_cpus or None))
    if spec.type in (MapType.RINGBUF, MapType.USER_RINGBUF) and 0 < spec.max_entries <= 1 << 31:
        return replace(spec, max_entries=max(lib.SHM_PAGE, 1 << (spec.max_entries - 1).bit_length()))
    return spec


def _fill(map_: Map, spec: MapSpec) -> None:
    if spec.data is not None and spec.data.strip(b"\0"):
        map_.update(struct.pack("<I", 0), spec.data.ljust(map_.value_bytes, b"\0"), ANY)
    if spec.frozen:
        map_.freeze()


def _choose(spec: ObjectSpec, only: Collection[str] | None, program_type: int | None, warnings: list[str]) -> list[ProgramSpec]:
    """The programs to load, with their types settled."""
    for name in only or ():
        if name not in spec.programs:
            raise ObjectError(f"{spec.path}: no program named {name!r} (there are: {', '.join(spec.programs)})")
    targets = _tail_targets(spec)
    wanted = [program for name, program in spec.programs.items() if (name in only if only is not None else program.autoload) or name in targets]
    tail_type = _type_of_callers(wanted, targets, program_type)
    chosen = []
    for program in wanted:
        number = program.type or program_type or (tail_type if program.name in targets else 0)
        if lib.vm_hook_of(number) == lib.VM_HOOK_NONE and only is None and program.name not in targets:
            warnings.append(f"program {program.name!r} is left out: " + _why_left_out(program, number))
            continue
        chosen.append(replace(program, type=number))
    if not chosen:
        raise LoadError(f"{spec.path}: no program can run here. " + "; ".join(warnings or ["none is to be loaded (SEC(\"?...\"))"]))
    return chosen


def _others(spec: ObjectSpec, chosen: Collection[ProgramSpec], program_type: int | None) -> list[ProgramSpec]:
    """The rest of the programs that load by themselves and have a type that runs here."""
    names = {program.name for program in chosen}
    typed = (replace(program, type=program.type or program_type or 0) for program in spec.programs.values() if program.autoload and program.name not in names)
    return [program for program in typed if lib.vm_hook_of(program.type) != lib.VM_HOOK_NONE]


def _why_left_out(program: ProgramSpec, number: int) -> str:
    if number == ProgType.UNSPEC:
        return f"section {program.section!r} does not tell its type (--type)"
    return f"type {prog_type_word(number)} does not run here"


def _type_of_callers(wanted: list[ProgramSpec], targets: Collection[str], program_type: int | None) -> int:
    """Tail-call targets in `<id>/<slot>` sections have their callers' type."""
    return next((program.type for program in wanted if program.type and program.name not in targets), program_type or 0)


def _tail_targets(spec: ObjectSpec) -> set[str]:
    """Programs that are put into program arrays: by static initialisers (libbpf) or `<id>/<slot>` sections (iproute2)."""
    names = {target for map_spec in spec.maps.values() for kind, target in map_spec.slots.values() if kind == "prog"}
    return names | {program.name for program in spec.programs.values() if program.tail_slot is not None}


def _wire_tail_calls(loaded: LoadedObject) -> None:
    for name, spec in loaded.spec.maps.items():
        for slot, (kind, target) in spec.slots.items():
            if kind == "prog" and target in loaded.programs:
                _store(loaded.maps[name], slot, loaded.programs[target])


def _store(array: Map, slot: int, program: Program) -> None:
    array.update(struct.pack("<I", slot), struct.pack("<I", program.id), ANY)
