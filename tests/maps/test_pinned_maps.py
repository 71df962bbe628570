"""Objects that meet pinned maps: reuse, refusal with every difference, races; and pins from Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys

import pytest
from support.compile import compile_bpf
from support.paths import ROOT

import shmbpf
from shmbpf.elf import load_object
from shmbpf.engine.loaded import load_spec
from shmbpf.errors import ObjectError, PinError
from shmbpf.maps.pin import wanted_path
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import PinTree
from shmbpf.spec import MapSpec

PACKET = bytes(64)


def source(entries: int = 4, value: str = "__u64", pinning: str = "__uint(pinning, LIBBPF_PIN_BY_NAME);") -> str:
    return f"""
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, {value}); __uint(max_entries, {entries}); {pinning} }} hits SEC(".maps");
__u64 state = 7;
const volatile __u64 fixed = 3;
SEC("xdp") int count(struct xdp_md *ctx)
{{
	__u32 zero = 0;
	__u64 *value = (void *)bpf_map_lookup_elem(&hits, &zero);
	if (value)
		__sync_fetch_and_add(value, fixed);
	state++;
	return 2;
}}
"""


@pytest.fixture
def tree(namespace):
    tree = PinTree(namespace)
    yield tree
    shutil.rmtree(tree.root, ignore_errors=True)


def run_once(name: str, text: str) -> None:
    with shmbpf.Runtime(name, cpus=2) as runtime:
        assert runtime.load(compile_bpf(text)).programs["count"].run(PACKET).fault is None


def test_a_map_pinned_by_name_goes_on_counting_in_the_next_load(namespace, tree):
    for _ in range(3):
        run_once(namespace.name, source())
    with shmbpf.open_map("/hits", ns=namespace) as hits:
        assert hits[0] == 9
    assert [pin.path.name for pin in tree.walk()] == ["hits"]


def test_a_pinned_map_of_another_shape_is_refused_field_by_field(namespace, tree):
    run_once(namespace.name, source())
    with pytest.raises(ObjectError) as refused:
        load_spec(namespace, load_object(compile_bpf(source(entries=8, value="struct { __u64 a[2]; }"))))
    assert "value size 8, the object asks for 16" in str(refused.value) and "max_entries 4, the object asks for 8" in str(refused.value)
    assert "type" not in str(refused.value).partition("it has")[2].partition("Remove")[0]


def test_something_else_in_the_place_is_refused(namespace, tree):
    with shmbpf.Runtime(namespace.name, cpus=2) as runtime:
        runtime.load(compile_bpf(source(pinning=""))).programs["count"].pin("hits")
    with pytest.raises(PinError, match="is a prog, expected a map"):
        load_spec(namespace, load_object(compile_bpf(source())))


def test_first_loads_at_the_same_time_end_with_one_map(namespace, tree):
    """libbpf's race: both find nothing, both create, one pin wins and the other loads again."""
    script = f"""
from shmbpf.elf import load_object
from shmbpf.engine.loaded import load_spec
from shmbpf.shm.namespace import Namespace
with Namespace({namespace.name!r}) as ns, load_spec(ns, load_object({str(compile_bpf(source()))!r})) as loaded:
    print(loaded.maps["hits"].id)
"""
    namespace.fix_cpus(2)
    racers = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    found = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert len(found) == 1 and found != {""}


def test_iproute2s_pinnings_have_their_paths():
    spec = MapSpec("flows", 2, 4, 8, 1)
    digest = hashlib.sha1(b"object").hexdigest()
    assert [wanted_path(MapSpec("flows", 2, 4, 8, 1, pinning=number), digest) for number in (0, 1, 2, 4711)] == [None, f"tc/{digest}/flows", "tc/globals/flows", None]
    assert wanted_path(MapSpec("my.data", 2, 4, 8, 1, pinning=1, pin_by_name=True), digest) == "my_data" and wanted_path(spec, digest) is None


def test_digest_is_that_of_the_file():
    path = compile_bpf(source())
    assert load_object(path).digest == hashlib.sha1(path.read_bytes()).hexdigest()


def test_use_maps_takes_what_is_pinned_and_makes_the_rest(namespace, tree):
    text = source(pinning="")
    with shmbpf.Runtime(namespace.name, cpus=2) as runtime:
        obj = runtime.load(compile_bpf(text))
        obj.programs["count"].run(PACKET)
        obj.maps["hits"].pin("kept/hits")
        obj.programs["count"].pin("kept/count")
    spec = load_object(compile_bpf(text))
    with load_spec(namespace, spec, use_maps="kept") as loaded:
        assert int.from_bytes(loaded.maps["hits"].lookup(bytes(4)), "little") == 3
        data = next(map_ for name, map_ in loaded.maps.items() if name.endswith(".data"))
        assert data.lookup(bytes(4))[:8] == (7).to_bytes(8, "little")
    with shmbpf.Runtime(namespace.name, cpus=2) as runtime:
        runtime.open_program("kept/count").run(PACKET)
        assert runtime.open_map("kept/hits")[0] == 6


def test_a_killed_loader_leaves_what_it_pinned(namespace_name):
    """Everybody dies at once; the next one opens the map by its path and every entry is there."""
    script = f"""
import os, signal, shmbpf
runtime = shmbpf.Runtime({namespace_name!r}, cpus=2)
obj = runtime.load({str(compile_bpf(source(pinning='')))!r})
with obj.programs["count"].attach(runtime.device("shm0")):
    runtime.device("shm0").inject([bytes(64)] * 1000)
    obj.maps["hits"].pin("kept/hits")
    obj.programs["count"].pin("kept/count")
    for pid in runtime.pids:
        os.kill(pid, signal.SIGKILL)
    os.killpg(0, signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, start_new_session=True, check=False, timeout=60)
    with shmbpf.Runtime(namespace_name, cpus=2) as runtime:
        hits = runtime.open_map("kept/hits")
        assert hits[0] == 3000
        with runtime.open_program("kept/count").attach(runtime.device("shm0")):
            runtime.device("shm0").inject([bytes(64)] * 10)
        assert hits[0] == 3030
    with Namespace(namespace_name) as namespace:
        shutil.rmtree(namespace.pin_dir)


def test_an_anonymous_runtime_takes_its_pins_along():
    with shmbpf.Runtime(cpus=1) as runtime:
        runtime.load(compile_bpf(source()))
        prefix = runtime.namespace.prefix
        assert (runtime.namespace.pin_dir / "hits").exists()
    assert not list(runtime.namespace.pin_dir.parent.glob(f"{prefix}*"))
