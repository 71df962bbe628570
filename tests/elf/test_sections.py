"""A section's name tells type, attach type, flags and tail-call slot, as libbpf and tc read it."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest
from support.elf_writer import ElfWriter

from shmbpf.elf import load_object
from shmbpf.elf.sections import TABLE, parse_tail_slot, read_section_name
from shmbpf.uapi import AttachType, ProgType


@pytest.mark.parametrize(
    ("name", "type", "attach", "flags"),
    [
        ("xdp", "XDP", "XDP", 0),
        ("xdp/my_prog", "XDP", "XDP", 0),
        ("xdp.frags", "XDP", "XDP", 32),
        ("xdp.frags/devmap", "XDP", "XDP_DEVMAP", 32),
        ("xdp/devmap", "XDP", "XDP_DEVMAP", 0),
        ("xdp/cpumap", "XDP", "XDP_CPUMAP", 0),
        ("tc", "SCHED_CLS", None, 0),
        ("tc/whatever", "SCHED_CLS", None, 0),
        ("tc/ingress", "SCHED_CLS", "TCX_INGRESS", 0),
        ("tcx/egress", "SCHED_CLS", "TCX_EGRESS", 0),
        ("classifier", "SCHED_CLS", None, 0),
        ("classifier/x", "SCHED_CLS", None, 0),
        ("action", "SCHED_ACT", None, 0),
        ("action/x", "SCHED_ACT", None, 0),
        ("socket", "SOCKET_FILTER", None, 0),
        ("socket1", "SOCKET_FILTER", None, 0),
        ("sk_skb/stream_verdict", "SK_SKB", "SK_SKB_STREAM_VERDICT", 0),
        ("sk_msg", "SK_MSG", "SK_MSG_VERDICT", 0),
        ("cgroup/connect4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_CONNECT", 0),
        ("cgroup_skb/egress", "CGROUP_SKB", "CGROUP_INET_EGRESS", 0),
        ("kprobe/do_unlinkat", "KPROBE", None, 0),
        ("fentry.s/x", "TRACING", "TRACE_FENTRY", 16),
        ("prog", "XDP", None, 0),
        ("from-netdev", "SCHED_CLS", None, 0),
        ("to-container", "SCHED_CLS", None, 0),
        ("my_ingress", "SCHED_CLS", None, 0),
        ("cls_main", "SCHED_CLS", None, 0),
        ("tc_egress2", "SCHED_CLS", None, 0),
        ("act_drop", "SCHED_ACT", None, 0),
        ("xdp_fw", "XDP", None, 0),
        ("myxdp", "XDP", None, 0),
        ("sockops_main", "SOCK_OPS", None, 0),
        ("sched_cls", "SCHED_CLS", None, 0),
        ("whatever", "UNSPEC", None, 0),
        ("attach", "UNSPEC", None, 0),  # contains "tc" nowhere as a word
    ],
)
def test_name_tells_type(name, type, attach, flags):
    meaning = read_section_name(name)
    assert (meaning.type, meaning.flags, meaning.autoload) == (ProgType[type], flags, True)
    assert meaning.attach_type == (AttachType[attach] if attach else 0)


def test_question_mark_means_not_by_default():
    meaning = read_section_name("?tc/ingress")
    assert (meaning.type, meaning.attach_type, meaning.autoload) == (ProgType.SCHED_CLS, AttachType.TCX_INGRESS, False)


def test_users_type_decides_only_what_the_tables_do_not():
    assert read_section_name("whatever", ProgType.SCHED_ACT).type == ProgType.SCHED_ACT
    assert read_section_name("from-netdev", ProgType.XDP).type == ProgType.XDP
    assert read_section_name("2/7", ProgType.XDP).type == ProgType.XDP
    assert read_section_name("xdp", ProgType.SCHED_ACT).type == ProgType.XDP


@pytest.mark.parametrize(
    ("name", "slot"),
    [("2/7", (2, 7)), ("0xabc/1", (0xABC, 1)), ("010/0", (8, 0)), ("09/1", None), ("a/1", None), ("1/2/3", None), ("4294967296/0", None), ("xdp", None)],
)
def test_tail_call_slot_is_read_like_c_does(name, slot):
    assert parse_tail_slot(name) == slot


def test_every_row_names_a_type_and_attach_type_of_linux():
    for name, kind, attach, _ in TABLE:
        assert ProgType[kind] and (not attach or AttachType[attach] is not None), name


@pytest.mark.skipif(not ctypes.util.find_library("bpf"), reason="compares with libbpf, which is not installed")
def test_libbpf_reads_its_own_names_the_same():
    libbpf = ctypes.CDLL(ctypes.util.find_library("bpf"))
    libbpf.libbpf_set_print(None)
    kind, attach, seen = ctypes.c_int(), ctypes.c_int(), 0
    for name, *_ in TABLE:
        section = name.removesuffix("+").encode()
        for text in (section, section + b"/x") if name.endswith("+") else (section,):
            if libbpf.libbpf_prog_type_by_name(text, ctypes.byref(kind), ctypes.byref(attach)):
                continue  # newer than the installed libbpf
            meaning = read_section_name(text.decode())
            seen += 1
            assert (meaning.type, meaning.attach_type) == (kind.value, attach.value), text
    assert seen > 60


def test_program_of_unknown_type_still_opens():
    elf = ElfWriter()
    elf.code("whatever")
    program = load_object(elf.to_bytes()).programs["whatever"]
    assert program.type == 0
    assert load_object(elf.to_bytes(), program_type=ProgType.XDP).programs["whatever"].type == ProgType.XDP
