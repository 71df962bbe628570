"""The helper table says what Linux says: numbers, names, and who may call what."""

from __future__ import annotations

import errno

import pytest
from helper_calls import HELPER_IDS, SCHED_ACT, SCHED_CLS, SOCKET_FILTER, XDP
from support.kernel import KernelProgram

from shmbpf._ffi import ffi, lib

PROG_TYPES = {
    SOCKET_FILTER: lib.HOOK_BIT_SOCKET,
    SCHED_CLS: lib.HOOK_BIT_TC,
    SCHED_ACT: lib.HOOK_BIT_ACT,
    XDP: lib.HOOK_BIT_XDP,
}
#: Linux says for a helper that a program may not call (kernel/bpf/verifier.c, check_helper_call()) ...
REFUSALS = ("unknown func", "program of this type cannot use helper", "cannot call GPL-restricted function")


def rows():
    index = 0
    while (row := lib.vm_helper_at(index)) != ffi.NULL:
        yield row
        index += 1


def kernel_accepts(prog_type: int, helper: int, license: str) -> bool:
    """Whether Linux lets such a program call the helper at all. Calls with no arguments set fail later, for another reason."""
    insns = b"\x85\0\0\0" + helper.to_bytes(4, "little") + bytes.fromhex("b700000000000000" "9500000000000000")
    try:
        KernelProgram.from_insns(prog_type, insns, license=license).close()
    except OSError as error:
        assert error.errno in (errno.EACCES, errno.EINVAL), error
        return not any(words in str(error) for words in REFUSALS)
    return True


def test_every_number_from_1_to_211_has_a_name():
    assert sorted(HELPER_IDS.values()) == list(range(1, 212))


@pytest.mark.parametrize("number, name", [(1, "map_lookup_elem"), (12, "tail_call"), (41, "set_hash_invalid"), (48, "set_hash"), (69, "fib_lookup"),
                                          (93, "spin_lock"), (135, "csum_level"), (189, "xdp_load_bytes"), (208, "ktime_get_tai_ns"),
                                          (211, "cgrp_storage_delete")])  # fmt: skip
def test_numbers_are_linuxs(number, name):
    assert ffi.string(lib.vm_helper_of(number).name).decode() == name


@pytest.mark.parametrize("number", [0, 212, 0xFFFFFFFF])
def test_no_row_for_a_number_linux_does_not_know(number):
    assert lib.vm_helper_of(number) == ffi.NULL


def test_rows_come_in_id_order():
    ids = [row.id for row in rows()]
    assert ids == sorted(ids)


def test_only_tail_call_is_offered_without_a_function():
    assert [ffi.string(row.name) for row in rows() if row.hooks and row.fn == ffi.NULL] == [b"tail_call"]


def test_memory_arguments_are_followed_by_their_size():
    memory = {lib.ARG_MEM_READ, lib.ARG_MEM_READ_OR_NULL, lib.ARG_MEM_WRITE, lib.ARG_MEM_WRITE_OR_NULL}
    for row in rows():
        for kind, following in zip(row.arg, list(row.arg)[1:] + [lib.ARG_NONE]):
            assert (kind in memory) == (following in (lib.ARG_SIZE, lib.ARG_SIZE_OR_ZERO)), ffi.string(row.name)


@pytest.mark.kernel
@pytest.mark.parametrize("prog_type, hook", PROG_TYPES.items())
def test_linux_offers_every_helper_we_offer_and_no_more_of_those(prog_type, hook):
    offered = {row.id for row in rows() if row.hooks}
    ours = {row.id for row in rows() if row.hooks & hook}
    assert {number for number in offered if kernel_accepts(prog_type, number, "GPL")} == ours


@pytest.mark.kernel
def test_linux_restricts_the_same_helpers_to_gpl_programs():
    for prog_type, hook in PROG_TYPES.items():
        for row in rows():
            if row.hooks & hook:
                assert kernel_accepts(prog_type, row.id, "Proprietary") == (not row.gpl), ffi.string(row.name)
