"""`shmbpf feature` says what the tables say, in bpftool's words."""

from __future__ import annotations

import pytest
from support.cli import bpftool, needs_bpftool

from shmbpf._ffi import ffi, lib
from shmbpf.uapi import MapType, ProgType


def test_document_is_what_can_be_made(shmbpf):
    document = shmbpf("-j", "feature").document
    assert list(document) == ["program_types", "map_types", "helpers", "misc"]
    here = {kind for kind in ProgType if document["program_types"].get(f"have_{kind.name.lower()}_prog_type")}
    assert here == {ProgType.XDP, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.SOCKET_FILTER}
    assert {kind for kind in MapType if document["map_types"].get(f"have_{kind.name.lower()}_map_type")} == {
        kind for kind in MapType if lib.map_ops_of(kind) != ffi.NULL
    }


def test_helpers_are_those_of_the_hook(shmbpf):
    helpers = shmbpf("-j", "feature").document["helpers"]
    assert set(helpers) == {f"{word}_available_helpers" for word in ("socket_filter", "sched_cls", "sched_act", "xdp")}
    assert "bpf_xdp_adjust_head" in helpers["xdp_available_helpers"] and "bpf_xdp_adjust_head" not in helpers["sched_cls_available_helpers"]
    assert all("bpf_map_lookup_elem" in names for names in helpers.values())
    assert "bpf_probe_read" not in helpers["xdp_available_helpers"], "known by name only"


def test_plain_form_has_bpftools_sentences(shmbpf):
    text = shmbpf.ok("feature", "probe")
    assert "eBPF program_type xdp is available\n" in text and "eBPF program_type kprobe is NOT available\n" in text
    assert "eBPF map_type percpu_hash is available\n" in text
    assert "eBPF helpers supported for program type xdp:\n\t- bpf_map_lookup_elem\n" in text


@needs_bpftool
def test_names_are_bpftools(shmbpf):
    for group in ("prog_types", "map_types"):
        theirs = bpftool("feature", "list_builtins", group).out.split()
        assert [name for name in shmbpf.ok("feature", "list_builtins", group).split() if name in theirs] == theirs
    helpers = bpftool("feature", "list_builtins", "helpers").out.split()
    assert set(helpers) - {"bpf_unspec"} <= set(shmbpf("-j", "feature", "list_builtins", "helpers").document)


@pytest.mark.kernel
@needs_bpftool
def test_keys_of_the_document_are_bpftools(shmbpf):
    ours, theirs = shmbpf("-j", "feature").document, bpftool("-j", "feature", "probe").document
    for section in ("program_types", "map_types", "misc"):
        assert set(theirs[section]) - {"have_unspec_map_type"} <= set(ours[section]), section
    assert set(ours["helpers"]) <= set(theirs["helpers"])


@pytest.mark.parametrize("words", [("frob",), ("list_builtins",), ("list_builtins", "x"), ("probe", "x")])
def test_wrong_words_exit_with_2(shmbpf, words):
    assert shmbpf("feature", *words).code == 2
