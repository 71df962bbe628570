"""`shmbpf pin`, `unpin`, `ls`, `... pinned PATH`, `-f`, and runs that keep and take up maps."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from support.paths import CAPTURES, example_object
from support.programs import RETURN_2, make
from support.shell import until

from shmbpf.maps.map import Map
from shmbpf.shm.pins import PinTree
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapType


@pytest.fixture
def tree(namespace):
    namespace.fix_cpus(2)
    tree = PinTree(namespace)
    yield tree
    shutil.rmtree(tree.root, ignore_errors=True)


@pytest.fixture
def hits(namespace, tree):
    with Map.create(namespace, MapSpec("hits", MapType.ARRAY, 4, 8, 2)) as map_:
        yield map_


def test_pinned_map_is_found_by_its_path(shmbpf, hits):
    assert shmbpf.ok("pin", "map", "name", "hits", "tc/globals/hits") == ""
    shmbpf.ok("map", "update", "pinned", "/sys/fs/bpf/tc/globals/hits", "key", 1, 0, 0, 0, "value", 5, 0, 0, 0, 0, 0, 0, 0)
    assert shmbpf("-j", "map", "lookup", "pinned", "tc/globals/hits", "key", 1, 0, 0, 0).document["value"][0] == "0x05"
    assert shmbpf("map", "pin", "name", "hits", "tc/globals/hits").code == 1


def test_ls_has_a_line_for_each_pin(shmbpf, hits, namespace):
    with make(namespace, RETURN_2, name="twin") as program:
        shmbpf.ok("prog", "pin", "name", "twin", "progs/twin")
        shmbpf.ok("map", "pin", "id", hits.id, "hits")
        assert [line.split() for line in shmbpf.ok("ls").splitlines()] == [["hits", "map", str(hits.id), "array", "hits"], ["progs/twin", "prog", str(program.id), "xdp", "twin"]]
        assert shmbpf("-j", "ls", "progs").document == [{"path": "progs/twin", "kind": "prog", "id": program.id, "type": "xdp", "name": "twin"}]
        assert shmbpf("-j", "prog", "show", "pinned", "progs/twin").document["id"] == program.id


def test_show_names_pins_when_asked(shmbpf, hits, tree):
    shmbpf.ok("map", "pin", "name", "hits", "one")
    shmbpf.ok("map", "pin", "name", "hits", "two")
    assert shmbpf("-j", "-f", "map", "show", "name", "hits").document["pinned"] == [str(tree.root / "one"), str(tree.root / "two")]
    assert shmbpf.ok("map", "show", "-f").splitlines()[-1] == f"\tpinned {tree.root / 'two'}"
    assert "pinned" not in shmbpf.ok("map", "show")


def test_unpin_and_rm_let_the_object_go(shmbpf, hits, tree, namespace):
    shmbpf.ok("map", "pin", "name", "hits", "dir/one")
    shmbpf.ok("map", "pin", "name", "hits", "two")
    hits.close()
    shmbpf.ok("unpin", "dir/one")
    assert len(shmbpf("-j", "map", "show").document) == 1
    subprocess.run(["rm", tree.root / "two"], check=True)
    assert shmbpf("-j", "map", "show").document == []


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("ls", "nowhere"), 1, "nothing is pinned at"),
        (("unpin", "nowhere"), 1, "cannot be unpinned"),
        (("unpin",), 2, "PATH is missing"),
        (("pin", "map", "name", "hits", "a.b"), 1, "have no dots"),
        (("pin", "map", "name", "hits"), 2, "PATH is missing"),
        (("pin", "ring", "1", "x"), 2, "expected map or prog"),
        (("map", "show", "pinned", "nowhere"), 1, "nothing is pinned at"),
        (("prog", "show", "pinned", "hits"), 1, "is a map, expected a prog"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(shmbpf, hits, words, code, part):
    shmbpf.ok("map", "pin", "name", "hits", "hits")
    outcome = shmbpf(*words)
    assert outcome.code == code and part in outcome.err and "Traceback" not in outcome.err


def test_a_run_takes_up_the_maps_that_the_last_one_kept(shell, tree):
    words = ("-q", "run", example_object("xdp_counter"), "--cpus", 2, "--pcap", CAPTURES / "web.pcap")
    shell.ok(*words, "--pin-maps", "counts")
    shell.ok(*words, "--use-maps", "counts")
    assert shell.ok("map", "get", "pinned", "counts/counters", 4) == "{packets: 6446, bytes: 1950222}\n"
    shell.ok(*words, "--use-maps", "counts", "--pin-maps", "counts")
    assert shell.ok("map", "get", "pinned", "counts/counters", 4, "--field", "packets") == "9669\n"


def test_show_names_the_processes_that_have_it_open(shell, tree):
    going = shell.start("run", example_object("xdp_counter"), "--cpus", 2)
    until(lambda: shell("map", "get", "name", "counters", 4).returncode == 0)
    for kind in ("map", "prog"):
        documents = json.loads(shell.ok("-j", kind, "show"))
        assert all(going.pid in [holder["pid"] for holder in document["pids"]] for document in documents)
        assert f"({going.pid})" in shell.ok(kind, "show").split("pids ")[1]
    going.terminate()
    going.communicate(timeout=30)
