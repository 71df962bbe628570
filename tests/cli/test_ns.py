"""`shmbpf ns`."""

from __future__ import annotations

import os
import secrets

import pytest
from support.programs import RETURN_2, make

from shmbpf._ffi import ffi
from shmbpf.events.perf import PerfRing
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace, namespace_exists
from shmbpf.shm.pins import PinTree
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapType


@pytest.fixture
def counters(namespace):
    namespace.fix_cpus(3)
    with Map.create(namespace, MapSpec("counters", MapType.ARRAY, 4, 8, 4)) as map_:
        yield map_


def entry(document, name):
    return next((facts for facts in document if facts["name"] == name), None)


def test_list_has_the_namespace_with_its_facts(shmbpf, namespace, counters):
    facts = entry(shmbpf("-j", "ns", "list").document, namespace.name)
    assert (facts["possible_cpus"], facts["runtime_pid"], facts["maps"], facts["progs"]) == (3, None, 1, 0)
    assert facts["bytes"] >= counters.memory_bytes
    assert f"{namespace.name}: cpus 3  maps 1  progs 0  bytes {facts['bytes']}\n" in shmbpf.ok("ns", "list")


def test_list_names_the_runtime(shmbpf, namespace, counters):
    namespace.claim_runtime()
    try:
        assert entry(shmbpf("-j", "ns", "list").document, namespace.name)["runtime_pid"] == os.getpid()
        assert f"runtime {os.getpid()}" in shmbpf.ok("ns", "show")
    finally:
        namespace.release_runtime()


def test_show_lists_objects(shmbpf, namespace, counters):
    with make(namespace, RETURN_2, name="first") as program:
        document = shmbpf("-j", "ns", "show", namespace.name).document
        assert document["maps"] == [{"id": counters.id, "type": "array", "name": "counters", "bytes": counters.memory_bytes}]
        assert document["progs"] == [{"id": program.id, "type": "xdp", "name": "first"}]
        assert f"\tmap {counters.id}: array  name counters" in shmbpf.ok("ns", "show")


def test_show_of_an_unknown_namespace_is_refused(shmbpf):
    outcome = shmbpf("ns", "show", "nowhere-at-all")
    assert outcome.code == 1 and "namespace 'nowhere-at-all' does not exist" in outcome.err


def test_listing_makes_no_namespace(shmbpf):
    before = {name for name in os.listdir("/dev/shm") if ".nowhere-at-all." in name}
    shmbpf.namespace = "nowhere-at-all"
    shmbpf.ok("ns", "list")
    assert {name for name in os.listdir("/dev/shm") if ".nowhere-at-all." in name} == before == set()


def test_gc_removes_what_nobody_holds_and_says_so(shmbpf, namespace, counters):
    lost = f"/dev/shm/{namespace.prefix}.map.999"
    with open(lost, "wb") as file:
        file.write(bytes(4096))
    held = f"/dev/shm/{namespace.prefix}.map.{counters.id}"
    assert namespace.name in shmbpf("-j", "ns", "gc").document
    assert not os.path.exists(lost) and os.path.exists(held)


def test_gc_cleans_namespaces_that_lost_their_control_segment(shmbpf, namespace):
    orphan = f"{namespace.name}-{secrets.token_hex(3)}"
    lost = f"/dev/shm/shmbpf.{os.getuid()}.{orphan}.map.1"
    with open(lost, "wb") as file:
        file.write(bytes(4096))
    shmbpf.namespace = None  # without --ns it is all of them
    assert f"{orphan}: removed map.1" in shmbpf("ns", "gc").out
    assert not [name for name in os.listdir("/dev/shm") if f".{orphan}." in name]


def test_check_finds_sound_maps(shmbpf, namespace, counters):
    assert shmbpf.ok("ns", "check", namespace.name) == f"{namespace.name}: map {counters.id} counters: ok\n"
    assert shmbpf("-j", "ns", "check", namespace.name).document == [{"namespace": namespace.name, "kind": "map", "id": counters.id, "name": "counters", "repaired": 0, "error": None}]


def test_check_finds_damage_and_exits_with_1(shmbpf, namespace):
    namespace.fix_cpus(1)
    with Map.create(namespace, MapSpec("broken", MapType.HASH, 4, 8, 4)) as map_:
        map_.update(bytes(4), bytes(8))
        links = map_.handle.links
        saved = bytes(links[i] for i in range(64))
        for i in range(64):
            links[i] = 0xEE
        outcome = shmbpf("ns", "check", namespace.name)
        for i in range(64):
            links[i] = saved[i]
        assert outcome.code == 1 and f"map {map_.id} broken: " in outcome.out and not outcome.out.endswith(": ok\n")


@pytest.mark.parametrize("words", [("list", "more"), ("gc", "more"), ("show", "a", "b"), ("frob",)])
def test_wrong_words_exit_with_2(shmbpf, words):
    assert shmbpf("ns", *words).code == 2


def test_gc_of_a_named_namespace_leaves_the_others_alone(shmbpf, namespace, namespace_name):
    other = f"{namespace_name}-{secrets.token_hex(3)}"
    lost = {name: f"/dev/shm/shmbpf.{os.getuid()}.{name}.map.999" for name in (namespace_name, other)}
    for path in lost.values():
        with open(path, "wb") as file:
            file.write(bytes(4096))
    try:
        assert list(shmbpf("-j", "ns", "gc").document) == [namespace_name]
        assert [os.path.exists(path) for path in lost.values()] == [False, True]
        assert "--ns" in shmbpf.ok("ns", "gc", "--help")
    finally:
        os.unlink(lost[other])


def test_check_looks_at_rings_too(shmbpf, namespace):
    with Map.create(namespace, MapSpec("events", MapType.PERF_EVENT_ARRAY, 4, 4, 4)) as events, PerfRing.open(events, 0) as ring:
        assert shmbpf.ok("ns", "check", namespace.name).splitlines()[-1] == f"{namespace.name}: ring {ring.id}: ok"
        ring._handle.ctl.state[0].head = 5
        outcome = shmbpf("ns", "check", namespace.name)
        assert outcome.code == 1 and "head 5 is not a multiple of 8" in outcome.out


def test_check_goes_on_behind_a_namespace_of_another_build(shmbpf, namespace, counters):
    """One line for what cannot be looked at, the others as usual, exit 1."""
    other = f"{namespace.name}-other"
    with Namespace(other) as broken:
        abi = broken.ctl.head.abi
        broken.ctl.head.abi = abi ^ 1
        outcome = shmbpf("ns", "check", namespace.name, other)
        broken.ctl.head.abi = abi
    assert outcome.code == 1
    first, second = outcome.out.splitlines()
    assert first.endswith(": ok") and "was made by another build" in second


def test_repair_puts_back_what_the_dead_left(shmbpf, namespace):
    """A lock word of a client that is gone is taken over, and counted."""
    namespace.fix_cpus(1)
    with Map.create(namespace, MapSpec("flows", MapType.HASH, 4, 8, 4)) as map_:
        map_.update(bytes(4), bytes(8))
        ghost = 700 << 20 | 5  # slot 699 never was
        buckets = ffi.cast("struct shm_bucket *", map_.handle.buckets)
        for bucket in range(map_.handle.mask + 1):
            buckets[bucket].lock = ghost
        out = shmbpf.ok("ns", "check", "--repair", namespace.name)
        assert f"map {map_.id} flows: ok (repaired: {map_.handle.mask + 1})" in out
        assert "repaired" not in shmbpf.ok("ns", "check", namespace.name)


def test_check_looks_at_programs_too(shmbpf, namespace):
    with make(namespace, RETURN_2) as program:
        assert f"prog {program.id} twin: ok" in shmbpf.ok("ns", "check", namespace.name)
        program.image.insns[0].code = 0xFF
        outcome = shmbpf("ns", "check", namespace.name)
        assert outcome.code == 1 and "prog 1 twin: " in outcome.out and "ok" not in outcome.out


def test_rm_removes_what_is_pinned(shell):
    with Namespace(shell.ns) as namespace:
        with Map.create(namespace, MapSpec("kept", MapType.ARRAY, 4, 8, 4)) as map_:
            PinTree(namespace).pin("map", map_.id, "a/b", parents=True)
        assert f"in use by PID {os.getpid()} (python): end them first" in shell.refused("ns", "rm", shell.ns)
    assert namespace_exists(shell.ns)
    shell.ok("ns", "rm", shell.ns)
    assert not namespace_exists(shell.ns)
    assert "does not exist" in shell.refused("ns", "rm", shell.ns)
