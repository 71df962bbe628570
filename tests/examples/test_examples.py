"""Every example: its script runs, its object is what its source gives, and the kernel agrees with it packet by packet."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import shmbpf
from shmbpf.elf import load_object
from shmbpf.maps.map import Map
from tests.support.captures import read_packets
from tests.support.paths import CAPTURES, EXAMPLES, ROOT, example_object

#: example -> entry program; the rest of each directory is found by name
ENTRIES = {
    "xdp_counter": "xdp_counter", "flow_stats": "flow_stats", "tc_tailcall": "classify", "legacy_tc": "classify", "shared_atomic": "shared_atomic",
    "packet_sampler": "sampler", "event_log": "event_log", "kept_stats": "kept_stats",
}  # fmt: skip
#: types whose elements a program reads and writes
VALUES = {shmbpf.MapType.ARRAY, shmbpf.MapType.HASH, shmbpf.MapType.PERCPU_ARRAY, shmbpf.MapType.PERCPU_HASH}


def test_every_example_is_listed_here():
    assert {path.parent.name for path in EXAMPLES.glob("*/prog.o")} == set(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_script_of_example_runs(name):
    environment = os.environ | {"SHMBPF": f"{sys.executable} -m shmbpf", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", str(EXAMPLES / name / "run.sh")], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "packets/s" in done.stdout and "Traceback" not in done.stderr


def test_flow_statistics_are_short_and_say_who_talks_most():
    environment = os.environ | {"SHMBPF": f"{sys.executable} -m shmbpf", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", str(EXAMPLES / "flow_stats" / "run.sh")], env=environment, capture_output=True, text=True, timeout=120)
    flows = re.findall(r"^ *(\d+) packets +\d+ bytes  (\w+) +(\S+) > (\S+)", done.stdout, re.M)
    assert len(flows) == 10 and len(done.stdout.splitlines()) < 80
    assert [int(flow[0]) for flow in flows] == sorted((int(flow[0]) for flow in flows), reverse=True)
    assert "of 614 flows" in done.stdout


def test_script_finds_the_command_of_the_checkout(tmp_path):
    """As after `make demo`: nothing in PATH, the command in .venv/bin."""
    for part in ("xdp_counter", "captures"):
        (tmp_path / "examples").mkdir(exist_ok=True)
        (tmp_path / "examples" / part).symlink_to(EXAMPLES / part) if part == "captures" else shutil.copytree(EXAMPLES / part, tmp_path / "examples" / part)
    command = tmp_path / ".venv" / "bin" / "shmbpf"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m shmbpf "$@"\n')
    command.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", str(tmp_path / "examples" / "xdp_counter" / "run.sh")], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "packets/s" in done.stdout, done


@pytest.mark.parametrize("name", ENTRIES)
def test_object_is_what_its_source_gives(name, tmp_path):
    command = re.search(r"^(?:\$ )?(clang-19 .*-o prog\.o)$", (EXAMPLES / name / "README.md").read_text(), re.M).group(1)
    compiler = shutil.which("clang-19")
    if compiler is None:
        pytest.skip("clang-19 is not installed")
    shutil.copytree(EXAMPLES / "include", tmp_path / "include")
    shutil.copytree(EXAMPLES / name, tmp_path / name)
    subprocess.run([compiler, *shlex.split(command)[1:]], cwd=tmp_path / name, check=True, timeout=60)
    rebuilt, committed = load_object(tmp_path / name / "prog.o"), load_object(example_object(name))
    assert {key: program.insns for key, program in rebuilt.programs.items()} == {key: program.insns for key, program in committed.programs.items()}
    assert {key: (m.type, m.key_size, m.value_size, m.max_entries) for key, m in rebuilt.maps.items()} == {
        key: (m.type, m.key_size, m.value_size, m.max_entries) for key, m in committed.maps.items()
    }


def contents(map_) -> dict[bytes, list[bytes]]:
    """Key -> value, or sums over CPUs of a per-CPU value's 64-bit counters."""
    items = map_.contents().items() if hasattr(map_, "contents") else map_.items()
    found = {}
    for key, value in items:
        found[key] = sum_cpus(value, map_.value_size) if map_.is_percpu else value
    return found


def sum_cpus(value: bytes, size: int) -> tuple[int, ...]:
    stride = (size + 7) // 8 * 8
    words = [[int.from_bytes(value[at + word:at + word + 8], "little") for word in range(0, size, 8)] for at in range(0, len(value), stride)]
    return tuple(map(sum, zip(*words, strict=True)))


@pytest.mark.kernel
@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"shared_atomic"}))
def test_four_cpus_count_what_the_kernel_counts(name, kernel):
    """The same object over the same capture: Linux packet by packet, here on four processes at once. Equal verdicts, equal maps."""
    packets = read_packets(CAPTURES / "web.pcap")
    with shmbpf.Runtime(cpus=4) as rt, kernel.load_object(load_object(example_object(name)), ENTRIES[name]) as theirs:
        ours = rt.load(example_object(name))
        with ours.programs[ENTRIES[name]].attach(rt.device("shm0")):
            assert rt.device("shm0").inject(CAPTURES / "web.pcap") == len(packets)
        with on_one_cpu():
            expected = count_verdicts(theirs, packets)
        total = {key: sum(r.verdicts.get(ours.programs[ENTRIES[name]].program.hook.name.lower(), {}).get(key, 0) for r in rt.reports()) for key in expected}
        assert total == expected
        for map_name, map_ in theirs.maps.items():
            raw = ours.maps[map_name].raw
            if raw.type in VALUES:
                assert contents(raw) == contents(map_), map_name


@contextlib.contextmanager
def on_one_cpu():
    """A test run uses the CPU its caller is on. One that moves in the middle of a flow splits that flow's per-CPU value, and a maximum has no sum."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def count_verdicts(program, packets) -> dict[str, int]:
    names = {6: {0: "aborted", 1: "drop", 2: "pass", 3: "tx", 4: "redirect"}}.get(program.type, {0: "ok", 2: "shot", 3: "pipe", 0xFFFFFFFF: "unspec"})
    counts: dict[str, int] = {}
    for packet in packets:
        verdict = names[program.run(packet).retval]
        counts[verdict] = counts.get(verdict, 0) + 1
    return counts


@pytest.mark.kernel
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_single_runs_equal_the_kernels(name, kernel):
    """BPF_PROG_TEST_RUN, here and there: return value and packet bytes of every 7th packet of the capture."""
    packets = read_packets(CAPTURES / "web.pcap")[::7]
    with shmbpf.Runtime(cpus=1) as rt, kernel.load_object(load_object(example_object(name)), ENTRIES[name]) as theirs:
        program = rt.load(example_object(name)).programs[ENTRIES[name]]
        for number, packet in enumerate(packets):
            here, there = program.run(packet), theirs.run(packet)
            assert (here.retval, here.data) == (there.retval, there.data), f"packet {number}"
            assert here.fault is None


def test_maps_of_an_example_are_typed_by_its_btf():
    with shmbpf.Runtime(cpus=2) as rt:
        obj = rt.load(example_object("xdp_counter"))
        obj.programs["xdp_counter"].run(bytes(64), cpu=1)
        assert isinstance(obj.maps["counters"].raw, Map)
        assert obj.maps["counters"][0] == {"packets": 1, "bytes": 64}
