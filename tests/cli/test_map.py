"""`shmbpf map`: creating, choosing, changing; the typed commands for scripts."""

from __future__ import annotations

import os
import shutil
import struct

import pytest
from support.btf_types import Types
from support.programs import RETURN_2, make

from shmbpf.maps.map import Map
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapType

T = Types()
FLOW = T.struct("flow", ("addr", T.u32, 0), ("port", T.u16, 4), ("proto", T.u16, 6), size=8)
STATE = T.enum("state", {"NEW": 0, "SEEN": 1})
STATS = T.struct("stats", ("packets", T.u64, 0), ("state", STATE, 8), ("seen", T.array(T.u16, 2), 12), size=16)
BTF = T.btf()


@pytest.fixture
def flows(namespace):
    """A hash of flows, with types."""
    namespace.fix_cpus(2)
    spec = MapSpec("flows", MapType.HASH, 8, 16, 4, btf=BTF, btf_key_type_id=FLOW, btf_value_type_id=STATS)
    with Map.create(namespace, spec) as map_:
        yield map_


@pytest.fixture
def make_map(namespace):
    namespace.fix_cpus(2)
    made = []

    def create(kind=MapType.HASH, key=4, value=8, entries=4, name="m"):
        made.append(Map.create(namespace, MapSpec(name, kind, key, value, entries)))
        return made[-1]

    yield create
    for map_ in made:
        map_.close()


@pytest.fixture
def pins(namespace):
    """The namespace's pin tree, emptied after the test."""
    yield namespace.pin_dir
    shutil.rmtree(namespace.pin_dir, ignore_errors=True)


def refused(outcome, message, code=1):
    assert outcome.code == code and message in outcome.err, outcome
    assert "Traceback" not in outcome.err and (code == 2 or outcome.err.count("\n") == 1)


# -- create --


def test_created_map_lives_at_its_path(shmbpf, pins):
    assert shmbpf.ok("map", "create", "tc/globals/flows", "type", "hash", "key", 4, "value", "0x8", "entries", 10, "name", "flows", "flags", 1) == ""
    shown = shmbpf("-j", "map", "show", "name", "flows").document
    assert {name: shown[name] for name in ("type", "flags", "bytes_key", "bytes_value", "max_entries")} == {
        "type": "hash", "flags": 1, "bytes_key": 4, "bytes_value": 8, "max_entries": 10,
    }  # fmt: skip
    shmbpf.ok("map", "set", "flows", 7, 9)
    assert shmbpf.ok("map", "get", "flows", 7) == "9\n"
    (pins / "tc/globals/flows").unlink()
    assert shmbpf("-j", "map", "show").document == []


def test_create_words_come_in_any_order_and_short(shmbpf, pins):
    assert shmbpf.ok("-j", "m", "c", "here", "n", "x", "e", 3, "v", 2, "k", 4, "t", "percpu_array") == "null\n"
    assert shmbpf("-j", "map", "show", "name", "x").document["type"] == "percpu_array"


def test_long_names_are_cut_with_a_warning(shmbpf, pins):
    outcome = shmbpf("map", "create", "p", "type", "array", "key", 4, "value", 4, "entries", 1, "name", "a_name_that_is_too_long")
    assert outcome.code == 0 and "'a_name_that_is_'" in outcome.err
    assert shmbpf("-j", "map", "show", "name", "a_name_that_is_too_long").document["name"] == "a_name_that_is_"


CREATE = {"type": "hash", "key": 4, "value": 4, "entries": 4, "name": "m"}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"type": "frob"}, 1, "unrecognized map type 'frob': expected one of hash, array, prog_array"),
        ({"type": "lpm_trie"}, 1, "does not exist here"),
        ({"type": "array", "key": 8}, 1, "is refused: Invalid argument (EINVAL)"),
        ({"value": 0}, 1, "EINVAL"),
        ({"entries": 1 << 40}, 1, "expected 0 to 4294967295"),
        ({"entries": 1 << 30, "value": 1 << 20}, 1, "Error: "),
        ({"key": "four"}, 2, "key: expected a number, got 'four'"),
        ({"flags": "zz"}, 2, "flags: expected a number"),
        ({"name": None}, 2, "map name not specified"),
        ({"type": None}, 2, "map type not specified"),
        ({"entries": None}, 2, "map number of entries not specified"),
        ({"inner_map": "name"}, 2, "got: inner_map"),
    ],
)
def test_impossible_maps_are_refused(shmbpf, pins, change, code, message):
    words = [word for pair in (CREATE | change).items() if pair[1] is not None for word in pair]
    refused(shmbpf("map", "create", "p", *words), message, code)
    assert not (pins / "p").exists() and shmbpf("-j", "map", "show").document == []


def test_taken_path_is_refused(shmbpf, pins):
    words = [word for pair in CREATE.items() for word in pair]
    shmbpf.ok("map", "create", "p", *words)
    refused(shmbpf("map", "create", "p", *words), "exists")
    refused(shmbpf("map", "create", "a.b", *words), "no dots")
    assert len(shmbpf("-j", "map", "show").document) == 1


# -- choosing a map --


def test_maps_that_share_a_name_need_an_id(shmbpf, make_map):
    first, second = make_map(), make_map()
    refused(shmbpf("map", "lookup", "name", "m", "key", 0, 0, 0, 0), f"several maps match this handle: use map id N ({first.id}, {second.id})")
    assert len(shmbpf("-j", "map", "show", "name", "m").document) == 2


@pytest.mark.parametrize("words", [("dump", "name", "nobody"), ("dump", "id", 4711), ("lookup", "name", "nobody", "key", 1), ("freeze", "id", 4711), ("get", "nobody", 1)])
def test_unknown_maps_are_refused(shmbpf, make_map, words):
    make_map()
    outcome = shmbpf("-j", "map", *words)
    assert outcome.code == 1 and "shmbpf map show lists them" in outcome.document["error"]
    assert "shmbpf map show lists them" in outcome.document["error"]


@pytest.mark.parametrize("words", [("dump",), ("dump", "m"), ("dump", "id", "x"), ("dump", "name"), ("lookup", "name", "m"), ("lookup", "name", "m", "kex", 1),
                                   ("dump", "name", "m", "more"), ("set", "m", 1), ("get", "m"), ("frob",), (), ("get", "m", 1, 2)])  # fmt: skip
def test_wrong_words_exit_with_2(shmbpf, make_map, words):
    make_map()
    outcome = shmbpf("map", *words)
    assert outcome.code == 2 and outcome.out == "" and outcome.err


def test_unknown_namespace_is_refused_but_shows_nothing(shmbpf):
    shmbpf.namespace = "nowhere-at-all"
    refused(shmbpf("map", "dump", "name", "m"), "namespace 'nowhere-at-all' does not exist")
    assert shmbpf("map", "show").out == "" and shmbpf.ok("-j", "map", "show") == "[]\n"
    assert not [name for name in os.listdir("/dev/shm") if ".nowhere-at-all." in name]


# -- changing --


def test_numbers_beyond_a_byte_are_refused(shmbpf, make_map):
    make_map()
    refused(shmbpf("map", "delete", "name", "m", "key", 256, 0, 0, 0), "byte 256: expected 0 to 255")
    refused(shmbpf("map", "delete", "name", "m", "key", 1, 2, "x", 0), "key expected 4 bytes got 2, then: x")
    refused(shmbpf("map", "delete", "name", "m", "key", "zz", 0, 0, 0), "error parsing byte: zz")


def test_bytes_may_be_written_by_type(shmbpf, flows):
    shmbpf.ok("map", "update", "name", "flows", "key", "{addr: 10.0.0.1, port: 53}", "value", "{packets: 3, state: SEEN}")
    assert dict(flows.items()) == {bytes([10, 0, 0, 1, 53, 0, 0, 0]): struct.pack("<QIHH", 3, 1, 0, 0)}
    assert '"packets": 3' in shmbpf.ok("map", "lookup", "name", "flows", "key", "{addr:", "10.0.0.1,", "port:", "53}")
    refused(shmbpf("map", "update", "name", "flows", "key", "{prt: 1}", "value", "{}"), "key: expected a field of struct flow (addr, port, proto), got 'prt'")


def test_frozen_map_refuses_changes(shmbpf, make_map):
    make_map()
    assert shmbpf.ok("-j", "map", "freeze", "name", "m") == "null\n"
    assert shmbpf("-j", "map", "show", "name", "m").document["frozen"] == 1
    refused(shmbpf("map", "set", "m", 1, 1), "EPERM")
    refused(shmbpf("map", "freeze", "name", "m"), "EPERM")


def test_full_map_says_what_to_do(shmbpf, make_map):
    make_map(entries=1)
    shmbpf.ok("map", "set", "m", 1, 1)
    refused(shmbpf("map", "set", "m", 2, 1), "all max_entries=1 are in use")


def test_program_arrays_take_programs(shmbpf, namespace, make_map):
    array = make_map(MapType.PROG_ARRAY, value=4, name="jumps")
    with make(namespace, RETURN_2, name="target") as program:
        number = struct.pack("<I", program.id)
        shmbpf.ok("map", "update", "name", "jumps", "key", 0, 0, 0, 0, "value", "name", "target")
        shmbpf.ok("map", "update", "name", "jumps", "value", "id", program.id, "key", 1, 0, 0, 0)
        shmbpf.ok("map", "set", "jumps", 2, "target")
        shmbpf.ok("map", "set", "jumps", 3, program.id)
        assert [value for _, value in array.items()] == [number] * 4
        assert shmbpf.ok("map", "get", "jumps", 3) == f"{program.id}\n"
        shmbpf.ok("map", "delete", "name", "jumps", "key", 1, 0, 0, 0)
        assert shmbpf.ok("map", "items", "jumps").count("\n") == 3
        refused(shmbpf("map", "set", "jumps", 0, "nobody"), "no programs are called 'nobody'")
        refused(shmbpf("map", "update", "name", "jumps", "key", 0, 0, 0, 0, "value", "name", "nobody"), "is called 'nobody'")
        for slot in (0, 2, 3):
            shmbpf.ok("map", "del", "jumps", slot)


# -- typed commands --


def test_typed_values_come_back(shmbpf, flows):
    key = "{addr: 10.0.0.1, port: 53}"
    shmbpf.ok("map", "set", "flows", key, "{packets: 5, state: SEEN, seen: [1, 2]}")
    assert shmbpf.ok("map", "get", "flows", key) == "{packets: 5, state: SEEN, seen: [1, 2]}\n"
    assert shmbpf.ok("map", "get", "flows", key, "--field", "packets") == "5\n"
    assert shmbpf.ok("map", "get", "--field", "seen[1]", "name", "flows", key) == "2\n"
    assert shmbpf.ok("map", "keys", "flows") == "{addr: 16777226, port: 53, proto: 0}\n"
    assert shmbpf.ok("map", "items", "id", flows.id) == "{addr: 16777226, port: 53, proto: 0}\t{packets: 5, state: SEEN, seen: [1, 2]}\n"
    assert shmbpf("-j", "map", "get", "flows", key).document == {
        "key": {"addr": 16777226, "port": 53, "proto": 0}, "value": {"packets": 5, "state": "SEEN", "seen": [1, 2]},
    }  # fmt: skip
    shmbpf.ok("map", "del", "flows", key)
    assert shmbpf.ok("map", "items", "flows") == "" and shmbpf.ok("-j", "map", "keys", "flows") == "[]\n"


def test_missing_key_exits_with_1(shmbpf, make_map):
    make_map()
    for words in (("get", "m", 5), ("del", "m", 5), ("add", "m", 5, 1), ("set", "m", 5, 1, "--exist")):
        outcome = shmbpf("map", *words)
        assert outcome.code == 1 and outcome.out == "" and outcome.err.count("\n") == 1, words


def test_set_can_insist(shmbpf, make_map):
    make_map()
    shmbpf.ok("map", "set", "--noexist", "m", 1, 1)
    refused(shmbpf("map", "set", "--noexist", "m", 1, 2), "EEXIST")
    shmbpf.ok("map", "set", "--exist", "m", 1, 3)
    assert shmbpf.ok("map", "get", "m", 1) == "3\n"


def test_types_may_be_given(shmbpf, make_map):
    make_map()
    shmbpf.ok("map", "set", "--key", "ipv4", "--value", "s64", "m", "10.0.0.1", -5)
    assert shmbpf.ok("map", "items", "--key", "ipv4", "--value", "s64", "m") == "10.0.0.1\t-5\n"
    assert shmbpf.ok("map", "items", "--key", "be32", "--value", "hex", "m") == f"{0x0A000001}\tfbffffffffffffff\n"
    refused(shmbpf("map", "items", "--key", "mac", "m"), "key type mac has 6 bytes, the map's keys have 4")
    refused(shmbpf("map", "items", "--value", "float", "m"), "value type 'float': expected one of u8")


def test_negative_numbers_are_words(shmbpf, make_map):
    make_map()
    shmbpf.ok("map", "set", "--value", "s64", "m", 1, -1)
    assert shmbpf.ok("map", "get", "--value", "s64", "m", 1) == "-1\n"
    refused(shmbpf("map", "set", "m", 1, -1), "value: expected 0 to 18446744073709551615 (u64), got -1")


def test_add_prints_the_new_number(shmbpf, flows):
    shmbpf.ok("map", "set", "flows", "{}", "{packets: 5}")
    assert shmbpf.ok("map", "add", "flows", "{}", 3, "--field", "packets") == "8\n"
    assert shmbpf.ok("map", "add", "flows", "{}", -1, "--field", "packets") == "7\n"
    assert shmbpf("-j", "map", "add", "flows", "{}", 1, "--field", "seen[0]").document == {"value": 1}
    refused(shmbpf("map", "add", "flows", "{}", 1), "name a field (fields: packets, state, seen)")
    refused(shmbpf("map", "add", "flows", "{}", "one", "--field", "packets"), "N: expected a number, got 'one'")


def test_percpu_values_are_shown_for_every_cpu(shmbpf, make_map):
    make_map(MapType.PERCPU_ARRAY)
    shmbpf.ok("map", "set", "m", 0, 7)
    assert shmbpf.ok("map", "get", "m", 0) == "[7, 7]\n"
    shmbpf.ok("map", "set", "m", 0, "[1, 2]")
    assert shmbpf.ok("map", "get", "m", 0, "--cpu", 1) == "2\n"
    assert shmbpf.ok("map", "add", "m", 0, 5, "--cpu", 1) == "7\n"
    assert shmbpf.ok("map", "items", "m").splitlines()[0] == "0\t[1, 7]"
    assert shmbpf("-j", "map", "get", "m", 0).document == {"key": 0, "value": [1, 7]}
    refused(shmbpf("map", "set", "m", 0, "[1, 2, 3]"), "expected 2 values, one for each possible CPU")
    refused(shmbpf("map", "get", "m", 0, "--cpu", 2), "--cpu 2: expected 0 to 1")
    refused(shmbpf("map", "add", "m", 0, 1), "say which CPU's value")
    refused(shmbpf("map", "add", "m", 0, 1, "--cpu", 9), "--cpu 9: expected 0 to 1")


def test_odd_sizes_are_hex(shmbpf, make_map):
    make_map(key=3, value=5)
    shmbpf.ok("map", "set", "m", "0a0b0c", "01 02 03 04 05")
    assert shmbpf.ok("map", "items", "m") == "0a0b0c\t0102030405\n"


def test_no_entry_is_left_out_of_items(shmbpf, make_map):
    make_map(MapType.PROG_ARRAY, value=4)
    assert shmbpf.ok("map", "items", "m") == ""
    assert shmbpf.ok("map", "keys", "m") == "0\n1\n2\n3\n"


def test_dump_text_is_what_dump_prints(shmbpf, flows):
    from shmbpf.cli.map import dump_text

    shmbpf.ok("map", "set", "flows", "{}", "{packets: 5}")
    assert dump_text(flows) + "\n" == shmbpf.ok("map", "dump", "name", "flows")


def test_data_section_shows_its_variables(shmbpf, namespace):
    types = Types()
    section = types.section(".data", ("count", types.u32, 0), ("limit", types.u64, 8), size=16)
    spec = MapSpec("p.data", MapType.ARRAY, 4, 16, 1, btf=types.btf(), btf_value_type_id=section)
    namespace.fix_cpus(1)
    with Map.create(namespace, spec) as map_:
        map_.update(bytes(4), struct.pack("<I4xQ", 5, 9))
        assert shmbpf("map", "dump", "name", "p.data").document == [{"value": {".data": [{"count": 5}, {"limit": 9}]}}]
        assert shmbpf("-j", "map", "dump", "name", "p.data").document[0]["formatted"] == {"value": {".data": [{"count": 5}, {"limit": 9}]}}
        assert shmbpf.ok("map", "get", "p.data", 0, "--field", "limit") == "9\n"
        assert shmbpf.ok("map", "add", "p.data", 0, 1, "--field", "count") == "6\n"


def test_floats_are_shown(shmbpf, namespace):
    types = Types()
    value = types.struct("v", ("d", types.real("double", 8), 0), ("f", types.real("float", 4), 8), size=16)
    namespace.fix_cpus(1)
    with Map.create(namespace, MapSpec("m", MapType.ARRAY, 4, 16, 1, btf=types.btf(), btf_key_type_id=types.u32, btf_value_type_id=value)) as map_:
        map_.update(bytes(4), struct.pack("<df4x", 0.5, float("inf")))
        assert shmbpf("map", "dump", "name", "m").document == [{"key": 0, "value": {"d": 0.5, "f": "inf"}}]


def test_damaged_types_do_not_hide_the_bytes(shmbpf, namespace):
    types = Types()
    bad = types.struct("bad", ("far", types.u64, 100), size=8)
    namespace.fix_cpus(1)
    with Map.create(namespace, MapSpec("m", MapType.ARRAY, 4, 8, 1, btf=types.btf(), btf_value_type_id=bad)):
        assert shmbpf.ok("map", "dump", "name", "m") == "key: 00 00 00 00  value: 00 00 00 00 00 00 00 00\nFound 1 element\n"
        assert "formatted" not in shmbpf("-j", "map", "dump", "name", "m").document[0]
        assert "00 00" in shmbpf.ok("map", "lookup", "name", "m", "key", 0, 0, 0, 0)


def test_every_anonymous_member_is_shown(shmbpf, namespace):
    types = Types()
    source = types.struct("", ("saddr", types.u32, 0), ("saddr8", types.array(types.u8, 4), 0), union=True)
    target = types.struct("", ("daddr", types.u32, 0), ("daddr8", types.array(types.u8, 4), 0), union=True)
    value = types.struct("v", ("", source, 0), ("", target, 4), size=8)
    namespace.fix_cpus(1)
    with Map.create(namespace, MapSpec("m", MapType.ARRAY, 4, 8, 1, btf=types.btf(), btf_key_type_id=types.u32, btf_value_type_id=value)) as map_:
        map_.update(bytes(4), struct.pack("<II", 1, 2))
        for form in ((), ("-j",)):
            text = shmbpf.ok(*form, "map", "dump", "name", "m")
            assert '"saddr":' in text and '"daddr":' in text
        assert shmbpf.ok("map", "get", "m", 0) == "{saddr: 1, saddr8: [1, 0, 0, 0], daddr: 2, daddr8: [2, 0, 0, 0]}\n"
        shmbpf.ok("map", "set", "m", 0, "{saddr: 10.0.0.1, daddr8: [10, 0, 0, 2]}")
        assert map_.lookup(bytes(4)) == bytes([10, 0, 0, 1, 10, 0, 0, 2])
