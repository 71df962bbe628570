"""The same operations on our map and on Linux's: equal results, equal errno, equal contents after each sequence."""

from __future__ import annotations

import errno
import random
import struct

import pytest
from support.kernel import KernelMap, possible_cpus
from support.raw_maps import ARRAY, EXIST, F_LOCK, HASH, NOEXIST, PERCPU_ARRAY, PERCPU_HASH, PROG_ARRAY, RawNamespace

pytestmark = pytest.mark.kernel

TYPES = [HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY]
NAMES = {HASH: "hash", ARRAY: "array", PROG_ARRAY: "prog_array", PERCPU_HASH: "percpu_hash", PERCPU_ARRAY: "percpu_array"}
FLAGS = [0, 0, 0, NOEXIST, EXIST, F_LOCK, 3, 8, 1 << 32]


@pytest.fixture
def ns():
    with RawNamespace(possible_cpus()) as namespace:
        yield namespace


def outcome(function, *args, **kwargs):
    """What a call gives: its result, or the errno it is refused with."""
    try:
        return function(*args, **kwargs)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


class Pair:
    """Our map and Linux's, driven together."""

    def __init__(self, ours, theirs, rng: random.Random):
        self.ours, self.theirs, self.rng = ours, theirs, rng
        self.is_hash = theirs.type in (HASH, PERCPU_HASH)
        self.keys = [rng.randbytes(theirs.key_size) for _ in range(20)] if self.is_hash else [struct.pack("=I", i) for i in (*range(14), 0xFFFFFFFF)]

    def both(self, name: str, *args, **kwargs):
        ours, theirs = outcome(getattr(self.ours, name), *args, **kwargs), outcome(getattr(self.theirs, name), *args, **kwargs)
        return name, args, kwargs, ours, theirs

    def value(self) -> bytes:
        return self.rng.randbytes(self.theirs.value_bytes)

    def step(self) -> None:
        """One random operation on both. A list of keys may come in any order; everything else must be equal."""
        rng, key = self.rng, self.rng.choice(self.keys)
        op = rng.choice(["update"] * 6 + ["lookup"] * 2 + ["delete"] * 3 + ["lookup_and_delete", "next_key", "update_batch", "delete_batch", "lookup_batch"])
        if op == "update":
            args, kwargs = (key, self.value(), rng.choice(FLAGS)), {}
        elif op in ("lookup", "lookup_and_delete"):
            args, kwargs = (key, rng.choice([0, 0, 0, F_LOCK, 1, 8])), {}
        elif op == "delete":
            args, kwargs = (key,), {}
        elif op == "next_key":
            return self.walk(key)
        elif op == "update_batch":
            args, kwargs = ([(rng.choice(self.keys), self.value()) for _ in range(rng.randrange(5))],), {"elem_flags": rng.choice([0, 0, 0, F_LOCK, 3])}
        elif op == "delete_batch":
            args, kwargs = ([rng.choice(self.keys) for _ in range(rng.randrange(1, 4))],), {}
        else:
            return self.batch_lookup()
        name, args, kwargs, ours, theirs = self.both(op, *args, **kwargs)
        assert ours == theirs, f"{name}{args} {kwargs}: ours {ours!r}, Linux {theirs!r}"

    def walk(self, key: bytes) -> None:
        if self.is_hash:
            assert sorted(self.ours.keys()) == sorted(self.theirs.keys())
            assert isinstance(outcome(self.ours.next_key, None), str) == isinstance(outcome(self.theirs.next_key, None), str)
        else:
            assert outcome(self.ours.next_key, key) == outcome(self.theirs.next_key, key)
            assert list(self.ours.keys()) == list(self.theirs.keys())

    def batch_lookup(self) -> None:
        delete, flags = self.rng.random() < 0.2, self.rng.choice([0, 0, 0, 1, F_LOCK])
        ours = self.ours.lookup_batch(64, delete=delete, elem_flags=flags)[:2]
        theirs = self.theirs.lookup_batch(64, delete=delete, elem_flags=flags)[:2]
        assert (ours[0], sorted(ours[1])) == (theirs[0], sorted(theirs[1]))


@pytest.mark.parametrize("type", TYPES, ids=NAMES.get)
@pytest.mark.parametrize("seed", range(6))
def test_random_sequences_equal_linux(ns, type, seed):
    rng = random.Random(seed * 100 + type)
    key_size = rng.choice([1, 4, 6, 8, 13, 16]) if type in (HASH, PERCPU_HASH) else 4
    sizes = (type, key_size, rng.choice([1, 4, 5, 8, 16, 40]), rng.choice([1, 3, 10]), rng.choice([0, 1]) if type == HASH else 0)
    with ns.create(*sizes) as ours, KernelMap(*sizes) as theirs:
        pair = Pair(ours, theirs, rng)
        for _ in range(800):
            pair.step()
        assert ours.contents() == theirs.contents()
        ours.check()
        assert outcome(ours.freeze) == outcome(theirs.freeze)
        for _ in range(40):
            pair.step()
        assert outcome(ours.freeze) == outcome(theirs.freeze)


@pytest.mark.parametrize("type", [*TYPES, PROG_ARRAY], ids=NAMES.get)
def test_creation_equals_linux(ns, type):
    rng = random.Random(type)
    sizes = {
        "key": [0, 1, 4, 4, 4, 4, 8, 64, 65536, 1 << 22],
        "value": [0, 1, 4, 4, 4, 8, 8, 32768, 32769, 1 << 23, 1 << 31],
        "entries": [0, 1, 1, 4, 4, 100],
        "flags": [0] * 8 + [1 << bit for bit in range(14)] + [0x18, 0x180],
    }
    for _ in range(400):
        attr = [type, *(rng.choice(choices) for choices in sizes.values())]
        if attr[2] > 8 and attr[3] > 4:  # neither kernel nor segment need gigabytes here
            attr[3] = 1
        if attr[4] & 4:  # BPF_F_NUMA_NODE names a node: not the map's business here
            attr[4] = 0
        ours, theirs = outcome(ns.create, *attr), outcome(KernelMap, *attr)
        verdicts = [made if isinstance(made, (str, int)) else "ok" for made in (ours, theirs)]
        for made in (ours, theirs):
            if not isinstance(made, (str, int)):
                made.close()
        assert verdicts[0] == verdicts[1], f"map_create{tuple(attr)}: ours {verdicts[0]}, Linux {verdicts[1]}"


@pytest.mark.parametrize("type", [HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, PROG_ARRAY], ids=NAMES.get)
def test_empty_map_equals_linux(ns, type):
    sizes = (type, 4, 4, 3)
    with ns.create(*sizes) as ours, KernelMap(*sizes) as theirs:
        pair = Pair(ours, theirs, random.Random(0))
        for key in (struct.pack("=I", i) for i in (0, 2, 3, 0xFFFFFFFF)):
            for call in (("lookup", key), ("lookup_and_delete", key), ("delete", key), ("next_key", key), ("lookup", key, 1), ("lookup", key, F_LOCK)):
                _, _, _, mine, linux = pair.both(*call)
                assert mine == linux, call
        for flags in (NOEXIST, EXIST, 3, 8):
            if type == PROG_ARRAY:
                _, _, _, mine, linux = pair.both("update", struct.pack("=I", 1), bytes(4), flags)
                assert mine == linux, flags
        assert list(ours.keys()) == list(theirs.keys())
        assert ours.delete_batch([bytes(4)]) == theirs.delete_batch([bytes(4)])
