"""Map operations called from C, u32 -> u64: hot maps of 1,024 entries and large ones of 2^20; one process and two; the kernel's from a program in a loop.

A turn of a large map is whole passes over all keys, after a pass that is not counted: both sides then meet the caches that they left themselves, and never a
part of the map that happens to be in them. Both sides' figures contain the turn of the loop that makes the key: where processors overlap operations it is no
amount that could be taken off.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from shmbpf._ffi import ffi, lib
from shmbpf.bench.crew import Crew
from shmbpf.bench.figures import Figure, Session, best_of, usable_cpus
from shmbpf.elf import load_object
from shmbpf.errors import ShmbpfError, SpaceError
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.spec import MapSpec, ObjectSpec
from shmbpf.testing import kernel as linux
from shmbpf.uapi import MapType, map_type_word

OBJECT = Path(__file__).with_name("maps.o")
HOT, LARGE = 1 << 10, 1 << 20
_LARGE_ROUNDS = 3
_KERNEL_BATCH = 1024  #: operations of one run of a program of maps.o
_ROOM = 1024  #: entries of a hash beyond those that are always there
_INDEXED, _HASHES = (MapType.ARRAY, MapType.PERCPU_ARRAY), (MapType.HASH, MapType.PERCPU_HASH)
_OPS = {"lookup": lib.BENCH_LOOKUP, "update": lib.BENCH_UPDATE, "insert_delete": lib.BENCH_INSERT_DELETE}
_WORDS = {"insert_delete": "insert + delete"}
#: ns of a hot map
_TARGETS = {("array", "lookup"): 2.0, ("percpu_array", "lookup"): 2.0, ("hash", "lookup"): 8.0, ("hash", "update"): 25.0, ("hash", "insert_delete"): 80.0}
_TWICE_TARGET = 1.7


@dataclass(frozen=True)
class _Case:
    """A map to measure."""

    type: MapType
    entries: int

    @property
    def word(self) -> str:
        return map_type_word(self.type)

    @property
    def max_entries(self) -> int:
        return self.entries + (_ROOM if self.type in _HASHES else 0)

    @property
    def operations(self) -> list[str]:
        return [op for op in _OPS if op != "insert_delete" or self.type in _HASHES]


def measure_maps(session: Session) -> list[Figure]:
    """Figures of every map type and operation, in ns; and how much more two processes do than one."""
    cases = [_Case(kind, HOT) for kind in (*_INDEXED, *_HASHES)]
    cases += [_Case(kind, LARGE) for kind in (MapType.ARRAY, MapType.HASH)] if session.effort.large else []
    figures, together = [], []
    with Namespace(f"bench-{os.getpid()}-{secrets.token_hex(4)}", role="bench") as namespace:
        namespace.fix_cpus(2)
        with Crew(namespace, min(2, len(usable_cpus()))) as crew:
            for case in cases:
                session.progress(f"{case.word}, {case.entries:,} entries")
                try:
                    measured = _measure_case(session, namespace, crew, case)
                except SpaceError as error:
                    session.notes.append(f"{case.word} of {case.entries:,} entries is left out: {error}")
                    continue
                figures += measured[0]
                together += measured[1]
    return figures + together


def _measure_case(session: Session, namespace: Namespace, crew: Crew, case: _Case) -> tuple[list[Figure], list[Figure]]:
    figures, together = [], []
    with ExitStack() as stack:
        map_ = stack.enter_context(Map.create(namespace, MapSpec("bench", case.type, 4, 8, case.max_entries)))
        crew.run(map_, lib.BENCH_UPDATE, case.entries - 1, case.entries, multiplier=1)  # every key once: filled
        theirs = stack.enter_context(_kernel_programs(case)) if session.kernel else None
        for op in case.operations:
            slice_count = int(session.effort.slice_ns / crew.run(map_, _OPS[op], case.entries - 1, 16384))
            count = case.entries * max(1, slice_count // case.entries)
            sides = [_ours(crew, map_, op, case, count, (0,)), _ours(crew, map_, op, case, count, (0, 1)) if crew.size > 1 and op == "lookup" else None]
            sides += [theirs and theirs.side(op, count)]
            one, two, linux_ns = best_of(session.effort.rounds if case.entries == HOT else _LARGE_ROUNDS, sides)
            target = _TARGETS.get((case.word, op)) if case.entries == HOT else linux_ns
            what = f"{case.word} {case.entries:,}: {_WORDS.get(op, op)}"
            figures.append(Figure(what, "ns", one, linux_ns, target))
            if two:
                together.append(Figure(f"{what}, two at once", "x rate", 2 * one / two, None, _TWICE_TARGET, at_least=True))
    return figures, together


def _ours(crew: Crew, map_: Map, op: str, case: _Case, count: int, members: tuple[int, ...]) -> Callable[[], float]:
    def turn() -> float:
        crew.run(map_, _OPS[op], case.entries - 1, case.entries, members)
        return crew.run(map_, _OPS[op], case.entries - 1, count, members)

    return turn


class _KernelCase:
    """The programs of maps.o that work on one map of the kernel."""

    def __init__(self, case: _Case, programs: dict[str, linux.KernelProgram]):
        self._case, self._programs = case, programs

    def side(self, op: str, count: int) -> Callable[[], float]:
        """A measurement: ns per operation."""
        name = f"{self._case.word}_{op}"

        def turn() -> float:
            self.run(name, self._case.entries)
            return self.run(name, count)

        return turn

    def run(self, name: str, count: int, multiplier: int = lib.BENCH_KEY_MULTIPLIER) -> float:
        """ns of one turn of a program's loop."""
        context = bytearray(ffi.sizeof("struct __sk_buff"))
        struct.pack_into("=I", context, ffi.offsetof("struct __sk_buff", "mark"), self._case.entries - 1)
        struct.pack_into("=I", context, ffi.offsetof("struct __sk_buff", "cb") + 8, multiplier)
        done = self._programs[name].run(bytes(64), ctx=bytes(context), repeat=max(1, count // _KERNEL_BATCH), cpu=usable_cpus()[0])
        if done.retval:
            raise ShmbpfError(f"bench: {done.retval} of {_KERNEL_BATCH} operations of {name} failed in the kernel")
        return done.duration_ns / _KERNEL_BATCH


@contextmanager
def _kernel_programs(case: _Case) -> Iterator[_KernelCase]:
    """The programs of one case over one map, which is filled."""
    spec = load_object(OBJECT)
    sized: ObjectSpec = replace(spec, maps={**spec.maps, case.word: replace(spec.maps[case.word], max_entries=case.max_entries)})
    names = [f"{case.word}_{op}" for op in case.operations]
    with ExitStack() as stack:
        programs = {name: stack.enter_context(program) for name, program in linux.load_programs(sized, names).items()}
        made = _KernelCase(case, programs)
        made.run(f"{case.word}_update", case.entries, multiplier=1)
        yield made
