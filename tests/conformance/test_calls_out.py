"""Leaving a program and coming back: tail calls, callbacks of bpf_loop and bpf_for_each_map_elem, spin locks."""

from __future__ import annotations

import struct

import pytest

from shmbpf.uapi import ProgType
from tests.conformance.live import ARRAY, HASH, PROG_ARRAY, XDP, Machine

COUNT = "r8 = map[hits][0]+0\nr7 = 1\nlock *(u64 *)(r8 +0) += r7\n"
TAIL = "r2 = map[jump]\nr3 = {slot}\ncall bpf_tail_call#12\n"


@pytest.fixture
def machine(namespace_name):
    with Machine(namespace_name) as made:
        made.map("jump", PROG_ARRAY, 4, 4, 4)
        made.map("hits", ARRAY, 4, 8, 1)
        yield made


def hits(machine: Machine) -> int:
    return struct.unpack("<Q", machine.maps["hits"].lookup(bytes(4)))[0]


def put(machine: Machine, slot: int, program) -> None:
    machine.maps["jump"].update(struct.pack("<I", slot), struct.pack("<I", program.id))


def test_tail_call_does_not_come_back(machine):
    put(machine, 1, machine.program("r0 = 5\nexit"))
    run = machine.run(machine.program(TAIL.format(slot=1) + "r0 = 9\nexit"))
    assert (run.retval, run.fault) == (5, None)


@pytest.mark.parametrize("slot", (0, 4, -1))
def test_empty_slot_and_bad_index_fall_through(machine, slot):
    run = machine.run(machine.program(TAIL.format(slot=slot) + "r0 = 9\nexit"))
    assert (run.retval, run.fault) == (9, None)


def test_chain_ends_after_33_tail_calls(machine):
    program = machine.program(COUNT + TAIL.format(slot=1) + "r0 = 7\nexit")
    put(machine, 1, program)
    run = machine.run(program)
    assert (run.retval, run.fault, hits(machine)) == (7, None, 34)


def test_tail_call_in_a_subprogram_returns_to_its_caller(machine):
    """As with Linux's JITs: the target replaces the subprogram's frame."""
    put(machine, 1, machine.program("r6 = 500\nr0 = 5\nexit"))
    run = machine.run(machine.program("r6 = 30\ncall sub\nr0 += r6\nexit\nsub:\n" + TAIL.format(slot=1) + "r0 = 9\nexit"))
    assert (run.retval, run.fault) == (35, None)


@pytest.mark.kernel
def test_tail_call_chain_equals_linux(machine, kernel):
    program = machine.program(COUNT + TAIL.format(slot=1) + "r0 = 7\nexit")
    put(machine, 1, program)
    ours = machine.run(program).retval, hits(machine)
    with kernel.KernelMap(PROG_ARRAY, 4, 4, 4) as jump, kernel.KernelMap(ARRAY, 4, 8, 1) as counter:
        ids = {machine.maps["jump"].id: jump.fd, machine.maps["hits"].id: counter.fd}
        code = bytearray(program.insns)
        for at in range(0, len(code), 8):
            if code[at] == 0x18 and code[at + 1] >> 4 in (1, 2):
                struct.pack_into("<i", code, at + 4, ids[struct.unpack_from("<i", code, at + 4)[0]])
        with kernel.KernelProgram.from_insns(XDP, bytes(code)) as loaded:
            jump.update(struct.pack("<I", 1), struct.pack("<i", loaded.fd))
            linux = loaded.run(bytes(64)).retval, struct.unpack("<Q", counter.lookup(bytes(4)))[0]
            jump.delete(struct.pack("<I", 1))
    assert ours == linux


def test_target_uses_its_own_maps_and_not_its_callers(machine):
    machine.map("mine", ARRAY, 4, 8, 1)
    put(machine, 1, machine.program("r0 = *(u64 *)(r9 +0)\nexit"))
    put(machine, 2, machine.program("r1 = map[mine][0]+0\nr0 = *(u64 *)(r1 +0)\nexit"))
    other = machine.run(machine.program("r9 = map[mine][0]+0\n" + TAIL.format(slot=1) + "r0 = 9\nexit"))
    assert "load that is not allowed" in other.fault
    assert machine.run(machine.program(TAIL.format(slot=2) + "r0 = 9\nexit")).fault is None


def test_caller_has_its_maps_again_after_a_tail_call_in_a_subprogram(machine):
    put(machine, 1, machine.program("r0 = 5\nexit"))
    source = "r6 = map[hits][0]+0\ncall sub\n*(u64 *)(r6 +0) = r0\nexit\nsub:\n" + TAIL.format(slot=1) + "r0 = 9\nexit"
    assert machine.run(machine.program(source)).fault is None
    assert hits(machine) == 5


def test_endless_chain_through_slots_ends(machine):
    one, two = machine.program(COUNT + TAIL.format(slot=2) + "r0 = 1\nexit"), machine.program(COUNT + TAIL.format(slot=1) + "r0 = 2\nexit")
    put(machine, 1, one)
    put(machine, 2, two)
    assert (machine.run(one).retval, hits(machine)) == (2, 34)


LOOP = """
    *(u64 *)(r10 -8) = 0
    r1 = {count}
    r2 = subprog[body]
    r3 = r10
    r3 += -8
    r4 = 0
    call bpf_loop#181
    r1 = *(u64 *)(r10 -8)
    w1 = w1
    r0 <<= 32
    r0 |= r1
    r8 = map[hits][0]+0
    *(u64 *)(r8 +0) = r0
    exit
body:
    r3 = *(u64 *)(r2 +0)
    r3 += r1
    *(u64 *)(r2 +0) = r3
    r0 = 0
    if r1 < {stop} goto +1
    r0 = 1
    exit
"""


@pytest.mark.parametrize(("count", "stop", "calls"), ((0, 99, 0), (10, 99, 10), (10, 4, 5), (100000, 200000, 100000)))
def test_bpf_loop_calls_back_until_told_to_stop(machine, count, stop, calls):
    assert machine.run(machine.program(LOOP.format(count=count, stop=stop))).fault is None
    assert (hits(machine) >> 32, hits(machine) & 0xFFFFFFFF) == (calls, sum(range(calls)) & 0xFFFFFFFF)


def test_fault_in_a_callback_names_the_callbacks_instruction(machine):
    source = LOOP.format(count=3, stop=9).replace("*(u64 *)(r2 +0) = r3", "*(u64 *)(r2 +8) = r3")
    with machine.cpu() as cpu:
        run = cpu.run(machine.program(source).id, bytes(64))
        assert "8-byte store" in run.fault and "*(u64 *)(r2 +8) = r3" in run.fault


def test_callbacks_nest_eight_frames_deep_and_no_deeper(machine):
    levels = 6
    source = "r1 = 1\nr2 = subprog[f0]\nr3 = 0\nr4 = 0\ncall bpf_loop#181\nr0 = 1\nexit\n"
    for level in range(levels):
        source += f"f{level}:\nr1 = 1\nr2 = subprog[f{level + 1}]\nr3 = 0\nr4 = 0\ncall bpf_loop#181\nr0 = 0\nexit\n"
    fits = source + f"f{levels}:\n{COUNT}r0 = 0\nexit\n"
    deeper = source + f"f{levels}:\nr1 = 1\nr2 = subprog[last]\nr3 = 0\nr4 = 0\ncall bpf_loop#181\nr0 = 0\nexit\nlast:\nr0 = 0\nexit\n"
    assert machine.run(machine.program(fits)).fault is None
    assert hits(machine) == 1
    assert "callback would be frame 9" in machine.run(machine.program(deeper)).fault


def test_callback_spends_the_budget(machine):
    inner = "r1 = 8388608\nr2 = subprog[b{n}]\nr3 = 0\nr4 = 0\ncall bpf_loop#181\nr0 = 0\nexit\n"
    source = inner.format(n=1) + "b1:\n" + inner.format(n=2) + "b2:\nr0 = 0\nexit\n"
    with machine.cpu() as cpu:
        cpu._cpu.budget_limit = 100_000
        assert "budget" in cpu.run(machine.program(source).id, bytes(64)).fault


@pytest.mark.parametrize("type", (ARRAY, HASH))
def test_for_each_shows_key_and_value(machine, type):
    values = machine.map("m", type, 4, 8, 8)
    for index in range(8):
        values.update(struct.pack("<I", index), struct.pack("<Q", index * 100))
    source = """
        r1 = map[m]
        r2 = subprog[each]
        r3 = r10
        r3 += -16
        *(u64 *)(r10 -16) = 0
        *(u64 *)(r10 -8) = 0
        r4 = 0
        call bpf_for_each_map_elem#164
        r1 = *(u64 *)(r10 -16)
        r8 = map[hits][0]+0
        *(u64 *)(r8 +0) = r1
        exit
    each:
        r5 = *(u32 *)(r2 +0)
        r6 = *(u64 *)(r3 +0)
        r5 += r6
        r6 = *(u64 *)(r4 +0)
        r5 += r6
        *(u64 *)(r4 +0) = r5
        r0 = 0
        exit"""
    run = machine.run(machine.program(source))
    assert (run.fault, run.retval, hits(machine)) == (None, 8, sum(range(8)) * 101)


def test_key_of_for_each_is_gone_afterwards(machine):
    machine.map("m", ARRAY, 4, 8, 2)
    source = """
        r1 = map[m]
        r2 = subprog[each]
        r3 = r10
        r3 += -8
        r4 = 0
        call bpf_for_each_map_elem#164
        r1 = *(u64 *)(r10 -8)
        r0 = *(u32 *)(r1 +0)
        exit
    each:
        *(u64 *)(r4 +0) = r2
        r0 = 0
        exit"""
    assert "4-byte load that is not allowed" in machine.run(machine.program(source)).fault


def test_target_of_another_hook_is_never_entered(machine):
    """Whatever stored it there: the interpreter looks again."""
    machine.maps["jump"].update(struct.pack("<I", 1), struct.pack("<I", machine.program("r0 = 5\nexit", ProgType.SCHED_CLS).id))
    with machine.cpu() as cpu:
        run = cpu.run(machine.program(TAIL.format(slot=1) + "r0 = 9\nexit").id, bytes(64))
        assert (run.retval, run.fault, cpu._cpu.tail_misses) == (9, None, 1)


LOCKED = """
    *(u64 *)(r10 -8) = 0
    r2 = r10
    r2 += -8
    r1 = map[locked]
    call bpf_map_lookup_elem#1
    if r0 == 0 goto none
    r6 = r0
    r1 = r6
    call bpf_spin_lock#93
    {inside}
    r1 = r6
    call bpf_spin_unlock#94
    r0 = *(u64 *)(r6 +8)
    exit
none:
    r0 = 77
    exit
{functions}"""


@pytest.fixture
def locked(machine, monkeypatch):
    monkeypatch.setattr("shmbpf.maps.map._spin_lock_offset", lambda spec: 0)
    machine.map("locked", ARRAY, 4, 16, 4)
    return machine


def locked_run(machine: Machine, inside: str, functions: str = ""):
    return machine.run(machine.program(LOCKED.format(inside=inside, functions=functions)))


def test_lock_and_unlock_guard_a_value(locked):
    run = locked_run(locked, "r2 = *(u64 *)(r6 +8)\nr2 += 3\n*(u64 *)(r6 +8) = r2")
    assert (run.retval, run.fault) == (3, None)
    assert locked.maps["locked"].lookup(bytes(4))[:4] == bytes(4)


REFUSED_LOCKED = {
    "exit": ("if r6 == 0 goto +2\nr0 = 0\nexit", "", "exit while holding a bpf_spin_lock"),
    "helper": ("call bpf_ktime_get_ns#5", "", "bpf_ktime_get_ns called while holding"),
    "second lock": ("r1 = r6\ncall bpf_spin_lock#93", "", "bpf_spin_lock called while holding"),
    "tail call": ("r2 = map[jump]\nr3 = 0\ncall bpf_tail_call#12", "", "bpf_tail_call called while holding"),
    "fault": ("r2 = 0\nr0 = *(u8 *)(r2 +0)", "", "NULL"),
    "fault in a function": ("call f", "f:\nr2 = 0\nr0 = *(u8 *)(r2 +0)\nexit", "NULL"),
}


@pytest.mark.parametrize("name", REFUSED_LOCKED)
def test_stopped_run_gives_its_lock_back(locked, name):
    inside, functions, words = REFUSED_LOCKED[name]
    assert words in locked_run(locked, inside, functions).fault
    run = locked_run(locked, "r2 = 1")
    assert (run.retval, run.fault) == (0, None)


def test_function_may_be_called_while_locked(locked):
    run = locked_run(locked, "r1 = r6\ncall f", "f:\n*(u64 *)(r1 +8) = 4\nexit")
    assert (run.retval, run.fault) == (4, None)


@pytest.mark.parametrize("access", ("r0 = *(u32 *)(r6 +0)", "*(u8 *)(r6 +3) = 1", "r0 = *(u64 *)(r6 +0)", "r2 = 1\nlock *(u32 *)(r6 +0) += r2"))
def test_lock_word_is_no_memory(locked, access):
    assert "not allowed" in locked_run(locked, access).fault


@pytest.mark.parametrize("call", ("r1 = r6\nr1 += 8\ncall bpf_spin_unlock#94", "r1 = r10\nr1 += -8\ncall bpf_spin_unlock#94"))
def test_unlock_takes_only_the_lock_of_a_value(locked, call):
    assert "expected the bpf_spin_lock of a map value" in locked_run(locked, call).fault


def test_unlock_of_another_value_is_a_fault(locked):
    assert "does not hold" in locked_run(locked, "r1 = r6\nr1 += 16\ncall bpf_spin_unlock#94").fault
