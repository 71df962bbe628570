"""`shmbpf prog run`: bpftool's document, and numbers that cannot be."""

import json
import secrets
import shutil
from pathlib import Path

import pytest
from support.cli import bpftool, needs_bpftool
from support.programs import RETURN_2, make

from tests.support.compile import compile_bpf
from tests.support.paths import ROOT

API = (ROOT / "tests" / "support" / "bpf_api.h").read_text()
SOURCE = API + """
SEC("tc") int shown(struct __sk_buff *skb) { skb->mark = 7; skb->cb[1] = 300; return skb->len; }
char _license[] SEC("license") = "GPL";
"""
JUMPING = API + """
struct inner { int a; };
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4); __uint(value_size, 4); } jmp SEC(".maps");
static __attribute__((noinline)) int twice(struct inner *in, const char *s, __u16 n) { volatile int x = in->a + s[0] + n; return x; }
SEC("xdp") int jumping(struct xdp_md *ctx) {
    struct inner in = { (int)(ctx->data_end - ctx->data) };
    char text[4] = {1, 2, 3, 4};
    bpf_tail_call(ctx, &jmp, 1);
    return twice(&in, text, 5);
}
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def twin(namespace):
    namespace.fix_cpus(4)
    with make(namespace, RETURN_2) as program:
        yield program


@pytest.fixture
def packet(tmp_path) -> Path:
    (tmp_path / "packet").write_bytes(bytes(range(60)))
    return tmp_path / "packet"


@pytest.fixture
def pinned():
    """`pinned(object)`: the directory of bpffs where bpftool has pinned an object's programs."""
    directories = []

    def load(path) -> Path:
        directories.append(Path("/sys/fs/bpf") / f"shmbpf-test-{secrets.token_hex(4)}")
        done = bpftool("prog", "loadall", path, directories[-1], "pinmaps", directories[-1] / "maps")
        if done.code:
            pytest.skip(f"bpftool cannot load here: {done.err.strip()}")
        return directories[-1]

    yield load
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.kernel
@needs_bpftool
@pytest.mark.parametrize("form", ["-j", "-p"])
@pytest.mark.parametrize("words", [(), ("data_out", "-"), ("data_out", "-", "ctx_out", "-")], ids=str)
def test_document_is_bpftools(shmbpf, namespace, packet, pinned, tmp_path, form, words):
    (tmp_path / "ctx").write_bytes(bytes(192))
    place, words = pinned(compile_bpf(SOURCE)), (*words, "ctx_in", tmp_path / "ctx")
    linux = bpftool(form, "prog", "run", "pinned", place / "shown", "data_in", packet, *words)
    try:
        shmbpf.ok("prog", "loadall", compile_bpf(SOURCE), "progs")
        ours = shmbpf(form, "prog", "run", "name", "shown", "data_in", packet, *words)
    finally:
        shutil.rmtree(namespace.pin_dir, ignore_errors=True)
    mine, theirs = json.loads(ours.out), json.loads(linux.out)
    assert list(mine) == list(theirs) and mine["retval"] == theirs["retval"] == 60
    assert mine | {"duration": 0} == theirs | {"duration": 0}


@pytest.mark.kernel
@needs_bpftool
def test_functions_are_titled_as_bpftool_does(shmbpf, namespace, pinned):
    place = pinned(compile_bpf(JUMPING))
    linux = bpftool("-j", "prog", "dump", "xlated", "pinned", place / "jumping")
    array = json.loads(bpftool("-j", "map", "show", "pinned", place / "maps" / "jmp").out)
    try:
        shmbpf.ok("prog", "loadall", compile_bpf(JUMPING), "progs", "pinmaps", "maps")
        ours = shmbpf("-j", "prog", "dump", "xlated", "name", "jumping").document
        mine = shmbpf("-j", "map", "show", "name", "jmp").document
        text = shmbpf.ok("prog", "dump", "xlated", "name", "jumping")
    finally:
        shutil.rmtree(namespace.pin_dir, ignore_errors=True)
    assert [insn["proto"] for insn in ours if "proto" in insn] == [insn["proto"] for insn in json.loads(linux.out) if "proto" in insn]
    assert text.startswith("int jumping(struct xdp_md * ctx):\n")
    assert mine["owner_prog_type"] == array["owner_prog_type"] == "xdp"


@pytest.mark.parametrize("words", [("repeat", -3), ("repeat", 1 << 32), ("--cpu", -1), ("--cpu", 7), ("ctx_in", "/dev/null")], ids=str)
def test_what_cannot_be_is_one_line_with_its_limits(shmbpf, twin, packet, words):
    outcome = shmbpf("prog", "run", "id", twin.id, "data_in", packet, *words)
    assert outcome.code == 1 and outcome.err.count("\n") == 1 and "bug" not in outcome.err
    expected = {"repeat": "expected 0 to", "--cpu": "has CPUs 0 to 3", "ctx_in": "(EINVAL)"}
    assert expected[words[0]] in outcome.err


def test_an_unwritable_dev_shm_is_explained(monkeypatch, namespace):
    import posix_ipc

    from shmbpf.errors import SegmentError
    from shmbpf.shm.segment import Segment

    def refuse(*_args, **_keywords):
        raise posix_ipc.PermissionsError("No permission")

    monkeypatch.setattr(posix_ipc, "SharedMemory", refuse)
    with pytest.raises(SegmentError, match=r"/dev/shm \(owner uid \d+, mode \d+\).*chmod 1777"):
        Segment.create(f"{namespace.prefix}.map.99", 4096)


@pytest.mark.parametrize("words", [("map", "dump", "name", "x"), ("map", "get", "x", 1), ("prog", "dump", "xlated", "name", "x"),
                                   ("prog", "run", "id", 1, "data_in", "x"),
                                   ("inject", "shm0", "WEB"), ("ns", "show"), ("map", "update", "id", 1, "key", 1, "value", 1)], ids=str)  # fmt: skip
def test_a_namespace_that_does_not_exist_is_told_everywhere_alike(shmbpf, words):
    shmbpf.namespace = "nowhere-at-all"
    outcome = shmbpf(*(ROOT / "examples" / "captures" / "web.pcap" if word == "WEB" else word for word in words))
    assert outcome.code == 1 and "namespace 'nowhere-at-all' does not exist (there are:" in outcome.err


@pytest.mark.parametrize("kind", ["map", "prog"])
def test_show_of_no_namespace_is_empty_and_says_why(shmbpf, kind):
    shmbpf.namespace = "nowhere-at-all"
    outcome = shmbpf(kind, "show")
    assert (outcome.code, outcome.out) == (0, "") and "does not exist" in outcome.err
    assert shmbpf("-j", kind, "show").document == []
    assert shmbpf("-q", kind, "show").err == ""


def test_captures_of_nothing_are_refused_by_inject(shell, tmp_path):
    from tests.support.captures import pcap
    from tests.support.shell import until

    (tmp_path / "x.pcap").write_bytes(pcap([])[:24] + b"\x01\x02")
    running = shell.start("run", ROOT / "examples" / "xdp_counter" / "prog.o", "--cpus", 1)
    until(lambda: b"runtime" in shell("ns", "show").stdout)
    done = shell("inject", "shm0", tmp_path / "x.pcap")
    running.terminate()
    running.communicate(timeout=30)
    assert done.returncode == 1 and b"not one packet" in done.stderr
