"""Which bytes of maps a program may touch: values of its own maps, element by element, this CPU's copy, with the rights the map was made with."""

from __future__ import annotations

import struct

import pytest

from shmbpf.errors import LoadError
from shmbpf.uapi import MapFlag
from tests.conformance.live import ARRAY, HASH, PERCPU_ARRAY, PERCPU_HASH, PROG_ARRAY, Machine

#: leaves the value of element `key` of `map[m]` in r0, or goes to `none`
LOOKUP = """
    *(u64 *)(r10 -8) = {key}
    r2 = r10
    r2 += -8
    r1 = map[m]
    call bpf_map_lookup_elem#1
    if r0 == 0 goto none
"""
NONE = "\nnone:\nr0 = 77\nexit"


@pytest.fixture
def machine(namespace_name):
    with Machine(namespace_name) as made:
        yield made


def with_value(body: str, key: int = 1) -> str:
    return LOOKUP.format(key=key) + body + NONE


@pytest.mark.parametrize("type", (ARRAY, HASH, PERCPU_ARRAY, PERCPU_HASH))
@pytest.mark.parametrize("value_bytes", (4, 8, 12, 20, 64))
def test_value_is_reachable_to_its_last_byte_and_not_beyond(machine, type, value_bytes):
    machine.map("m", type, 4, value_bytes, 8)
    setup = "" if type in (ARRAY, PERCPU_ARRAY) else "*(u32 *)(r10 -8) = 1\n" + "".join(f"*(u32 *)(r10 {-80 + at}) = 0\n" for at in range(0, 64, 4)) + """
        r1 = map[m]
        r2 = r10
        r2 += -8
        r3 = r10
        r3 += -80
        r4 = 0
        call bpf_map_update_elem#2
    """
    inside = machine.program(setup + with_value(f"*(u8 *)(r0 {value_bytes - 1:+}) = 1\nr0 = *(u8 *)(r0 {value_bytes - 1:+})\nexit"))
    straddling = machine.program(setup + with_value(f"r0 = *(u32 *)(r0 {value_bytes - 3:+})\nexit"))
    before = machine.program(setup + with_value("r0 = *(u32 *)(r0 -2)\nexit"))
    assert (machine.run(inside).retval, machine.run(inside).fault) == (1, None)
    for program in (straddling, before):
        assert "not allowed" in machine.run(program).fault


def test_padding_between_elements_is_no_memory(machine):
    machine.map("m", ARRAY, 4, 12, 8)
    assert "4-byte load" in machine.run(machine.program(with_value("r0 = *(u32 *)(r0 +12)\nexit"))).fault


def test_last_element_ends_the_map(machine):
    machine.map("m", ARRAY, 4, 8, 8)
    run = machine.run(machine.program(with_value("r0 = *(u8 *)(r0 +8)\nexit", key=7)))
    assert "not allowed" in run.fault and "map id" in run.fault


def test_key_beside_the_value_of_a_hash_is_no_memory(machine):
    machine.map("m", HASH, 8, 8, 8).update(struct.pack("<Q", 1), bytes(8))
    assert "not allowed" in machine.run(machine.program(with_value("*(u64 *)(r0 +8) = 1\nexit"))).fault


def test_maps_of_other_programs_are_no_memory(machine):
    """The address leaks through a map; a program that does not name the map may not use it."""
    machine.map("m", ARRAY, 4, 8, 1)
    machine.map("leak", ARRAY, 4, 8, 1)
    giver = machine.program("r1 = map[m][0]+0\nr2 = map[leak][0]+0\n*(u64 *)(r2 +0) = r1\nr0 = *(u64 *)(r1 +0)\nexit")
    taker = machine.program("r2 = map[leak][0]+0\nr1 = *(u64 *)(r2 +0)\nr0 = *(u64 *)(r1 +0)\nexit")
    with machine.cpu() as cpu:
        assert cpu.run(giver.id, bytes(64)).fault is None
        assert "load that is not allowed" in cpu.run(taker.id, bytes(64)).fault


def test_map_handle_is_no_memory(machine):
    machine.map("m", ARRAY, 4, 8, 1)
    assert "load that is not allowed" in machine.run(machine.program("r1 = map[m]\nr0 = *(u64 *)(r1 +0)\nexit")).fault


def test_read_only_map_refuses_stores(machine):
    machine.map("m", ARRAY, 4, 8, 1, MapFlag.RDONLY_PROG)
    assert machine.run(machine.program("r1 = map[m][0]+0\nr0 = *(u64 *)(r1 +0)\nexit")).fault is None
    assert "8-byte store" in machine.run(machine.program("r1 = map[m][0]+0\nr0 = 0\n*(u64 *)(r1 +0) = r0\nexit")).fault
    assert "lock" in machine.run(machine.program("r1 = map[m][0]+0\nr0 = 1\nlock *(u64 *)(r1 +0) += r0\nexit")).fault


def test_write_only_map_refuses_loads_and_lookup(machine):
    machine.map("m", ARRAY, 4, 8, 1, MapFlag.WRONLY_PROG)
    assert machine.run(machine.program("r1 = map[m][0]+0\nr0 = 0\n*(u64 *)(r1 +0) = r0\nexit")).fault is None
    assert "8-byte load" in machine.run(machine.program("r1 = map[m][0]+0\nr0 = *(u64 *)(r1 +0)\nexit")).fault
    assert "BPF_F_WRONLY_PROG" in machine.run(machine.program(with_value("r0 = 0\nexit", key=0))).fault


def test_direct_value_access_needs_a_single_element_array(machine):
    machine.map("m", ARRAY, 4, 8, 2)
    with pytest.raises(LoadError, match="only arrays with max_entries 1"):
        machine.program("r1 = map[m][0]+0\nr0 = 0\nexit")
    machine.map("m", HASH, 4, 8, 1)
    with pytest.raises(LoadError, match="only arrays with max_entries 1"):
        machine.program("r1 = map[m][0]+0\nr0 = 0\nexit")


def test_direct_value_offset_must_be_inside(machine):
    machine.map("m", ARRAY, 4, 8, 1)
    machine.program("r1 = map[m][0]+7\nr0 = *(u8 *)(r1 +0)\nexit")
    with pytest.raises(LoadError, match="value_size=8 off=8"):
        machine.program("r1 = map[m][0]+8\nr0 = 0\nexit")


def test_other_cpus_value_is_reached_only_through_the_helper(machine):
    machine.map("m", PERCPU_ARRAY, 4, 8, 4)
    helper = """
        *(u64 *)(r10 -8) = 1
        r2 = r10
        r2 += -8
        r1 = map[m]
        r3 = 1
        call bpf_map_lookup_percpu_elem#195
        if r0 == 0 goto none
        *(u64 *)(r0 +0) = 42
        r0 = *(u64 *)(r0 +0)
        exit""" + NONE
    run = machine.run(machine.program(helper), cpu=0)
    assert (run.retval, run.fault) == (42, None)
    assert struct.unpack("<2Q", machine.maps["m"].lookup(struct.pack("<I", 1))) == (0, 42)
    distance = 4096  # a CPU's block is a page here
    assert "not allowed" in machine.run(machine.program(with_value(f"r1 = {distance}\nr0 += r1\nr0 = *(u64 *)(r0 +0)\nexit"))).fault


def test_prog_array_is_for_tail_calls_only(machine):
    machine.map("m", PROG_ARRAY, 4, 4, 4)
    assert "cannot pass map id" in machine.run(machine.program(with_value("r0 = 0\nexit"))).fault
    machine.map("m", ARRAY, 4, 4, 4)
    assert "cannot pass map id" in machine.run(machine.program("r2 = map[m]\nr3 = 0\ncall bpf_tail_call#12\nr0 = 0\nexit")).fault


def test_value_pointer_survives_many_maps(machine):
    """The remembered region of an instruction is a guess: one load that sees stack, packet and several maps in turn stays right."""
    for name in ("a", "b", "c"):
        machine.map(name, ARRAY, 4, 8, 1).update(bytes(4), struct.pack("<Q", ord(name)))
    source = """
        r6 = r1
        *(u64 *)(r10 -8) = 1
        r1 = r10
        r1 += -8
        call load
        r7 = r0
        r1 = map[a][0]+0
        call load
        r7 += r0
        r1 = map[b][0]+0
        call load
        r7 += r0
        r1 = map[c][0]+0
        call load
        r7 += r0
        r1 = *(u32 *)(r6 +0)
        call load
        r7 += r0
        r0 = r7
        exit
    load:
        r0 = *(u64 *)(r1 +0)
        exit"""
    run = machine.run(machine.program(source), struct.pack("<Q", 1000) + bytes(56))
    assert (run.retval, run.fault) == (1 + 97 + 98 + 99 + 1000, None)
