"""The real kernel, where bpf(2) is permitted: live maps and programs of Linux made from the same specs that our engine gets.

    ObjectSpec --load_object()--> KernelProgram -- .maps --> {name: KernelMap}
                                        `- .run(packet) -> RunResult

A KernelMap or KernelProgram owns file descriptors; closing it (or leaving `with`) gives everything back to the kernel, and nothing is ever
pinned or attached. `kernel_available()` tells whether this process may ask.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, Sequence

from shmbpf.testing import bpf_syscall as sys_bpf
from shmbpf.testing.kernel_btf import loadable_btf

_PERCPU_TYPES = frozenset((5, 6, 10, 21))  #: PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE
_PROG_ARRAY = 3
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE, _PSEUDO_FUNC = 1, 2, 4
_LD_IMM64 = 0x18
#: BTF types the kernel looks for in a value (kernel/bpf/btf.c, btf_get_field_type()); only maps with one of these need BTF to work.
_SPECIAL_FIELDS = (b"bpf_spin_lock", b"bpf_res_spin_lock", b"bpf_timer", b"bpf_wq", b"bpf_list_head", b"bpf_rb_root")


@functools.lru_cache(maxsize=None)
def kernel_available() -> bool:
    """True when this process may create maps, load and run programs."""
    try:
        os.close(sys_bpf.map_create(2, 4, 4, 1))
        with KernelProgram.from_insns(6, bytes.fromhex("b700000002000000" "9500000000000000")) as program:
            return program.run(bytes(64)).retval == 2
    except OSError:
        return False


def possible_cpus() -> int:
    """How many slots a per-CPU value has: the highest possible CPU plus one."""
    return max(int(number) for number in re.findall(r"\d+", Path("/sys/devices/system/cpu/possible").read_text())) + 1


@contextlib.contextmanager
def pinned_to_cpu(cpu: int) -> Iterator[None]:
    """The calling thread runs on `cpu` only; afterwards where it was allowed before."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class KernelMap:
    """A map in the kernel, reachable by bytes. Every refusal is an OSError with the kernel's errno.

    Values of per-CPU maps are the whole buffer bpf(2) uses: `possible_cpus()` copies, each rounded up to 8 bytes.
    """

    def __init__(self, type: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, *, name: str = "", map_extra: int = 0,
                 inner: KernelMap | None = None, btf: tuple[int, int, int] = (0, 0, 0)):  # fmt: skip
        self.fd = sys_bpf.map_create(
            type, key_size, value_size, max_entries, flags,
            inner_fd=inner.fd if inner else 0, name=name, map_extra=map_extra, btf=btf,
        )  # fmt: skip
        self.type, self.key_size, self.value_size, self.max_entries = type, key_size, value_size, max_entries
        self.name = name

    @property
    def is_percpu(self) -> bool:
        return self.type in _PERCPU_TYPES

    @property
    def value_bytes(self) -> int:
        """Bytes of one value as bpf(2) transfers it."""
        return -(-self.value_size // 8) * 8 * possible_cpus() if self.is_percpu else self.value_size

    @property
    def id(self) -> int:
        return struct.unpack_from("=I", sys_bpf.info_by_fd(self.fd), 4)[0]

    def pin(self, path: str) -> None:
        """Pins it on a bpffs."""
        sys_bpf.obj_pin(self.fd, path)

    @staticmethod
    def get_pinned(path: str) -> None:
        """Asks for what is pinned there, and lets it go again."""
        os.close(sys_bpf.obj_get(path))

    def lookup(self, key: bytes | None, flags: int = 0) -> bytes:
        return sys_bpf.element(sys_bpf.MAP_LOOKUP, self.fd, key, flags=flags, out_bytes=self.value_bytes)

    def lookup_and_delete(self, key: bytes | None, flags: int = 0) -> bytes:
        return sys_bpf.element(sys_bpf.MAP_LOOKUP_AND_DELETE, self.fd, key, flags=flags, out_bytes=self.value_bytes)

    def update(self, key: bytes | None, value: bytes | None, flags: int = 0) -> None:
        if value is not None and len(value) != self.value_bytes:
            raise ValueError(f"map {self.name or self.fd}: a value has {self.value_bytes} bytes, got {len(value)}")
        sys_bpf.element(sys_bpf.MAP_UPDATE, self.fd, key, value, flags)

    def delete(self, key: bytes | None) -> None:
        sys_bpf.element(sys_bpf.MAP_DELETE, self.fd, key)

    def next_key(self, key: bytes | None) -> bytes:
        """The key behind `key`; the first one for None or a key that is not there; ENOENT at the end."""
        return sys_bpf.element(sys_bpf.MAP_NEXT_KEY, self.fd, key, out_bytes=self.key_size)

    def freeze(self) -> None:
        sys_bpf.map_freeze(self.fd)

    def lookup_batch(self, count: int, in_batch: bytes | None = None, *, delete: bool = False, elem_flags: int = 0
                     ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:  # fmt: skip
        """Returns (errno or 0, elements delivered, out_batch)."""
        cmd = sys_bpf.LOOKUP_AND_DELETE_BATCH if delete else sys_bpf.LOOKUP_BATCH
        number, done, keys, values, out_batch = sys_bpf.batch(
            cmd, self.fd, count, count * self.key_size, count * self.value_bytes,
            in_batch=in_batch, out_batch_bytes=max(self.key_size, 4), elem_flags=elem_flags,
        )  # fmt: skip
        # a refused call leaves `count` as it was given, with nothing delivered
        done = done if number in (0, errno.ENOENT, errno.ENOSPC) else 0
        pairs = zip(_split(keys, self.key_size, done), _split(values, self.value_bytes, done))
        return number, list(pairs), out_batch

    def update_batch(self, elements: list[tuple[bytes, bytes]], *, elem_flags: int = 0) -> tuple[int, int]:
        """Returns (errno or 0, count as the kernel left it)."""
        keys, values = b"".join(k for k, _ in elements), b"".join(v for _, v in elements)
        return sys_bpf.batch(sys_bpf.UPDATE_BATCH, self.fd, len(elements), keys, values, elem_flags=elem_flags)[:2]

    def delete_batch(self, keys: list[bytes], *, elem_flags: int = 0) -> tuple[int, int]:
        """Returns (errno or 0, count as the kernel left it)."""
        return sys_bpf.batch(sys_bpf.DELETE_BATCH, self.fd, len(keys), b"".join(keys), elem_flags=elem_flags)[:2]

    def keys(self) -> Iterator[bytes]:
        """Every key in the kernel's order."""
        key = None
        while True:
            try:
                key = self.next_key(key)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            yield key

    def contents(self) -> dict[bytes, bytes]:
        """All elements. Empty slots of program arrays and maps in maps have a key and no value: they are left out."""
        found = {}
        for key in self.keys():
            try:
                found[key] = self.lookup(key)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        return found

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> KernelMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _split(data: bytes, size: int, count: int) -> list[bytes]:
    return [data[i * size : (i + 1) * size] for i in range(count)]


@dataclass(frozen=True)
class RunResult:
    """What BPF_PROG_TEST_RUN gave: `retval` is unsigned 32-bit, `duration_ns` the mean of the repeats."""

    retval: int
    data: bytes
    ctx: bytes
    duration_ns: int


class KernelProgram:
    """A program in the kernel with the maps and tail-call targets it keeps alive."""

    def __init__(self, fd: int, type: int, name: str, maps: Mapping[str, KernelMap], owned: contextlib.ExitStack):
        self.fd, self.type, self.name = fd, type, name
        self.maps = maps  #: by the spec's names
        self._owned = owned

    @classmethod
    def from_insns(cls, type: int, insns: bytes, *, license: str = "GPL", name: str = "", expected_attach_type: int = 0, flags: int = 0
                   ) -> KernelProgram:  # fmt: skip
        """Load bare instructions; maps are already in them as fds and stay the caller's."""
        fd = sys_bpf.prog_load(type, insns, license=license, name=name, expected_attach_type=expected_attach_type, flags=flags)
        owned = contextlib.ExitStack()
        owned.callback(os.close, fd)
        return cls(fd, type, name, {}, owned)

    def run(self, data: bytes, *, ctx: bytes = b"", ctx_out_bytes: int = 0, repeat: int = 1, cpu: int | None = None) -> RunResult:
        """Run over one packet, in this thread (on `cpu` when given). With `repeat` the packet is not reset in between."""
        with pinned_to_cpu(cpu) if cpu is not None else contextlib.nullcontext():
            return RunResult(*sys_bpf.prog_test_run(self.fd, data, ctx=ctx, ctx_out_bytes=ctx_out_bytes, repeat=repeat))

    @property
    def id(self) -> int:
        return struct.unpack_from("=I", sys_bpf.info_by_fd(self.fd), 4)[0]

    def close(self) -> None:
        self._owned.close()
        self.fd = -1

    def __enter__(self) -> KernelProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_object(spec: object, program_name: str, *, type: int = 0) -> KernelProgram:
    """Load one program of a `shmbpf.spec.ObjectSpec` with all it needs: maps filled and frozen, program arrays and inner maps in place.

    Only the maps that the program or one of its tail-call targets names exist in `.maps`. `type` is for programs whose section does not tell.
    Raises OSError (VerifierError with the log when the program is refused).
    """
    return _ObjectLoader(spec, type).load(program_name)


def load_programs(spec: object, names: Sequence[str]) -> dict[str, KernelProgram]:
    """Several programs of an object over the same maps. They are given back to the kernel together, with the first one that is closed."""
    loader = _ObjectLoader(spec, 0)
    return {name: loader.load(name) for name in names}


class _ObjectLoader:
    """The state of one load_object(): what has been made so far, and the stack that undoes it."""

    def __init__(self, spec: object, type: int):
        self.spec, self.type = spec, type
        self.owned = contextlib.ExitStack()
        self.maps: dict[str, KernelMap] = {}
        self.programs: dict[str, int] = {}
        self.btf_fd = 0

    def load(self, program_name: str) -> KernelProgram:
        entry = self.spec.programs[program_name]
        self.type = self.type or entry.type
        try:
            self._load_program(program_name)
        except BaseException:
            self.owned.close()
            raise
        return KernelProgram(self.programs[program_name], self.type, program_name, self.maps, self.owned)

    def _load_program(self, name: str) -> int:
        if name in self.programs:
            return self.programs[name]
        program = self.spec.programs[name]
        new_maps = [self._make_map(ref.map) for ref in program.map_refs if ref.map not in self.maps]
        func_info = _func_info(program)
        fd = sys_bpf.prog_load(
            program.type or self.type, self._with_fds(program), license=program.license, name=program.name,
            expected_attach_type=program.expected_attach_type, flags=program.flags,
            btf_fd=self._btf() if func_info else 0, func_info=func_info,
        )  # fmt: skip
        self.owned.callback(os.close, fd)
        self.programs[name] = fd
        # Only now: a target may jump back to this program, and the first one stored decides the array's type.
        for map_name in dict.fromkeys(m for m in new_maps if m):
            self._fill_program_array(map_name)
        return fd

    def _with_fds(self, program: object) -> bytes:
        insns = bytearray(program.insns)
        for ref in program.map_refs:
            at = ref.insn * 8
            if insns[at] != _LD_IMM64:
                raise AssertionError(f"{program.name}: instruction {ref.insn} refers to map {ref.map} and is no ld_imm64")
            source = _PSEUDO_MAP_FD if ref.value_offset is None else _PSEUDO_MAP_VALUE
            insns[at + 1] = insns[at + 1] & 0x0F | source << 4
            struct.pack_into("<i", insns, at + 4, self.maps[ref.map].fd)
            struct.pack_into("<I", insns, at + 12, ref.value_offset or 0)
        return bytes(insns)

    def _make_map(self, name: str) -> str | None:
        """Create and fill one map; returns its name when it still needs programs. A map already made needs nothing."""
        if name in self.maps:
            return None
        spec = self.spec.maps[name]
        inner = self._new(spec.inner) if spec.inner else None
        made = self.maps[name] = self._new(spec, inner)
        if spec.data is not None:
            made.update(bytes(4), spec.data.ljust(spec.value_size, b"\0"))
        if spec.frozen:
            made.freeze()
        for slot, (kind, target) in spec.slots.items():
            if kind == "map":
                self._make_map(target)
                made.update(struct.pack("=I", slot), struct.pack("=i", self.maps[target].fd))
        return name if spec.type == _PROG_ARRAY else None

    def _new(self, spec: object, inner: KernelMap | None = None) -> KernelMap:
        made = KernelMap(
            spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags,
            name=spec.name, map_extra=spec.map_extra, inner=inner, btf=self._map_btf(spec),
        )  # fmt: skip
        self.owned.callback(made.close)
        return made

    def _fill_program_array(self, name: str) -> None:
        spec = self.spec.maps[name]
        targets = {slot: target for slot, (kind, target) in spec.slots.items() if kind == "prog"}
        for program in self.spec.programs.values():
            if spec.elf_id and program.tail_slot and program.tail_slot[0] == spec.elf_id:
                targets[program.tail_slot[1]] = program.name
        for slot, target in targets.items():
            self.maps[name].update(struct.pack("=I", slot), struct.pack("=i", self._load_program(target)))

    def _map_btf(self, spec: object) -> tuple[int, int, int]:
        if spec.btf is None or not spec.btf_value_type_id or spec.is_internal:
            return 0, 0, 0
        if not any(field in spec.btf.to_bytes() for field in _SPECIAL_FIELDS):
            return 0, 0, 0
        return self._btf(), spec.btf_key_type_id, spec.btf_value_type_id

    def _btf(self) -> int:
        if not self.btf_fd:
            self.btf_fd = sys_bpf.btf_load(loadable_btf(self.spec.btf.to_bytes()))
            self.owned.callback(os.close, self.btf_fd)
        return self.btf_fd


def _func_info(program: object) -> bytes:
    """struct bpf_func_info[] when the program takes a subprogram's address, else nothing.

    Only callbacks need it (Linux v6.12 kernel/bpf/verifier.c, check_ld_imm(): "missing btf func_info"). Without it every subprogram is
    verified as a static one, in its callers' state, which is what makes objects without usable BTF load.
    """
    insns = program.insns
    takes_address = any(insns[at] == _LD_IMM64 and insns[at + 1] >> 4 == _PSEUDO_FUNC for at in range(0, len(insns), 8))
    return b"".join(struct.pack("=2I", f.insn, f.type_id) for f in program.funcs) if takes_address else b""
