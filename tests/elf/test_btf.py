"""BTF is read as written, resolved through what only renames, and cut down without losing meaning."""

from __future__ import annotations

import struct

import pytest
from support.compile import compile_bpf

from shmbpf.elf import Btf, load_object
from shmbpf.elf.btf import BtfType, Enumerator, Kind, Member, Parameter, SectionVariable
from shmbpf.elf.btf_ext import parse_btf_ext
from shmbpf.elf.btf_subset import BtfWriter
from shmbpf.errors import BtfError

from .objects import loaded

EVERY_KIND = (
    BtfType(1, Kind.INT, "int", 4, encoding=1, bits=32),
    BtfType(2, Kind.PTR, ref=4),
    BtfType(3, Kind.ARRAY, ref=1, index_type=1, count=6),
    BtfType(4, Kind.STRUCT, "s", 32, members=(Member("a", 1, 0, 0), Member("b", 3, 32, 0))),
    BtfType(5, Kind.UNION, "u", 8, kind_flag=True, members=(Member("x", 1, 0, 3), Member("y", 19, 3, 61))),
    BtfType(6, Kind.ENUM, "e", 4, kind_flag=True, enumerators=(Enumerator("minus", -1), Enumerator("plus", 5))),
    BtfType(7, Kind.FWD, "f", kind_flag=True),
    BtfType(8, Kind.TYPEDEF, "t", ref=9),
    BtfType(9, Kind.VOLATILE, ref=10),
    BtfType(10, Kind.CONST, ref=11),
    BtfType(11, Kind.RESTRICT, ref=18),
    BtfType(12, Kind.FUNC, "fn", ref=13, linkage=1),
    BtfType(13, Kind.FUNC_PROTO, ref=1, parameters=(Parameter("p", 2), Parameter("", 0))),
    BtfType(14, Kind.VAR, "v", ref=1, linkage=1),
    BtfType(15, Kind.DATASEC, ".data", 4, variables=(SectionVariable(14, 0, 4),)),
    BtfType(16, Kind.FLOAT, "double", 8),
    BtfType(17, Kind.DECL_TAG, "contains", ref=4, component=1),
    BtfType(18, Kind.TYPE_TAG, "kptr", ref=4),
    BtfType(19, Kind.ENUM64, "e64", 8, enumerators=(Enumerator("big", 1 << 40),)),
)


def blob_of(*types: BtfType) -> bytes:
    writer = BtfWriter()
    for entry in types:
        writer.add(entry)
    return writer.to_bytes()


def test_every_kind_is_read_as_written():
    assert tuple(Btf.from_bytes(blob_of(*EVERY_KIND))) == EVERY_KIND


def test_blob_survives_unchanged():
    blob = blob_of(*EVERY_KIND)
    assert Btf.from_bytes(blob).to_bytes() == blob


def test_big_endian_blob_reads_the_same():
    little = blob_of(*EVERY_KIND[:4])
    length, = struct.unpack_from("<I", little, 12)
    header = struct.pack(">HBBIIIII", 0xEB9F, 1, 0, *struct.unpack_from("<IIIII", little, 4))
    words = struct.unpack_from(f"<{length // 4}I", little, 24)
    big = header + struct.pack(f">{length // 4}I", *words) + little[24 + length :]
    assert tuple(Btf.from_bytes(big)) == EVERY_KIND[:4]


def test_resolve_looks_through_names_and_qualifiers():
    btf = Btf.from_bytes(blob_of(*EVERY_KIND))
    assert btf.resolve(8).id == 4
    assert (btf.size_of(8), btf.size_of(3), btf.size_of(2), btf.size_of(14), btf.size_of(16)) == (32, 24, 8, 4, 8)


def test_find_tells_kinds_apart():
    btf = Btf.from_bytes(blob_of(BtfType(1, Kind.FWD, "x"), BtfType(2, Kind.STRUCT, "x", 0)))
    assert (btf.find("x").id, btf.find("x", Kind.STRUCT).id, btf.find("x", Kind.ENUM), btf.find("y")) == (1, 2, None, None)


@pytest.mark.parametrize("kind", [Kind.FWD, Kind.FUNC])
def test_what_has_no_size_says_so(kind):
    with pytest.raises(BtfError, match=f"has no size .{kind.name}"):
        Btf.from_bytes(blob_of(BtfType(1, kind, "x"))).size_of(1)


def test_type_that_contains_itself_is_an_error():
    btf = Btf.from_bytes(blob_of(BtfType(1, Kind.TYPEDEF, "a", ref=2), BtfType(2, Kind.CONST, ref=1), BtfType(3, Kind.ARRAY, ref=3, count=1)))
    with pytest.raises(BtfError, match="refers to itself"):
        btf.resolve(1)
    with pytest.raises(BtfError, match="contains itself"):
        btf.size_of(3)


def test_size_beyond_4_gib_is_an_error():
    array = [BtfType(number + 2, Kind.ARRAY, ref=number + 1, count=0xFFFFFFFF) for number in range(20)]
    with pytest.raises(BtfError, match="exceeds 4 GiB"):
        Btf.from_bytes(blob_of(EVERY_KIND[0], *array)).size_of(21)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "shorter than its header"),
        (bytes(24), "magic 0x0000"),
        (blob_of(EVERY_KIND[0])[:-1], "truncated"),
        (blob_of(EVERY_KIND[0])[:-1] + b"x", "does not start and end with NUL"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 1) + struct.pack("<III", 0, 25 << 24, 0) + b"\0", "unknown kind 25"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 1) + struct.pack("<III", 0, 4 << 24 | 9, 0) + b"\0", "cut off"),
    ],
)
def test_broken_frame_is_refused(blob, message):
    with pytest.raises(BtfError, match=message):
        Btf.from_bytes(blob)


def test_missing_type_and_string_are_refused():
    btf = Btf.from_bytes(blob_of(BtfType(1, Kind.PTR, ref=9)))
    with pytest.raises(BtfError, match="type id 9 does not exist"):
        btf.resolve(btf.type(1).ref)
    with pytest.raises(BtfError, match="no string at offset 99"):
        btf.string(99)


def test_subset_keeps_the_meaning_of_a_type():
    spec = loaded("btf_maps").maps["flows"]
    small, ids = spec.btf.subset([spec.btf_key_type_id, spec.btf_value_type_id])
    assert len(small) < len(spec.btf) / 4
    for number in (spec.btf_key_type_id, spec.btf_value_type_id):
        old, new = spec.btf.resolve(number), small.resolve(ids[number])
        assert (new.name, new.size, [m[0::2] for m in new.members]) == (old.name, old.size, [m[0::2] for m in old.members])
        assert [small.size_of(m.type) for m in new.members] == [spec.btf.size_of(m.type) for m in old.members]


def test_subset_of_everything_is_everything():
    btf = Btf.from_bytes(blob_of(*EVERY_KIND))
    assert tuple(btf.subset(range(1, len(btf)))[0]) == EVERY_KIND


def test_subset_shrinks_structs_behind_pointers():
    source = (
        '#include "bpf_api.h"\nstruct deep { long many[9]; }; struct node { struct node *next; struct deep *deep; };'
        'struct { __uint(type, 2); __uint(max_entries, 1); __type(key, __u32); __type(value, struct node); } m SEC(".maps");'
        'SEC("xdp") int p(void *c) { return 2; } struct deep keep SEC(".data.keep");'
    )
    spec = load_object(compile_bpf(source)).maps["m"]
    small, ids = spec.btf.subset([spec.btf_value_type_id])
    node = small.resolve(ids[spec.btf_value_type_id])
    assert (node.kind, small.size_of(node.id)) == (Kind.STRUCT, 16)
    assert small.resolve(small.type(node.members[0].type).ref).id == node.id
    assert small.find("deep").kind == Kind.FWD


@pytest.mark.kernel
def test_linux_accepts_a_subset(kernel):
    import os

    from support import bpf_syscall

    spec = loaded("btf_maps").maps["flows"]
    os.close(bpf_syscall.btf_load(spec.btf.subset([spec.btf_key_type_id, spec.btf_value_type_id])[0].to_bytes()))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (bytes(8), "shorter than its header"),
        (bytes(32), "magic"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 99, 0, 0), "truncated"),
        (struct.pack("<HBBIIIIII", 0xEB9F, 1, 0, 24, 0, 4, 0, 0, 4), "records of 4 bytes"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 0, 0) + struct.pack("<III", 8, 0, 7), "truncated: 7 records"),
    ],
)
def test_broken_btf_ext_is_refused(blob, message):
    with pytest.raises(BtfError, match=message):
        parse_btf_ext(blob, Btf.from_bytes(blob_of()))


def test_core_relocations_change_nothing():
    source = (
        '#include "bpf_api.h"\nstruct task { int a, b; } __attribute__((preserve_access_index));'
        'SEC("xdp") int p(struct task *t) { return t->b; }'
    )
    plain = source.replace("__attribute__((preserve_access_index))", "")
    assert load_object(compile_bpf(source)).programs["p"].insns == load_object(compile_bpf(plain)).programs["p"].insns
