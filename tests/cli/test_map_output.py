"""`shmbpf map` prints what bpftool prints for the same map in the kernel: byte for byte, but for ids and memory sizes."""

from __future__ import annotations

import os
import random
import re
import secrets
import struct

import pytest
from support import bpf_syscall
from support.btf_types import Types
from support.cli import bpftool, needs_bpftool
from support.kernel import KernelMap, KernelProgram, possible_cpus
from support.programs import RETURN_2
from support.programs import make as make_program

from shmbpf._ffi import lib
from shmbpf.elf.btf import Btf
from shmbpf.maps.map import Map
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapType

pytestmark = [pytest.mark.kernel, needs_bpftool]

FORMS = [(), ("-j",), ("-p",)]
CPUS = possible_cpus()


def types_of_everything() -> tuple[bytes, int, int, int]:
    """A BTF blob, a key struct, and a value struct of everything bpftool can show (it gives up at floats), and the value's size."""
    types = Types()
    color = types.enum("color", {"RED": 0, "GREEN": 5, "BLUE": -2})
    wide = types.enum("wide", {"HUGE": 0x1234567890}, size=8)
    inner = types.struct("", ("x", types.u32, 0), ("b", types.array(types.u8, 4), 0), union=True)
    pair = types.struct("pair", ("a", types.s32, 0), ("", inner, 4), size=8)
    letter = types.integer("letter", 1, 2)
    key = types.struct("key", ("addr", types.typedef("be32", types.u32), 0), ("port", types.u16, 4), ("proto", types.u8, 6), size=8)
    members = [
        ("n", types.u64, 0), ("neg", types.s64, 8), ("name", types.array(types.const(types.char), 8), 16), ("raw", types.array(types.u8, 4), 24), ("on", types.bool, 28),
        ("off", types.bool, 29), ("c", types.char, 30), ("sc", types.s8, 31), ("col", color, 32), ("blue", color, 36), ("odd", color, 40),
        ("w", wide, 48), ("pairs", types.array(pair, 2), 56), ("p", types.pointer(pair), 72), ("null", types.pointer(pair), 80),
        ("grid", types.array(types.array(types.u32, 2), 2), 88), ("big", types.u128, 112), ("empty", types.array(types.char, 4), 128),
        ("unended", types.array(types.char, 4), 132), ("control", types.array(types.char, 4), 136), ("l", letter, 140), ("l2", letter, 141),
        ("word", types.array(letter, 4), 144),
    ]  # fmt: skip
    rows = [(name, number, at * 8, 0) for name, number, at in members]
    rows += [("f1", types.u32, 152 * 8, 3), ("f2", types.u32, 152 * 8 + 3, 13), ("f3", types.s32, 152 * 8 + 16, 5)]
    value = types.struct("value", *rows, size=160)
    return types.btf().to_bytes(), key, value, 160


def value_of_everything() -> bytes:
    value = bytearray(random.Random(5).randbytes(160))
    for at, data in {
        16: b'hi "x"\0!', 28: b"\1\0A\x9a", 32: struct.pack("<iii", 5, -2, 77), 48: struct.pack("<Q", 0x1234567890), 80: bytes(8),
        128: bytes(4), 132: b"abcd", 136: b"a\tb\0", 140: b"A\x07", 144: b"xy\0z",
    }.items():  # fmt: skip
        value[at : at + len(data)] = data
    return bytes(value)


class Twins:
    """One map here and one in the kernel, made and filled alike."""

    def __init__(self, shmbpf, namespace, type, key_size, value_size, entries, content, flags=0, btf=None, name="twin"):
        namespace.fix_cpus(CPUS)
        blob, key_id, value_id = btf or (None, 0, 0)
        spec = MapSpec(name, type, key_size, value_size, entries, flags, btf=Btf.from_bytes(blob) if blob else None, btf_key_type_id=key_id, btf_value_type_id=value_id)
        self.shmbpf = shmbpf
        self.btf_fd = bpf_syscall.btf_load(blob) if blob else 0
        self.theirs = KernelMap(type, key_size, value_size, entries, flags, name=name, btf=(self.btf_fd, key_id, value_id))
        self.ours = Map.create(namespace, spec)
        for key, value in content:
            self.ours.update(key, value)
            self.theirs.update(key, value)

    def close(self):
        self.ours.close()
        self.theirs.close()
        if self.btf_fd:
            os.close(self.btf_fd)

    def both(self, form, command, *words):
        """(ours, bpftool's) of `map COMMAND id N WORDS`, with ids and sizes made equal."""
        ours = self.shmbpf(*form, "map", command, "id", self.ours.id, *words)
        theirs = bpftool(*form, "map", command, "id", self.theirs.id, *words)
        return self._normal(ours.out, self.ours.id), self._normal(theirs.out, self.theirs.id), bool(ours.code) == bool(theirs.code)

    @staticmethod
    def _normal(text, number):
        text = re.sub(rf'(?m)^{number}:|(?<="id":){number}\b|(?<="id": ){number}\b', "ID:", text)
        text = re.sub(r'("?bytes_memlock"?|memlock)(:? ?)\d+', r"\1\2N", text)
        text = re.sub(r'("error": ?)".*"', r'\1"..."', text)  # our sentences say more
        return re.sub(r'("?btf_id"?:? ?)\d+', r"\1N", text)

    def same(self, command, *words):
        for form in FORMS:
            ours, theirs, agree = self.both(form, command, *words)
            assert ours == theirs, f"{form} {command} {words}"
            assert agree, f"exit codes of {form} {command} {words}"


class RandomTypes:
    """A struct of anything, drawn by chance."""

    def __init__(self, seed: int):
        self.rng, self.types = random.Random(seed), Types()
        self.scalars = [getattr(self.types, name) for name in ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "char", "bool", "u128")]
        self.scalars += [self.types.enum(f"e{size}", {"ZERO": 0, "TOP": (1 << 8 * size - 1) - 1, "LOW": -3}, size) for size in (4, 8)]  # the kernel refuses smaller ones near the end of a struct
        self.scalars += [self.types.integer("letter", 1, 2), self.types.pointer(0), self.types.typedef("word_t", self.types.u32)]

    def struct(self, depth: int = 0) -> int:
        rng, rows, bit = self.rng, [], 0
        is_union = depth > 0 and rng.random() < 0.3
        for index in range(rng.randint(1, 6)):
            number = self.member(depth)
            size = self.types.btf().size_of(number)
            bits = rng.randint(1, min(8 * size, 64)) if number in self.scalars[:8] and rng.random() < 0.3 else 0
            if not bits or bit % (8 * size) + bits > 8 * size:
                align = 8 * min(size, 8) if size in (1, 2, 4, 8, 16) else 8
                bit = -(-bit // align) * align
            name = "" if not bits and number not in self.scalars and rng.random() < 0.2 else f"m{index}"
            rows.append((name, number, 0 if is_union else bit, bits))
            bit += bits or 8 * size
        ends = [row[2] + (8 * self.types.btf().size_of(row[1])) for row in rows]
        return self.types.struct(f"s{rng.randrange(1 << 30)}", *rows, size=-(-max(ends) // 64) * 8, union=is_union)

    def member(self, depth: int) -> int:
        draw = self.rng.random()
        if depth < 2 and draw < 0.2:
            return self.struct(depth + 1)
        if draw < 0.35:
            return self.types.array(self.rng.choice([self.types.char, self.types.u8, *self.scalars, *([self.struct(depth + 1)] if depth < 2 else [])]), self.rng.randint(1, 4))
        return self.rng.choice(self.scalars)

    def bytes(self, size: int) -> bytes:
        """Random bytes without those that bpftool forgets to escape."""
        pool = [byte for byte in (0, 0, 0, 1, *b"abcXYZ", *range(256)) if byte not in b"\\\""]
        return bytes(self.rng.choice(pool) for _ in range(size))


@pytest.mark.parametrize("seed", range(20))
def test_random_types_print_alike(twins, seed):
    drawn = RandomTypes(seed)
    number = drawn.struct()
    btf = drawn.types.btf()
    size = btf.size_of(number)
    content = [(struct.pack("<I", index), drawn.bytes(size)) for index in range(3)]
    twins(MapType.ARRAY, 4, size, 3, content, btf=(btf.to_bytes(), drawn.types.u32, number)).same("dump")


@pytest.fixture
def twins(shmbpf, namespace):
    made = []

    def make(*args, **kwargs):
        made.append(Twins(shmbpf, namespace, *args, **kwargs))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.mark.parametrize(("key_size", "value_size"), [(4, 8), (1, 1), (8, 16), (16, 8), (16, 9), (17, 2), (4, 17), (20, 40), (3, 5), (9, 15)])
@pytest.mark.parametrize("type", [MapType.HASH, MapType.PERCPU_HASH], ids=str)
def test_hash_prints_alike(twins, type, key_size, value_size):
    key, value = bytes(range(key_size)), bytes(range(64, 64 + value_size))
    if type == MapType.PERCPU_HASH:
        value = b"".join(bytes([cpu]) * (-(-value_size // 8) * 8) for cpu in range(CPUS))
    pair = twins(type, key_size, value_size, 4, [(key, value)])
    pair.same("show")
    pair.same("dump")
    pair.same("lookup", "key", *key)
    pair.same("lookup", "key", "hex", *(f"{byte:02x}" for byte in bytes(key_size - 1) + b"\x99"))
    pair.same("getnext")
    pair.same("getnext", "key", *(f"0x{byte:x}" for byte in bytes(key_size)))


@pytest.mark.parametrize("value_size", [1, 8, 13, 24])
@pytest.mark.parametrize("type", [MapType.ARRAY, MapType.PERCPU_ARRAY], ids=str)
def test_array_prints_alike(twins, type, value_size):
    pair = twins(type, 4, value_size, 3, [])
    pair.same("dump")
    pair.same("lookup", "key", 1, 0, 0, 0)
    pair.same("lookup", "key", 3, 0, 0, 0)
    pair.same("getnext", "key", 1, 0, 0, 0)
    pair.same("getnext")


def test_empty_hash_prints_alike(twins):
    twins(MapType.HASH, 4, 8, 3, [], flags=1).same("dump")


def test_empty_program_array_prints_alike(twins):
    pair = twins(MapType.PROG_ARRAY, 4, 4, 3, [])
    pair.same("show")
    pair.same("dump")
    pair.same("lookup", "key", 1, 0, 0, 0)


def test_frozen_map_prints_alike(twins):
    pair = twins(MapType.ARRAY, 4, 4, 3, [])
    pair.ours.freeze()
    pair.theirs.freeze()
    pair.same("show")


@pytest.mark.parametrize("type", [MapType.HASH, MapType.PERCPU_HASH], ids=str)
def test_typed_elements_print_alike(twins, type):
    blob, key_id, value_id, size = types_of_everything()
    key, value = struct.pack("<IHBB", 50462976, 1284, 6, 0), value_of_everything()
    copies = value * CPUS if type == MapType.PERCPU_HASH else value
    pair = twins(type, 8, size, 4, [(key, copies)], btf=(blob, key_id, value_id))
    pair.same("show")
    pair.same("dump")
    pair.same("lookup", "key", *key)
    pair.same("lookup", "key", *bytes(8))


def test_typed_numbers_print_alike(twins):
    types = Types()
    twins(MapType.ARRAY, 4, 4, 3, [(bytes(4), b"\xfe\xff\xff\xff")], btf=(types.btf().to_bytes(), types.u32, types.s32)).same("dump")


def test_updates_arrive_alike(twins):
    pair = twins(MapType.HASH, 4, 4, 8, [])
    for words in (
        ("key", 1, 0, 0, 0, "value", 5, 0, 0, 0),
        ("value", 6, 0, 0, 0, "key", 1, 0, 0, 0),
        ("key", 1, 0, 0, 0, "value", 7, 0, 0, 0, "noexist"),
        ("exist", "key", 2, 0, 0, 0, "value", 7, 0, 0, 0),
        ("k", "hex", "0a", "b", "c", "d", "v", "0x10", "011", 3, 4, "any"),
        ("key", 1, 0, 0, "value", 1, 1, 1, 1),
        ("key", 1, 0, 0, 0, 0, "value", 1, 1, 1, 1),
        ("key", 1, 0, 0, 0, "value", 1, 1, 1),
        ("key", 1, 0, 0, 0),
        ("key", 1, "x", 0, 0, "value", 1, 1, 1, 1),
        (),
    ):
        for form in FORMS:
            assert pair.both(form, "update", *words)[2], words
        assert dict(pair.ours.items()) == pair.theirs.contents(), words
    pair.same("delete", "key", 1, 0, 0, 0)
    assert dict(pair.ours.items()) == pair.theirs.contents()


def test_success_prints_alike(twins):
    pair = twins(MapType.HASH, 4, 4, 8, [])
    pair.same("update", "key", 1, 0, 0, 0, "value", 5, 0, 0, 0)
    for form in FORMS:
        pair.ours.update(b"\1\0\0\0", bytes(4))
        pair.theirs.update(b"\1\0\0\0", bytes(4))
        ours, theirs, agree = pair.both(form, "delete", "key", 1, 0, 0, 0)
        assert ours == theirs and agree


def test_percpu_update_reaches_every_cpu_alike(twins):
    pair = twins(MapType.PERCPU_ARRAY, 4, 3, 2, [])
    pair.same("update", "key", 1, 0, 0, 0, "value", 1, 2, 3)
    pair.same("dump")


def test_several_maps_of_a_name_print_alike(twins, shmbpf):
    name = f"t{secrets.token_hex(6)}"  # the kernel's names are everybody's
    pairs = [twins(MapType.ARRAY, 4, 4, 2, [], name=name), twins(MapType.ARRAY, 4, 8, 1, [], name=name)]
    for form in FORMS:
        for command in ("dump", "show"):
            ours, theirs = shmbpf(*form, "map", command, "name", name).out, bpftool(*form, "map", command, "name", name).out
            for pair in pairs:
                ours, theirs = Twins._normal(ours, pair.ours.id), Twins._normal(theirs, pair.theirs.id)
            assert ours == theirs and ours.count("ID") == 2


def test_several_typed_maps_of_a_name_print_alike(twins, shmbpf):
    types = Types()
    name, btf = f"t{secrets.token_hex(6)}", (types.btf().to_bytes(), types.u32, types.s32)
    pairs = [twins(MapType.ARRAY, 4, 4, entries, [], btf=btf, name=name) for entries in (2, 1)]
    for form in FORMS:
        ours, theirs = shmbpf(*form, "map", "dump", "name", name).out, bpftool(*form, "map", "dump", "name", name).out
        for pair in pairs:
            ours, theirs = Twins._normal(ours, pair.ours.id), Twins._normal(theirs, pair.theirs.id)
        assert ours == theirs


def test_program_array_shows_program_ids_alike(twins, shmbpf, namespace):
    with KernelProgram.from_insns(6, RETURN_2, name="twin") as theirs, make_program(namespace, RETURN_2) as ours:
        pair = twins(MapType.PROG_ARRAY, 4, 4, 4, [])
        pair.theirs.update(bytes(4), struct.pack("<I", theirs.fd))
        assert lib.prog_array_store(pair.ours.handle, 0, ours.id, ours.type, 0, 0) == 0
        for form in FORMS:
            shown, expected, _ = pair.both(form, "dump")
            for make_text in (lambda number: struct.pack("<I", number).hex(" "), lambda number: ",".join(f'"0x{byte:02x}"' for byte in struct.pack("<I", number))):
                expected = expected.replace(make_text(theirs.id), make_text(ours.id))
            assert shown == expected
            shown, expected, _ = pair.both(form, "show")
            assert shown == expected.replace("owner jited", "owner not jited").replace('owner_jited":true', 'owner_jited":false').replace('owner_jited": true', 'owner_jited": false')
