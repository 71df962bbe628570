"""A loaded program: its immutable segment, made from a ProgramSpec, or opened by id."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Mapping

from shmbpf._ffi import ffi, lib
from shmbpf.elf.btf import Btf
from shmbpf.elf.btf_c import prototype
from shmbpf.errors import LoadError
from shmbpf.maps.map import Map
from shmbpf.shm.live import Handle, owned, take_away
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment
from shmbpf.spec import MapRef, ProgramSpec
from shmbpf.uapi import Hook, MapType, ProgType, prog_type_word

_INSN = struct.Struct("<BBhi")


class Registry:
    """This process's table of opened maps and programs (`struct vm_registry`), for checking and running programs."""

    def __init__(self, namespace: Namespace):
        self.namespace = namespace
        self._client = namespace.client  # C keeps the pointer: it must stay valid as long as the registry
        self.pointer = lib.vm_registry_new(namespace.prefix.encode(), self._client)
        if self.pointer == ffi.NULL:
            raise MemoryError("vm_registry_new")

    def program(self, number: int):
        """`struct vm_prog *` of a program id. Raises LoadError saying why it cannot be run."""
        error = ffi.new("struct vm_error *")
        prog = lib.vm_registry_prog(self.pointer, number, error)
        if prog == ffi.NULL:
            raise LoadError(ffi.string(error.text).decode(errors="replace"))
        return prog

    def close(self) -> None:
        """Closes everything it has opened. Idempotent."""
        if self.pointer != ffi.NULL:
            lib.vm_registry_free(self.pointer)
            self.pointer = ffi.NULL
            del self._client

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class Program:
    """A program of a namespace. The object keeps it (and nothing else) alive until `close()`; looking into its segment then raises ClosedError."""

    image = Handle()

    def __init__(self, namespace: Namespace, segment: Segment):
        self.namespace = namespace
        image = ffi.new("struct prog_image *")
        if lib.prog_image_of(image, segment.base, segment.bytes):
            segment.close()
            raise LoadError(f"{segment.name}: the program's segment is damaged")
        self.image = owned(image, segment.close)
        ctl = self.image.ctl
        self.id: int = ctl.head.id
        self.type = ProgType(ctl.head.type)
        self.hook = Hook(lib.vm_hook_of(self.type))
        self.name: str = ffi.string(ctl.head.name, 16).decode(errors="replace")
        self.tag = bytes(ffi.buffer(ctl.tag)).hex()
        self.gpl_compatible = bool(ctl.gpl)

    @classmethod
    def create(
        cls, namespace: Namespace, spec: ProgramSpec, maps: Mapping[str, Map], registry: Registry, *, btf: Btf | None = None, btf_id: int = 0
    ) -> Program:
        """Checks and publishes a program whose map references are resolved by name in `maps`. `btf` are its object's types, `btf_id` their number.

        Raises LoadError as the kernel would refuse it: unknown helper, bad instruction, GPL-only helper, map of the wrong type.
        """
        if lib.vm_hook_of(spec.type) == lib.VM_HOOK_NONE:
            raise LoadError(_no_such_type(spec))
        insns = link_maps(spec, maps)
        map_ids = sorted({maps[ref.map].id for ref in spec.map_refs})
        strings = _Strings()
        lines = [(line.insn, strings.add(line.file), line.line, strings.add(line.text)) for line in spec.lines]
        protos = [prototype(btf, func.type_id) if btf is not None and func.type_id else "" for func in spec.funcs]
        funcs = [(func.insn, strings.add(func.name), func.type_id, strings.add(proto)) for func, proto in zip(spec.funcs, protos, strict=True)]
        size = lib.prog_segment_bytes(len(insns) // 8, len(map_ids), len(lines), len(funcs), len(strings.blob))
        if not size:
            raise LoadError(f"program {spec.name!r}: {len(insns) // 8} instructions and {len(map_ids)} maps are beyond the limits ({lib.PROG_MAX_INSNS}, {lib.PROG_MAX_MAPS})")

        def fill(segment: Segment, number: int) -> None:
            ctl = lib.prog_ctl_of(segment.base, segment.bytes)
            ctl.insn_cnt, ctl.map_cnt, ctl.line_cnt, ctl.func_cnt = len(insns) // 8, len(map_ids), len(lines), len(funcs)
            ctl.strings_bytes = len(strings.blob)
            ctl.attach_type, ctl.gpl, ctl.flags = spec.expected_attach_type, spec.gpl_compatible, spec.flags
            ctl.btf_id = btf_id if any(protos) else 0
            ctl.load_time_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            ffi.memmove(ctl.tag, program_tag(spec.insns), 8)
            head = ctl.head
            head.kind, head.type, head.id, head.ncpu, head.bytes = lib.SHM_KIND_PROG, spec.type, number, namespace.possible_cpus, segment.bytes
            head.name = spec.name.encode()[:15]
            _fill_tables(segment, insns, map_ids, lines, funcs, bytes(strings.blob))
            _check(segment, spec, registry)
            _own_arrays(spec, maps)
            for map_id in map_ids:
                namespace.hold(f"prog.{number}", f"map.{map_id}")
            lib.shm_publish(ffi.addressof(ctl, "head"))

        segment, _ = namespace.create_segment("prog", size, fill)
        return cls(namespace, segment)

    @classmethod
    def open(cls, namespace: Namespace, number: int) -> Program:
        """The program with this id. Raises LoadError when there is none."""
        try:
            return cls(namespace, namespace.open_segment("prog", number))
        except FileNotFoundError:
            raise LoadError(f"namespace {namespace.name!r} has no program with id {number} (shmbpf prog show lists them)") from None

    @property
    def map_ids(self) -> list[int]:
        """Ids of the maps the program refers to."""
        image = self.image
        return [image.map_ids[i] for i in range(image.map_cnt)]

    @property
    def insns(self) -> bytes:
        """`struct bpf_insn[]`, with map ids in its map loads."""
        image = self.image
        return bytes(ffi.buffer(image.insns, image.insn_cnt * 8))

    def source_line(self, insn: int) -> tuple[str, int, str] | None:
        """(file, line, text) of an instruction, or None without line information."""
        found, image = None, self.image
        for i in range(image.line_cnt):
            if image.lines[i].insn > insn:
                break
            found = image.lines[i]
        return None if found is None else (self.string(found.file), found.line, self.string(found.text))

    def string(self, offset: int) -> str:
        """A text of the program's string table; '' past its end."""
        image = self.image
        if offset >= image.strings_bytes:
            return ""
        return ffi.string(image.strings + offset, image.strings_bytes - offset).decode(errors="replace")

    def close(self) -> None:
        """Lets go of the program. Idempotent."""
        take_away(self, "image")

    def closed_text(self) -> str:
        """What using it after its end is answered with."""
        return f"program {self.name!r} is closed (it, its object or its runtime): load it again to use it"

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{prog_type_word(self.type)} program {self.name!r} id {self.id}>"


def program_tag(insns: bytes) -> bytes:
    """The kernel's tag (Linux v6.18 kernel/bpf/core.c, bpf_prog_calc_tag()): SHA-256 over the instructions, both immediates of map loads zeroed."""
    code = bytearray(insns)
    for at in range(0, len(code) - 8, 8):
        if code[at] == 0x18 and code[at + 1] >> 4 in (lib.BPF_PSEUDO_MAP_FD, lib.BPF_PSEUDO_MAP_VALUE):
            code[at + 4:at + 8] = code[at + 12:at + 16] = bytes(4)
    return hashlib.sha256(code).digest()[:8]


def link_maps(spec: ProgramSpec, maps: Mapping[str, Map]) -> bytes:
    """The program's instructions with map ids in their ld_imm64 (and value offsets in the second slot)."""
    code = bytearray(spec.insns)
    for ref in spec.map_refs:
        _patch(code, ref, maps[ref.map].id)
    return bytes(code)


def _patch(code: bytearray, ref: MapRef, number: int) -> None:
    opcode, regs, off, _ = _INSN.unpack_from(code, ref.insn * 8)
    pseudo = lib.BPF_PSEUDO_MAP_FD if ref.value_offset is None else lib.BPF_PSEUDO_MAP_VALUE
    _INSN.pack_into(code, ref.insn * 8, opcode, regs & 0x0F | pseudo << 4, off, number)
    struct.pack_into("<i", code, ref.insn * 8 + 12, ref.value_offset or 0)


class _Strings:
    """A string table under construction; equal strings share a place."""

    def __init__(self) -> None:
        self.blob = bytearray(b"\0")
        self._places = {"": 0}

    def add(self, text: str) -> int:
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self.blob)
            self.blob += text.encode().replace(b"\0", b"?") + b"\0"
        return place


def _fill_tables(segment: Segment, insns: bytes, map_ids: list[int], lines: list, funcs: list, strings: bytes) -> None:
    image = ffi.new("struct prog_image *")
    err = lib.prog_image_of(image, segment.base, segment.bytes)
    if err:
        raise LoadError(f"{segment.name}: a segment of {segment.bytes} bytes does not fit its own counts")
    tables = ((image.insns, insns), (image.map_ids, struct.pack(f"<{len(map_ids)}I", *map_ids)), (image.strings, strings))
    rows = ((image.lines, lines), (image.funcs, funcs))
    for place, content in tables + tuple((place, b"".join(struct.pack("<4I", *row) for row in table)) for place, table in rows):
        ffi.memmove(ffi.cast("uint8_t *", place), content, len(content))


def _check(segment: Segment, spec: ProgramSpec, registry: Registry) -> None:
    image, error = ffi.new("struct prog_image *"), ffi.new("struct vm_error *")
    lib.prog_image_of(image, segment.base, segment.bytes)
    prog = lib.vm_prog_new(registry.pointer, image, error)
    if prog == ffi.NULL:
        raise LoadError(f"program {spec.name!r} (section {spec.section!r}), {_place(spec, error.insn)}: {ffi.string(error.text).decode(errors='replace')}")
    lib.vm_prog_free(prog)


def _own_arrays(spec: ProgramSpec, maps: Mapping[str, Map]) -> None:
    """Program arrays that the program may call through are for programs of its type from now on, as in Linux."""
    for name in sorted({ref.map for ref in spec.map_refs}):
        if maps[name].type == MapType.PROG_ARRAY and lib.prog_array_own(maps[name].handle, spec.type, spec.expected_attach_type):
            raise LoadError(f"program {spec.name!r} (section {spec.section!r}) uses map {name!r}, which belongs to programs of another type")


def _place(spec: ProgramSpec, insn: int) -> str:
    line = next((line for line in reversed(spec.lines) if line.insn <= insn), None)
    return f"instruction {insn}" + (f" ({line.file}:{line.line})" if line else "")


def _no_such_type(spec: ProgramSpec) -> str:
    if spec.type == ProgType.UNSPEC:
        return f"program {spec.name!r}: section {spec.section!r} does not tell its type: give it with --type (xdp, tc, action, socket)"
    return f"program {spec.name!r} (section {spec.section!r}): program type {prog_type_word(spec.type)} does not run here (shmbpf feature lists those that do)"
