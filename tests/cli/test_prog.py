"""`shmbpf prog show` and `prog dump xlated`."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import time

import pytest
from support.cli import bpftool, needs_bpftool
from support.compile import compile_bpf
from support.kernel import KernelMap, KernelProgram, possible_cpus
from support.programs import RETURN_2, make

from shmbpf.maps.map import Map
from shmbpf.spec import FuncInfo, LineInfo, MapRef, MapSpec
from shmbpf.uapi import MapType, ProgType

FORMS = [(), ("-j",), ("-p",)]
#: r1 = 0x1122334455667788 ll; w2 = -1; a load of which the verifier does not know the value; if r2 s> 5 goto +1; *(u32 *)(r10 -4) = r1; r0 = 2; exit
VARIED = bytes.fromhex(
    "1801000088776655" "0000000044332211" "b4020000ffffffff" "620afcff00000000" "731afcff00000000" "61a2fcff00000000" "6502010005000000"
    "631afcff00000000" "b700000002000000" "9500000000000000"
)  # fmt: skip
#: r1 = map; call subprogram at 4; exit; subprogram: r0 = 1; exit
CALLING = bytes.fromhex("1801000000000000" "0000000000000000" "8510000001000000" "9500000000000000" "b700000001000000" "9500000000000000")


@pytest.fixture
def program(namespace):
    with make(namespace, RETURN_2, name="first") as made:
        yield made


def without_ids(text: str, number: int) -> str:
    text = re.sub(rf'(?m)^{number}:|(?<="id":){number}\b|(?<="id": ){number}\b', "ID:", text)
    text = re.sub(r"loaded_at \S+", "loaded_at T", re.sub(r'("loaded_at": ?)\d+', r"\1T", text))
    text = re.sub(r"jited \d+B", "not jited", text)
    text = re.sub(r'"jited": ?true,(\s*)"bytes_jited": ?\d+', r'"jited": false', re.sub(r'"jited": ?false', '"jited": false', text))
    return re.sub(r'(memlock"?:? ?)\d+', r"\1N", text)


@pytest.mark.kernel
@needs_bpftool
@pytest.mark.parametrize("type", [ProgType.XDP, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.SOCKET_FILTER], ids=str)
@pytest.mark.parametrize("insns", [RETURN_2, VARIED], ids=["short", "varied"])
def test_programs_print_as_bpftool_prints_them(shmbpf, namespace, type, insns):
    with make(namespace, insns, type=type) as ours, KernelProgram.from_insns(type, insns, name="twin") as theirs:
        for words in (("show",), ("dump", "xlated"), ("dump", "xlated", "opcodes")):
            for form in FORMS:
                shown = shmbpf.ok(*form, "prog", *words[:2], "id", ours.id, *words[2:])
                expected = bpftool(*form, "prog", *words[:2], "id", theirs.id, *words[2:]).out
                assert without_ids(shown, ours.id) == without_ids(expected, theirs.id), (form, words)


@pytest.mark.kernel
@needs_bpftool
def test_map_references_print_as_bpftool_prints_them(shmbpf, namespace):
    load_map = "1811000000000000" "0000000000000000" "1821000000000000" "0000000004000000" "b700000002000000" "9500000000000000"
    namespace.fix_cpus(possible_cpus())
    refs = (MapRef(0, "m"), MapRef(2, "m", 4))
    with Map.create(namespace, MapSpec("m", MapType.ARRAY, 4, 8, 1)) as map_, make(namespace, bytes.fromhex(load_map), maps={"m": map_}, map_refs=refs) as ours:
        with KernelMap(2, 4, 8, 1) as kernel_map:
            code = bytearray.fromhex(load_map)
            struct.pack_into("<I", code, 4, kernel_map.fd)
            struct.pack_into("<I", code, 20, kernel_map.fd)
            with KernelProgram.from_insns(6, bytes(code), name="twin") as theirs:
                for form in FORMS:
                    shown = shmbpf.ok(*form, "prog", "dump", "xlated", "id", ours.id)
                    expected = bpftool(*form, "prog", "dump", "xlated", "id", theirs.id).out
                    assert shown == expected.replace(f"id:{kernel_map.id}]", f"id:{map_.id}]")
                document = shmbpf("-j", "prog", "show", "id", ours.id).document
                assert document["map_ids"] == [map_.id]
                assert list(document) == [key for key in bpftool("-j", "prog", "show", "id", str(theirs.id)).document if key != "bytes_jited"]


def test_show_lists_all_and_finds_by_id_name_and_tag(shmbpf, namespace, program):
    with make(namespace, VARIED, name="second") as second:
        assert [entry["name"] for entry in shmbpf("-j", "prog", "show").document] == ["first", "second"]
        assert shmbpf.ok("prog", "list").count("loaded_at") == 2
        for words in (("id", second.id), ("name", "second"), ("tag", second.tag)):
            assert shmbpf("-j", "prog", "show", *words).document["name"] == "second"


def test_facts_of_a_program_are_true(shmbpf, program):
    document = shmbpf("-j", "prog", "show", "name", "first").document
    assert (document["type"], document["uid"], document["gpl_compatible"], document["bytes_xlated"], document["jited"]) == ("xdp", os.getuid(), True, 16, False)
    assert document["tag"] == program.tag and abs(document["loaded_at"] - time.time()) < 60


def test_no_programs_is_an_empty_list(shmbpf):
    assert shmbpf.ok("prog", "show") == ""
    assert shmbpf.ok("-j", "prog", "show") == "[]\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("id", 4711), "has no program with id 4711"),
        (("name", "nobody"), "is called 'nobody'"),
        (("tag", "0011"), "expected 16 hexadecimal digits"),
        (("tag", "0" * 16), "has the tag 0000000000000000"),
    ],
)
def test_unknown_programs_are_refused(shmbpf, program, words, message):
    for command in (("show",), ("dump", "xlated")):
        outcome = shmbpf("prog", *command, *words)
        assert outcome.code == 1 and outcome.out == "" and message in outcome.err and outcome.err.count("\n") == 1
        assert message in shmbpf("-j", "prog", *command, *words).document["error"]


@pytest.fixture
def calling(namespace):
    lines = (LineInfo(0, "a.c", 3, 5, 'int *p = "x";'), LineInfo(3, "a.c", 4, 1, "return helper();"), LineInfo(4, "a.c", 9, 1, "return 1;"))
    with make(namespace, CALLING, name="calling", lines=lines, funcs=(FuncInfo(0, "calling"), FuncInfo(4, "helper"))) as made:
        yield made


def test_dump_shows_source_lines_and_subprograms(shmbpf, calling):
    assert shmbpf.ok("prog", "dump", "xlated", "name", "calling") == (
        "calling:\n"
        '; int *p = "x";\n'
        "   0: (18) r1 = 0x0\n"
        "   2: (85) call pc+1#helper\n"
        "; return helper();\n"
        "   3: (95) exit\n"
        "helper:\n"
        "; return 1;\n"
        "   4: (b7) r0 = 1\n"
        "   5: (95) exit\n"
    )


def test_dump_shows_line_numbers_when_asked(shmbpf, calling):
    assert "; return helper(); [file:a.c line_num:4 line_col:0]\n   3: (95) exit" in shmbpf.ok("prog", "dump", "xlated", "name", "calling", "linum")
    document = shmbpf("-j", "prog", "dump", "xlated", "name", "calling", "linum").document
    assert document[0] == {"proto": "calling", "src": 'int *p = "x";', "file": "a.c", "line_num": 3, "disasm": "(18) r1 = 0x0"}
    assert document[1] == {"disasm": "(85) call pc+1#helper"}


def test_dump_writes_the_instructions_to_a_file(shmbpf, program, tmp_path):
    assert shmbpf.ok("-j", "prog", "dump", "xlated", "name", "first", "file", tmp_path / "out.bin") == "null\n"
    assert (tmp_path / "out.bin").read_bytes() == RETURN_2
    outcome = shmbpf("prog", "dump", "xlated", "name", "first", "file", tmp_path / "no" / "where")
    assert outcome.code == 1 and "No such file or directory" in outcome.err


def test_several_programs_of_a_name_are_all_dumped(shmbpf, namespace, program):
    with make(namespace, VARIED, name="first"):
        assert shmbpf.ok("prog", "dump", "xlated", "name", "first").count("exit") == 2
        documents = shmbpf("-j", "prog", "dump", "xlated", "name", "first").document
        assert [len(entry["insns"]) for entry in documents] == [2, 9]
        outcome = shmbpf("prog", "dump", "xlated", "name", "first", "file", "/dev/null")
        assert outcome.code == 1 and "2 programs match this handle" in outcome.err


@pytest.mark.parametrize("words", [("dump",), ("dump", "jited", "id", 1), ("dump", "xlated"), ("dump", "xlated", "id"), ("show", "frob", 1), ("show", "id", "x"), ("frob",)])
def test_wrong_words_exit_with_2(shmbpf, program, words):
    outcome = shmbpf("prog", *words)
    assert outcome.code == 2 and outcome.out == "" and "Error: " in outcome.err


def test_words_may_be_shortened(shmbpf, program):
    assert json.loads(shmbpf.ok("-j", "p", "s", "n", "first"))["id"] == program.id
    assert shmbpf.ok("pro", "d", "x", "i", program.id, "op").count("\n") == 4



# -- load and run --

SOURCE = """
#include "bpf_api.h"
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } hits SEC(".maps");
int limit = 64;
SEC("xdp") int first(struct xdp_md *ctx) {
	__u32 key = 7; __u64 one = 1;
	bpf_map_update_elem(&hits, &key, &one, 0);
	return ctx->data_end - ctx->data > limit ? XDP_DROP : XDP_PASS;
}
SEC("xdp") int second(struct xdp_md *ctx) { return XDP_TX; }
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def loaded(shmbpf, namespace, tmp_path):
    """SOURCE, loaded by `prog loadall`; its pins are gone after the test."""
    shutil.copy(compile_bpf(SOURCE), tmp_path / "obj.o")
    assert shmbpf.ok("-j", "prog", "loadall", tmp_path / "obj.o", "progs", "pinmaps", "maps") == "null\n"
    yield tmp_path
    shutil.rmtree(namespace.pin_dir)


def test_loaded_programs_and_maps_live_at_their_pins(shmbpf, namespace, loaded):
    assert {entry["name"] for entry in shmbpf("-j", "prog", "show").document} == {"first", "second"}
    assert sorted(os.listdir(namespace.pin_dir / "progs")) == ["first", "second"]
    assert {entry["name"] for entry in shmbpf("-j", "map", "show").document} == {"hits", "obj.data"}
    assert shmbpf.ok("map", "items", "obj.data") == "0\t{limit: 64}\n"
    assert "; return ctx->data_end - ctx->data > limit" in shmbpf.ok("prog", "dump", "xlated", "name", "first")


def test_programs_can_be_run_and_leave_their_marks_in_maps(shmbpf, loaded):
    packet = loaded / "packet"
    packet.write_bytes(bytes(60))
    assert shmbpf("-j", "prog", "run", "name", "first", "data_in", packet).document["retval"] == 2
    assert shmbpf.ok("map", "items", "hits") == "7\t1\n"
    shmbpf.ok("map", "set", "obj.data", 0, "{limit: 10}")
    assert "Return value: 1, duration (average): " in shmbpf.ok("prog", "run", "name", "first", "data_in", packet, "repeat", 3, "--cpu", 0)


def test_load_pins_the_first_program(shmbpf, namespace, tmp_path):
    try:
        shmbpf.ok("prog", "load", compile_bpf(SOURCE), "one")
        assert [entry["name"] for entry in shmbpf("-j", "prog", "show").document] == ["first"]
    finally:
        shutil.rmtree(namespace.pin_dir, ignore_errors=True)
    assert shmbpf("-j", "prog", "show").document == []


@pytest.mark.parametrize(
    ("words", "code"),
    [(("load",), 2), (("load", "/nowhere.o", "p"), 1), (("load", "/nowhere.o"), 2), (("run",), 2), (("run", "name", "nobody", "data_in", "x"), 1), (("load", __file__, "p"), 1)],
)
def test_impossible_loads_and_runs_are_refused(shmbpf, words, code):
    outcome = shmbpf("prog", *words)
    assert outcome.code == code and "Error: " in outcome.err and "Traceback" not in outcome.err
