"""CPUs are processes: they run at the same time, exactly where the program asks for it, and one that dies is replaced."""

import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import shmbpf
from shmbpf.elf import load_object
from shmbpf.engine.loaded import load_spec
from shmbpf.errors import NamespaceBusyError, ShmbpfError
from shmbpf.maps.map import Map
from tests.support.paths import CAPTURES, ROOT, example_object

ROUNDS = 60


def wait_until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.002)


@pytest.fixture
def runtime():
    with shmbpf.Runtime(cpus=4) as rt:
        yield rt


def inject_rounds(rt, rounds):
    return sum(rt.device("shm0").inject(CAPTURES / "web.pcap", wait=False) for _ in range(rounds))


def test_each_cpu_is_a_process_of_its_own(runtime):
    runtime.start()
    assert len(set(runtime.pids)) == 4
    assert os.getpid() not in runtime.pids


def test_atomics_are_exact_and_plain_increments_lose(runtime):
    obj = runtime.load(example_object("shared_atomic"))
    device, key, packets = runtime.device("shm0"), bytes(4), 0
    counter = lambda name: struct.unpack("<Q", obj.maps[name].raw.lookup(key))[0]  # noqa: E731
    with obj.programs["shared_atomic"].attach(device):
        for _ in range(20):  # on a busy machine the processes may not meet at once
            packets += inject_rounds(runtime, ROUNDS)
            device.wait_drained()
            if counter("plain") < packets:
                break
    percpu = struct.unpack("<4Q", obj.maps["percpu"].raw.lookup(key))
    assert counter("atomic") == packets
    assert sum(percpu) == packets and all(percpu)
    assert counter("plain") < packets, "four processes incrementing one word without an atomic cannot all be seen"


def test_a_program_runs_on_the_cpu_it_is_told_to(runtime):
    obj = runtime.load(example_object("shared_atomic"))
    program = obj.programs["shared_atomic"]
    for started in (False, True):
        if started:
            runtime.start()
        for cpu in range(4):
            assert program.run(bytes(64), cpu=cpu).retval == shmbpf.XdpAction.PASS
    percpu = struct.unpack("<4Q", obj.maps["percpu"].raw.lookup(struct.pack("<I", 0)))
    assert percpu == (2, 2, 2, 2)


def test_a_cpu_beyond_the_last_is_refused(runtime):
    obj = runtime.load(example_object("shared_atomic"))
    with pytest.raises(ShmbpfError, match="CPUs 0 to 3"):
        obj.programs["shared_atomic"].run(bytes(64), cpu=4)


def test_a_killed_cpu_is_replaced_and_the_run_goes_on(runtime):
    obj = runtime.load(example_object("shared_atomic"))
    device = runtime.device("shm0")
    with obj.programs["shared_atomic"].attach(device):
        first = runtime.pids
        packets = 0
        for cpu in range(4):
            os.kill(first[cpu], signal.SIGKILL)
            packets += device.inject(CAPTURES / "web.pcap")
        wait_until(lambda: len(runtime.pids) == 4 and not set(runtime.pids) & set(first), "four new processes")
        packets += device.inject(CAPTURES / "web.pcap")
    reports = runtime.reports()
    assert [report.restarts for report in reports] == [1, 1, 1, 1]
    assert sum(report.packets + report.lost for report in reports) == packets
    atomic = struct.unpack("<Q", obj.maps["atomic"].raw.lookup(struct.pack("<I", 0)))[0]
    assert atomic in range(sum(report.packets for report in reports), packets + 1)


def test_a_namespace_has_one_runtime_at_a_time(runtime):
    runtime.start()
    with shmbpf.Namespace(runtime.namespace.name) as other:
        with pytest.raises(NamespaceBusyError, match="already has a runtime"):
            other.claim_runtime()


def test_another_cpu_count_is_refused_while_objects_live(runtime):
    runtime.load(example_object("shared_atomic"))
    with pytest.raises(NamespaceBusyError, match="4 possible CPUs"):
        shmbpf.Runtime(runtime.namespace.name, cpus=2)


def test_a_second_member_uses_the_running_cpus(runtime):
    obj = runtime.load(example_object("shared_atomic"))
    runtime.start()
    with shmbpf.Runtime(runtime.namespace.name) as other:
        assert other.pids == runtime.pids
        with obj.programs["shared_atomic"].attach(other.device("shm0")):
            packets = other.device("shm0").inject(CAPTURES / "web.pcap")
    assert sum(report.packets for report in runtime.reports()) == packets


@pytest.mark.parametrize("cpus", [0, -1, 100000])
def test_a_cpu_count_that_cannot_be_is_refused(cpus):
    with pytest.raises(ShmbpfError, match="--cpus"):
        shmbpf.Runtime(cpus=cpus)


def test_threads_of_one_process_feed_at_the_same_time(runtime):
    obj = runtime.load(example_object("shared_atomic"))
    device = runtime.device("shm0")
    with obj.programs["shared_atomic"].attach(device), ThreadPoolExecutor(4) as pool:
        packets = sum(pool.map(lambda _: device.inject(CAPTURES / "web.pcap", wait=False), range(12)))
        device.wait_drained()
    assert struct.unpack("<Q", obj.maps["atomic"].raw.lookup(bytes(4)))[0] == packets


@pytest.mark.parametrize("ending, status", [("", 0), ("raise ValueError('unhandled')", 1)])
def test_runtime_that_nobody_closes_leaves_nothing(ending, status, namespace_name):
    code = f"import shmbpf; rt = shmbpf.Runtime({namespace_name!r}, cpus=2); rt.load({str(example_object('xdp_counter'))!r}); rt.start()\n{ending}"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr


def test_signal_without_a_name_is_survived(runtime):
    runtime.start()
    first = runtime.pids
    os.kill(first[0], signal.SIGRTMIN + 1)
    wait_until(lambda: len(runtime.pids) == 4 and runtime.pids != first, "a new process for CPU 0")


def test_program_that_does_not_exist_cannot_be_attached(runtime):
    with pytest.raises(ShmbpfError, match="no program has id 9999"):
        runtime.device("shm0").set_program(shmbpf.uapi.Hook.XDP, 9999)


def test_device_keeps_its_program_when_its_loader_and_a_cpu_are_gone():
    with shmbpf.Runtime(cpus=1) as rt:
        obj = rt.load(example_object("shared_atomic"))
        device = rt.device("shm0")
        device.attach(obj.programs["shared_atomic"].program)
        obj.close()
        pid = rt.pids[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: rt.pids and rt.pids != [pid], "a new CPU 0")
        packets = device.inject(CAPTURES / "web.pcap")
        assert sum(report.verdicts["xdp"]["pass"] for report in rt.reports()) == packets


def test_device_of_a_killed_runtime_is_not_taken_for_the_new_one(namespace_name):
    command = [sys.executable, "-m", "shmbpf.runtime.host", namespace_name, "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    old = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert old.stdout.readline() == "ready\n"
    with shmbpf.Runtime(namespace_name) as rt:
        stale = rt.device("shm0")
        old.kill()
        old.communicate()
        wait_until(lambda: not rt.namespace.has_runtime(), "the old runtime is gone")
        obj = rt.load(example_object("shared_atomic"))
        fresh = rt.device("shm0")
        assert fresh is not stale
        with obj.programs["shared_atomic"].attach(fresh):
            assert fresh.inject(CAPTURES / "web.pcap") == sum(report.packets for report in rt.reports())


def test_objects_that_are_only_held_stay_visible_while_others_collect(namespace):
    namespace.fix_cpus(1)
    with load_spec(namespace, load_object(example_object("shared_atomic"))) as loaded:
        number = loaded.maps["atomic"].id
        loaded.maps["atomic"].close()  # from here on, only the program holds it
        code = f"from shmbpf.shm.namespace import Namespace\nns = Namespace({namespace.name!r})\nprint('go', flush=True)\nwhile True: ns.collect()"
        other = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
        try:
            other.stdout.readline()
            for _ in range(3000):
                Map.open(namespace, number).close()
        finally:
            other.kill()
            other.communicate()


def test_two_members_that_start_at_once_share_one_runtime(namespace_name):
    with shmbpf.Runtime(namespace_name, cpus=2) as one, shmbpf.Runtime(namespace_name) as other, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rt: rt.start(), (one, other)))
        assert one.pids == other.pids and len(one.pids) == 2
