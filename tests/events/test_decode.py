"""Decoding records by BTF: whole, short, long and padded ones, and names that are not there."""

from __future__ import annotations

import struct

import pytest
from support.btf_types import Types
from support.compile import compile_bpf

from shmbpf.errors import ShmbpfError
from shmbpf.events.decode import RecordType, TypeCatalog, read_btf, split_type
from shmbpf.events.records import Record


@pytest.fixture
def types():
    return Types()


def flow(types):
    """struct flow { u32 addr; struct { u16 from, to; } ports; char name[6]; u64 bytes; }: 24 bytes."""
    ports = types.struct("ports", ("from", types.u16, 0), ("to", types.u16, 2), size=4)
    name = types.array(types.char, 6)
    number = types.struct("flow", ("addr", types.u32, 0), ("ports", ports, 4), ("name", name, 8), ("bytes", types.u64, 16), size=24)
    return RecordType(types.btf(), number)


WHOLE = struct.pack("<IHH6s2xQ", 7, 53, 80, b"abc", 99)
VALUE = {"addr": 7, "ports": {"from": 53, "to": 80}, "name": "abc", "bytes": 99}


def test_whole_record_is_decoded(types):
    found = flow(types).decode(Record(WHOLE, 1, 2, 3, 4))
    assert (found.value, found.rest) == (VALUE, b"")
    assert (found.data, found.cpu, found.index, found.time_ns, found.map_id) == (WHOLE, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("size", "value", "rest"),
    [
        (0, {}, b""),
        (3, {}, WHOLE[:3]),
        (4, {"addr": 7}, b""),
        (6, {"addr": 7, "ports": {"from": 53}}, b""),
        (7, {"addr": 7, "ports": {"from": 53}}, WHOLE[6:7]),
        (10, {"addr": 7, "ports": {"from": 53, "to": 80}, "name": "ab"}, b""),
        (20, {"addr": 7, "ports": {"from": 53, "to": 80}, "name": "abc"}, WHOLE[14:20]),
    ],
)
def test_short_record_is_decoded_as_far_as_it_goes(types, size, value, rest):
    found = flow(types).decode(Record(WHOLE[:size]))
    assert (found.value, found.rest) == (value, rest)


def test_what_follows_the_type_is_the_rest(types):
    found = flow(types).decode(Record(WHOLE + b"packet"))
    assert (found.value, found.rest) == (VALUE, b"packet")


def test_padding_of_a_perf_record_is_no_rest(types):
    padded = WHOLE + b"\xaa" * 4  # 4 + 24 rounded up to 32, less the u32
    assert flow(types).decode(Record(padded, 0, 0)).rest == b""
    assert flow(types).decode(Record(padded, -1, -1)).rest == b"\xaa" * 4  # ring buffers do not pad
    assert flow(types).decode(Record(padded + b"\xbb" * 8, 0, 0)).rest == b"\xaa" * 4 + b"\xbb" * 8


def test_short_array_gives_the_elements_that_are_there(types):
    number = types.array(types.u32, 4)
    found = RecordType(types.btf(), number).decode(Record(struct.pack("<II", 1, 2) + b"\x03"))
    assert (found.value, found.rest) == ([1, 2], b"\x03")


def test_number_that_is_cut_off_has_no_value(types):
    found = RecordType(types.btf(), types.u64).decode(Record(b"\x01\x02"))
    assert (found.value, found.rest) == (None, b"\x01\x02")


def test_types_are_found_by_name_and_kind(types):
    types.typedef("event_t", types.struct("event", ("a", types.u32, 0), size=4))
    types.struct("event", ("b", types.u16, 0), size=2, union=True)
    catalog = TypeCatalog([("here", types.btf())])
    for name in ("event", "struct event", "event_t", " event "):
        assert catalog.find(name).size == 4
    assert catalog.find("union event").size == 2
    assert catalog.find("unsigned int").size == 4


def test_first_source_that_has_a_name_counts():
    one, two = Types(), Types()
    one.struct("a", ("x", one.u8, 0), size=1)
    two.struct("a", ("x", two.u64, 0), size=8)
    two.struct("b", ("x", two.u64, 0), size=8)
    catalog = TypeCatalog([("one", one.btf()), ("two", two.btf())])
    assert (catalog.find("a").size, catalog.find("b").size) == (1, 8)


def test_unknown_type_is_refused_with_those_that_are_known(types):
    flow(types)
    with pytest.raises(ShmbpfError, match="'evnt' is not known: there are flow, ports; .*--type OBJ.o:STRUCT"):
        TypeCatalog([("here", types.btf())]).find("evnt")
    with pytest.raises(ShmbpfError, match="compile with -g"):
        TypeCatalog().find("event")
    with pytest.raises(ShmbpfError, match="is not known"):
        TypeCatalog([("here", types.btf())]).find("")


def test_type_that_cannot_be_read_is_refused(types):
    types.struct("broken", ("x", types.u64, 4), size=8)  # reaches beyond its struct
    with pytest.raises(ShmbpfError, match="'broken' of here cannot be read: BTF: member 'x' lies outside"):
        TypeCatalog([("here", types.btf())]).find("broken")


def test_types_are_read_from_object_files(tmp_path):
    source = 'struct event { unsigned a; }; struct event keep;\n__attribute__((section("xdp"), used)) int f(void *c) { return 2; }\n'
    btf = read_btf(compile_bpf(source))
    assert TypeCatalog([("o", btf)]).find("event").size == 4
    (tmp_path / "bare.btf").write_bytes(btf.to_bytes())
    assert TypeCatalog([("o", read_btf(tmp_path / "bare.btf"))]).find("event").size == 4
    with pytest.raises(ShmbpfError, match="compile it with -g"):
        read_btf(compile_bpf(source, debug=False))
    (tmp_path / "text").write_text("no object")
    with pytest.raises(ShmbpfError):
        read_btf(tmp_path / "text")


def test_file_and_name_are_told_apart():
    assert split_type("event") == (None, "event")
    assert split_type("a/b.o:event") == ("a/b.o", "event")
    assert split_type("a:b.o:struct event") == ("a:b.o", "struct event")
