"""No file, however broken, gives anything but an ObjectError: seeded mutants of every compiled object.

The short form runs in CI; SHMBPF_FUZZ_N=1000000 runs that many mutants. A failure names its seed: SHMBPF_FUZZ_SEED=<seed> SHMBPF_FUZZ_N=1 repeats it.
"""

from __future__ import annotations

import os
import random
import struct
import time

import pytest

from shmbpf.elf import load_object
from shmbpf.errors import ObjectError

from .objects import SOURCES, compiled

SHORT = 4000
PARTS = 8
SECONDS = 5.0
EDGES = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def read_seeds() -> list[bytes]:
    return [compiled(name, cpu=cpu, debug=debug).read_bytes() for name in SOURCES for cpu, debug in (("v1", True), ("v4", True))]


def find_targets(data: bytes) -> list[tuple[int, int]]:
    """Where a mutation matters: the headers and every section but debug information, as (start, end)."""
    offset, = struct.unpack_from("<Q", data, 40)
    count, names = struct.unpack_from("<HH", data, 60)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, offset + 64 * index) for index in range(count)]
    table = rows[names][4]
    found = [(0, 64), (offset, len(data)), (offset, len(data))]
    for name, kind, _, _, start, size, *_ in rows:
        text = data[table + name : data.index(b"\0", table + name)]
        if size and kind != 8 and b".debug" not in text:
            found.append((start, start + size))
    return found


def mutate(rng: random.Random, seeds: list[tuple[bytes, list[tuple[int, int]]]]) -> bytes:
    data, targets = rng.choice(seeds)
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start, end = rng.choice(targets)
        at = rng.randrange(start, end)
        choice = rng.random()
        if choice < 0.3:
            mutant[at] ^= 1 << rng.randrange(8)
        elif choice < 0.5:
            mutant[at] = rng.randrange(256)
        elif choice < 0.9:
            at -= (at - start) % 4
            mutant[at : at + 4] = struct.pack("<I", rng.choice((*EDGES, len(data), rng.randrange(1 << 32), rng.randrange(64))))
        elif choice < 0.95:
            mutant[at : at + 8] = struct.pack("<Q", rng.choice((0, len(data), 1 << 63, (1 << 64) - 1, rng.randrange(1 << 64))))
        else:
            length = rng.randrange(1, 64)
            other = rng.randrange(len(data))
            mutant[at : at + length] = data[other : other + length]
    if rng.random() < 0.05:
        del mutant[rng.randrange(len(mutant)) :]
    return bytes(mutant)


def use(spec) -> None:
    """Look at everything lazy in a spec, as a runtime and its dumps would."""
    for program in spec.programs.values():
        for line in program.lines:
            str(line)
        program.lines.at(1) if len(program.lines) else None
    for one in spec.maps.values():
        if one.btf is not None:
            one.btf.subset([one.btf_key_type_id, one.btf_value_type_id])


def check(seed: int, seeds: list[tuple[bytes, list[tuple[int, int]]]]) -> bool:
    """One mutant; True if it still loads."""
    mutant = mutate(random.Random(seed), seeds)
    started = time.perf_counter()
    try:
        use(load_object(mutant, name="mutant"))
        return True
    except ObjectError as exc:
        assert "\n" not in str(exc)
        return False
    finally:
        assert time.perf_counter() - started < SECONDS, f"seed {seed} took too long"


@pytest.mark.parametrize("part", range(PARTS))
def test_mutant_objects_give_object_errors_and_nothing_else(part):
    seeds = [(data, find_targets(data)) for data in read_seeds()]
    total, first = int(os.environ.get("SHMBPF_FUZZ_N", SHORT)), int(os.environ.get("SHMBPF_FUZZ_SEED", 0))
    mine = range(first + part, first + total, PARTS)
    survivors = 0
    for seed in mine:
        try:
            survivors += check(seed, seeds)
        except Exception as exc:
            raise AssertionError(f"mutant of seed {seed} (SHMBPF_FUZZ_SEED={seed} SHMBPF_FUZZ_N=1): {type(exc).__name__}: {exc}") from exc
    if len(mine) >= 100:  # the mutations are neither all fatal nor all harmless
        assert 0 < survivors < len(mine)


@pytest.mark.parametrize("name", SOURCES)
def test_every_truncation_gives_an_object_error(name):
    data = compiled(name).read_bytes()
    for length in [*range(0, 200), *range(200, len(data), 37)]:
        with pytest.raises(ObjectError):
            load_object(data[:length])
