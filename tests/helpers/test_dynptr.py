"""Dynptrs as the sandbox sees them: 16 bytes of stack that mean something only as long as they are what the helper left there. Results: test_ringbuf_oracle.py."""

from __future__ import annotations

import pytest

from shmbpf._ffi import ffi, lib
from tests.conformance.live import ARRAY, Machine

RESERVE = """
    r1 = map[rb]
    r2 = 16
    r3 = 0
    r4 = r10
    r4 += -16
    call bpf_ringbuf_reserve_dynptr#198
"""
ON_STACK = "r1 = r10\nr1 += {at}\n"
WRITE = "r2 = 0\nr3 = r10\nr3 += -64\nr4 = 8\nr5 = 0\n*(u64 *)(r10 -64) = 5\ncall bpf_dynptr_write#202\n"
SUBMIT = ON_STACK.format(at=-16) + "r2 = 0\ncall bpf_ringbuf_submit_dynptr#199\n"
DISCARD = SUBMIT.replace("submit_dynptr#199", "discard_dynptr#200")
DATA = ON_STACK.format(at=-16) + "r2 = 0\nr3 = 16\ncall bpf_dynptr_data#203\nif r0 == 0 goto none\nr6 = r0\n"
FROM_MEM = """
    *(u64 *)(r10 -8) = 1
    r2 = r10
    r2 += -8
    r1 = map[values]
    call bpf_map_lookup_elem#1
    if r0 == 0 goto none
    r1 = r0
    r2 = {size}
    r3 = 0
    r4 = r10
    r4 += -16
    call bpf_dynptr_from_mem#197
"""
END = "\nr0 = 2\nexit\nnone:\nr0 = 77\nexit"


@pytest.fixture
def machine(namespace_name):
    with Machine(namespace_name) as made:
        made.map("rb", 27, 0, 0, 4096)
        made.map("values", ARRAY, 4, 16, 4)
        yield made


def run(machine, source: str):
    return machine.run(machine.program(source + END if "none" in source else source + "\nr0 = 2\nexit"))


def fault(machine, source: str) -> str:
    text = run(machine, source).fault
    assert text is not None
    return text


def counts(machine) -> tuple[int, int, int]:
    """(sent, unread bytes, aborted)."""
    m, found = machine.maps["rb"], ffi.new("struct ringbuf_counts *")
    assert lib.ringbuf_count(m.handle, m.namespace.client, found) == 0
    return found.sent, lib.ringbuf_unread(m.handle), found.aborted


def test_a_record_is_written_and_submitted(machine):
    assert run(machine, RESERVE + ON_STACK.format(at=-16) + WRITE + SUBMIT).fault is None
    assert counts(machine) == (1, 24, 0)


@pytest.mark.parametrize("use", (ON_STACK.format(at=-16) + WRITE, SUBMIT, DISCARD, DATA), ids=("write", "submit", "discard", "data"))
def test_bytes_that_are_no_dynptr_are_refused(machine, use):
    expected = "ring buffer record" if "199" in use or "200" in use else "expected an initialised dynptr"
    assert expected in fault(machine, "*(u64 *)(r10 -16) = 0\n*(u64 *)(r10 -8) = 0\n" + use)


@pytest.mark.parametrize("at", (-16, -9, -8, -1))
def test_an_overwritten_dynptr_is_none_any_more_and_its_record_is_discarded(machine, at):
    assert "expected an initialised dynptr" in fault(machine, RESERVE + f"r1 = 0\n*(u8 *)(r10 {at}) = r1\n" + ON_STACK.format(at=-16) + WRITE + SUBMIT)
    assert counts(machine) == (0, 24, 0)


def test_a_copy_of_the_bytes_is_no_dynptr(machine):
    copy = "r1 = *(u64 *)(r10 -16)\n*(u64 *)(r10 -32) = r1\nr1 = *(u64 *)(r10 -8)\n*(u64 *)(r10 -24) = r1\n"
    assert "expected an initialised dynptr" in fault(machine, RESERVE + copy + ON_STACK.format(at=-32) + WRITE + SUBMIT)


def test_a_dynptr_given_back_is_none_any_more(machine):
    assert "expected the dynptr of a reserved ring buffer record" in fault(machine, RESERVE + SUBMIT + SUBMIT)
    assert "expected an initialised dynptr" in fault(machine, RESERVE + DISCARD + ON_STACK.format(at=-16) + WRITE)


def test_memory_of_a_dynptr_given_back_is_out_of_reach(machine):
    assert run(machine, RESERVE + DATA + "*(u64 *)(r6 +8) = 1\n" + SUBMIT).fault is None
    assert "not allowed" in fault(machine, RESERVE + DATA + SUBMIT + "*(u64 *)(r6 +8) = 1\n")


def test_the_dynptr_of_a_reserved_record_cannot_be_made_anew(machine):
    assert "cannot overwrite the dynptr of a reserved record" in fault(machine, RESERVE + RESERVE + SUBMIT)


def test_an_exit_with_a_record_behind_a_dynptr_is_an_unreleased_reference(machine):
    leave = machine.program(RESERVE + "\nr0 = 2\nexit")
    with machine.cpu() as cpu:
        assert "Unreleased reference" in cpu.run(leave.id, bytes(64)).fault
        assert not lib.ringbuf_stalled(machine.maps["rb"].handle), "discarded at once, not when the CPU is gone"
    assert counts(machine) == (0, 24, 0)


def test_a_null_dynptr_must_be_given_back_too(machine):
    null = RESERVE.replace("r2 = 16", "r2 = 9999")
    assert "Unreleased reference" in fault(machine, null)
    assert run(machine, null + SUBMIT).fault is None
    assert counts(machine) == (0, 0, 0)


def test_a_dynptr_of_an_earlier_run_is_of_no_use(machine):
    """The stack keeps its bytes between runs; Linux's verifier would call them uninitialised."""
    end = "\nr0 = 2\nexit"
    leave, use = machine.program(RESERVE + end), machine.program(ON_STACK.format(at=-16) + WRITE + end)
    elsewhere = RESERVE.replace("-16", "-48") + ON_STACK.format(at=-16) + WRITE + ON_STACK.format(at=-48) + "r2 = 0\ncall bpf_ringbuf_submit_dynptr#199"
    again = machine.program(elsewhere + end)
    with machine.cpu() as cpu:
        assert "Unreleased reference" in cpu.run(leave.id, bytes(64)).fault
        assert "not the program's" in cpu.run(use.id, bytes(64)).fault
        assert "not the program's" in cpu.run(again.id, bytes(64)).fault


@pytest.mark.parametrize("place", ("r4 = r10\nr4 += -12", "r4 = r10\nr4 += -8", "r4 = r10\nr4 += -1024", "r4 = map[values]", "r4 = 0"))
def test_dynptrs_lie_on_the_stack_at_multiples_of_8(machine, place):
    assert "16 bytes of stack at a multiple of 8" in fault(machine, RESERVE.replace("r4 = r10\n    r4 += -16", place))


def test_a_dynptr_shows_a_map_value_and_nothing_beside_it(machine):
    assert run(machine, FROM_MEM.format(size=16) + DATA + "*(u64 *)(r6 +8) = 1\n").fault is None
    assert "16 bytes" not in (run(machine, FROM_MEM.format(size=12)).fault or "")
    assert "writable bytes" in fault(machine, FROM_MEM.format(size=17))


def test_dynptrs_are_for_map_values_only(machine):
    assert "dynptrs are for map values only" in fault(machine, FROM_MEM.format(size=16).replace("r1 = r0", "r1 = r10\nr1 += -64"))
