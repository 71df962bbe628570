"""TypedMap: a map as a Python mapping."""

from __future__ import annotations

import errno
import importlib.util
import os
import struct

import pytest
from support.btf_types import Types

import shmbpf
from shmbpf.errors import MapError, MapFullError, MapKeyError, ShmbpfError
from shmbpf.maps import find_maps, open_map
from shmbpf.maps.codec import codec_of_word
from shmbpf.maps.map import Map
from shmbpf.maps.typed import TypedMap
from shmbpf.spec import MapSpec
from shmbpf.testing.bpf_syscall import MAP_CREATE
from shmbpf.testing.bpf_syscall import bpf as sys_bpf
from shmbpf.uapi import EXIST, NOEXIST, MapType

T = Types()
FLOW = T.struct("flow", ("addr", T.u32, 0), ("ports", T.array(T.u16, 2), 4), size=8)
STATS = T.struct("stats", ("packets", T.u64, 0), ("delta", T.s32, 8), ("seen", T.array(T.u16, 2), 12), size=16)
BITS = T.struct("bits", ("low", T.u32, 0, 3), size=4)
BTF = T.btf()


@pytest.fixture
def make(namespace):
    """Makes typed maps in the test's namespace of 3 CPUs."""
    namespace.fix_cpus(3)
    made = []

    def create(kind=MapType.HASH, *, key_bytes=4, value_bytes=8, entries=8, key_type=0, value_type=0, **codecs) -> TypedMap:
        sizes = (BTF.size_of(key_type) if key_type else key_bytes, BTF.size_of(value_type) if value_type else value_bytes)
        btf = BTF if key_type or value_type else None
        spec = MapSpec("m", kind, *sizes, entries, btf=btf, btf_key_type_id=key_type, btf_value_type_id=value_type)
        made.append(TypedMap(Map.create(namespace, spec), **codecs))
        return made[-1]

    yield create
    for typed in made:
        typed.close()


@pytest.fixture
def flows(make):
    return make(key_type=FLOW, value_type=STATS)


def test_structs_are_dicts(flows):
    flows[{"addr": 1, "ports": [2, 3]}] = {"packets": 9, "delta": -1}
    assert flows[{"addr": 1, "ports": [2, 3]}] == {"packets": 9, "delta": -1, "seen": [0, 0]}
    assert list(flows) == [{"addr": 1, "ports": (2, 3)}]


def test_keys_of_a_struct_can_be_keys_of_a_dict(flows):
    flows[{"addr": 1}] = {"packets": 1}
    flows[{"addr": 2}] = {"packets": 2}
    copy = dict(flows.items())
    assert {key["addr"]: value["packets"] for key, value in copy.items()} == {1: 1, 2: 2}
    with pytest.raises(TypeError, match="cannot be changed"):
        next(iter(copy))["addr"] = 5
    assert all(key in flows for key in copy)


def test_without_types_bytes_go_in_and_come_out(make):
    plain = make()
    plain[b"\1\0\0\0"] = bytes(8)
    assert list(plain.items()) == [(b"\1\0\0\0", bytes(8))]
    with pytest.raises(ShmbpfError, match="expected 4 bytes"):
        plain[1]


def test_codecs_may_be_chosen(make):
    typed = make(key=codec_of_word("ipv4", 4, "key"), value=codec_of_word("u64", 8, "value"))
    typed["10.0.0.1"] = 5
    assert dict(typed.items()) == {"10.0.0.1": 5}


def make_words(make, **kwargs):
    return make(key_type=T.u32, value_type=T.u64, **kwargs)


def test_mapping_methods_work(make):
    typed = make_words(make)
    typed.update({1: 10, 2: 20})
    assert len(typed) == 2 and 1 in typed and 3 not in typed
    assert sorted(typed.keys()) == [1, 2] and sorted(typed.values()) == [10, 20]
    assert typed.get(3) is None and typed.get(3, 7) == 7
    assert typed.pop(1) == 10 and typed.pop(1, None) is None
    assert typed.setdefault(2, 5) == 20
    del typed[2]
    assert list(typed) == []
    with pytest.raises(KeyError):
        del typed[2]


def test_clear_empties_a_hash(make):
    typed = make_words(make)
    typed.update({n: n for n in range(8)})
    typed.clear()
    assert len(typed) == 0


def test_flags_are_bpfs(make):
    typed = make_words(make)
    typed.update(1, 10, NOEXIST)
    with pytest.raises(MapError) as refusal:
        typed.update(1, 11, NOEXIST)
    assert refusal.value.errno == errno.EEXIST
    with pytest.raises(MapKeyError):
        typed.update(2, 11, flags=EXIST)
    assert typed.lookup(1) == 10


def test_full_map_says_so(make):
    typed = make_words(make, entries=2)
    typed.update({1: 1, 2: 2})
    with pytest.raises(MapFullError, match="max_entries=2"):
        typed[3] = 3


@pytest.mark.parametrize("kind", [MapType.PERCPU_HASH, MapType.PERCPU_ARRAY])
def test_percpu_values_are_lists(make, kind):
    typed = make_words(make, kind=kind)
    typed[1] = [1, 2, 3]
    assert typed[1] == [1, 2, 3]
    for wrong in (5, [1, 2], [1, 2, 3, 4]):
        with pytest.raises(ShmbpfError, match="expected a list of 3 values, one for each possible CPU"):
            typed[1] = wrong


def test_percpu_values_of_odd_size_have_no_padding(make):
    typed = make(MapType.PERCPU_ARRAY, value_bytes=5)
    typed[bytes(4)] = [b"abcde", b"fghij", b"klmno"]
    assert typed[bytes(4)] == [b"abcde", b"fghij", b"klmno"]


def test_add_is_done_at_the_field(flows):
    flows[{"addr": 1}] = {"delta": 5, "seen": [1, 2]}
    assert flows.add({"addr": 1}, 3, field="packets") == 3
    assert flows.add({"addr": 1}, -9, field="delta") == -4
    assert flows.add({"addr": 1}, 1, field="seen[1]") == 3
    assert flows[{"addr": 1}] == {"packets": 3, "delta": -4, "seen": [1, 3]}


def test_add_needs_a_number_and_a_cpu(make, flows):
    with pytest.raises(ShmbpfError, match=r"no whole number to add to: name a field \(fields: packets, delta, seen\)"):
        flows.add({"addr": 1}, 1)
    with pytest.raises(MapKeyError):
        flows.add({"addr": 1}, 1, field="packets")
    with pytest.raises(ShmbpfError, match="low is no whole number"):
        make(value_type=BITS).add(bytes(4), 1, field="low")
    counters = make_words(make, kind=MapType.PERCPU_ARRAY)
    with pytest.raises(ShmbpfError, match="say which CPU's value"):
        counters.add(0, 1)
    assert counters.add(0, 4, cpu=2) == 4
    assert counters[0] == [0, 0, 4]


def test_add_needs_no_types_for_a_plain_number(make):
    typed = make(MapType.ARRAY, value_bytes=4)
    assert typed.add(bytes(4), 7) == 7
    assert typed.add(bytes(4), -8) == 0xFFFFFFFF


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.PERCPU_HASH])
def test_batches_move_everything(make, kind):
    typed = make_words(make, kind=kind, entries=1000)
    value = (lambda n: [n, n, n]) if typed.raw.is_percpu else (lambda n: n)
    content = {n: value(n) for n in range(900)}
    assert typed.batch.update(content) == 900
    assert dict(typed.batch.lookup()) == content
    assert typed.batch.delete(range(100)) == 100
    assert len(dict(typed.batch.lookup(delete=True))) == 800
    assert len(typed) == 0


def test_batch_stops_at_the_first_refusal_and_says_where(make):
    typed = make_words(make)
    typed.update({1: 1, 2: 2})
    with pytest.raises(MapKeyError, match="after 1 elements") as refusal:
        typed.batch.delete([1, 777, 2])
    assert refusal.value.done == 1 and list(typed) == [2]


def test_array_batches_list_every_index(make):
    typed = make_words(make, kind=MapType.ARRAY, entries=600)
    typed.batch.update((n, 2 * n) for n in range(600))
    assert dict(typed.batch.lookup()) == {n: 2 * n for n in range(600)}


def test_view_is_the_map_itself(make):
    typed = make(MapType.ARRAY, value_bytes=4)
    view = typed.view()
    view[8:12] = b"\7\0\0\0"
    assert typed[b"\1\0\0\0"] == b"\7\0\0\0", "elements lie 8 bytes apart"
    del view
    with pytest.raises(MapError):
        make().view()


@pytest.mark.skipif(not importlib.util.find_spec("numpy"), reason="NumPy is not installed")
def test_array_is_structured_and_writable(make):
    typed = make(MapType.ARRAY, value_type=STATS)
    array = typed.array()
    array["packets"][3] = 9
    array["seen"][3][1] = 5
    assert typed.raw.lookup(b"\3\0\0\0") == typed.encode_value({"packets": 9, "seen": [0, 5]})
    del array


def test_frozen_map_is_refused(make):
    typed = make_words(make)
    typed[1] = 1
    typed.raw.freeze()
    with pytest.raises(MapError, match="frozen"):
        typed[1] = 2
    assert typed[1] == 1


# -- finding maps --


def test_maps_are_found_by_id_and_name(namespace, make):
    typed = make_words(make)
    typed[1] = 5
    with open_map(typed.id, ns=namespace.name) as by_id, shmbpf.open_map("m", ns=namespace.name) as by_name:
        assert by_id[1] == by_name[1] == 5
        assert repr(by_name) == f"<hash map 'm' id {typed.id}>"


def test_maps_that_cannot_be_told_apart_are_refused(namespace, make):
    make()
    make()
    with pytest.raises(ShmbpfError, match="2 maps of namespace .* are called 'm': use an id"):
        open_map("m", ns=namespace)


def test_unknown_maps_are_refused_with_what_there_is(namespace, make):
    make()
    with pytest.raises(ShmbpfError, match=r"has no map called 'n' \(maps: m\)"):
        open_map("n", ns=namespace)
    with pytest.raises(MapKeyError, match="no map with id 99"):
        open_map(99, ns=namespace)
    with pytest.raises(ShmbpfError, match="there is no namespace 'nowhere-at-all'"):
        open_map("n", ns="nowhere-at-all")
    assert [map_.name for map_ in find_maps(namespace, "other")] == []


@pytest.mark.parametrize("use", [lambda m: m.raw.lookup(bytes(4), -1), lambda m: m.raw.lookup(bytes(4), 1 << 64), lambda m: m.raw.update(bytes(4), bytes(8), -1),
                                 lambda m: m.raw.add(bytes(4), 1, cpu=-1), lambda m: m.raw.add(bytes(4), 1, offset=-8), lambda m: m.batch.update({0: 1}, flags=-1),
                                 lambda m: list(m.batch.lookup(flags=1 << 64))])  # fmt: skip
def test_numbers_c_cannot_take_are_invalid(namespace, use):
    with TypedMap(Map.create(namespace, MapSpec("m", MapType.ARRAY, 4, 8, 2))) as m, pytest.raises(MapError) as refused:
        use(m)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize("numbers", [{"max_entries": -1}, {"max_entries": 1 << 32}, {"key_size": -4}, {"value_size": 1 << 40}, {"flags": -1}, {"map_extra": -1}], ids=str)
def test_maps_of_impossible_sizes_are_invalid(namespace, numbers):
    fields = {"name": "m", "type": MapType.ARRAY, "key_size": 4, "value_size": 8, "max_entries": 1} | numbers
    with pytest.raises(MapError) as refused:
        Map.create(namespace, MapSpec(**fields))
    assert refused.value.errno == errno.EINVAL


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["plain_1.x", "", "with-dash", "a b", "a#b", "a/b"])
def test_map_names_are_the_kernels(namespace, kernel, name):
    def attempt(make):
        try:
            make().close()
        except OSError as error:
            return error.errno
        return 0

    ours = attempt(lambda: Map.create(namespace, MapSpec(name, MapType.ARRAY, 4, 8, 1)))

    def linux():
        """BPF_MAP_CREATE with the name as it is: the helpers of the oracle would clean it."""
        os.close(sys_bpf(MAP_CREATE, struct.pack("=7I16s", 2, 4, 8, 1, 0, 0, 0, name.encode()))[0])

    try:
        linux()
        assert ours == 0
    except OSError as error:
        assert ours == error.errno
    assert (ours == errno.EINVAL) == bool(set(name) & set("- #/"))
