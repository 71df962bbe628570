"""What was closed says so: in the thread that closed it, and in one that was just using it."""

import os
import secrets
import subprocess
import sys
import threading

import pytest

import shmbpf
import shmbpf.attach.source
from shmbpf.errors import ClosedError
from shmbpf.maps.map import Map
from shmbpf.spec import MapSpec
from tests.conftest import assert_nothing_left
from tests.support.paths import CAPTURES, ROOT, example_object

PACKET = bytes(60)

USES = {
    "map lookup": lambda o, p, m, d: m[0],
    "map update": lambda o, p, m, d: m.raw.update(bytes(4), bytes(m.raw.value_bytes)),
    "map delete": lambda o, p, m, d: m.raw.delete(bytes(4)),
    "map items": lambda o, p, m, d: list(m.items()),
    "map length": lambda o, p, m, d: len(m),
    "map add": lambda o, p, m, d: m.add(0, 1, field="packets"),
    "map batch": lambda o, p, m, d: list(m.batch.lookup()),
    "map view": lambda o, p, m, d: m.view(),
    "map facts": lambda o, p, m, d: (m.raw.is_frozen, m.raw.is_percpu),
    "map check": lambda o, p, m, d: m.raw.check(),
    "program run": lambda o, p, m, d: p.run(PACKET),
    "program attach": lambda o, p, m, d: p.attach(d),
    "program code": lambda o, p, m, d: p.program.insns,
    "device inject": lambda o, p, m, d: d.inject(PACKET),
    "device wait": lambda o, p, m, d: d.wait_drained(),
    "device hooks": lambda o, p, m, d: d.attached(0),
}


def used_up_runtime():
    with shmbpf.Runtime(cpus=2) as rt:
        obj = rt.load(example_object("xdp_counter"))
        handles = obj, obj.programs["xdp_counter"], obj.maps["counters"], rt.device("shm0")
    return rt, handles


@pytest.fixture(scope="module")
def closed():
    return used_up_runtime()


@pytest.mark.parametrize("use", USES)
def test_use_after_the_runtime_is_closed_is_an_error(use, closed):
    with pytest.raises(ClosedError, match="is closed"):
        USES[use](*closed[1])


@pytest.mark.parametrize("use", [lambda rt: rt.load(example_object("xdp_counter")), lambda rt: rt.device("shm0"), lambda rt: rt.start(), lambda rt: rt.pids,
                                 lambda rt: rt.reports(), lambda rt: rt.create_map(MapSpec("m", 1, 4, 4, 1))])  # fmt: skip
def test_a_closed_runtime_says_so(use, closed):
    with pytest.raises(ClosedError, match="runtime is closed"):
        use(closed[0])


def test_closed_handles_may_be_closed_again(closed):
    rt, (obj, _, m, device) = closed
    for thing in (m, obj, device, rt):
        thing.close()


def test_a_map_closed_by_itself_says_so(namespace):
    m = Map.create(namespace, MapSpec("lonely", 1, 4, 4, 8))
    m.update(bytes(4), b"1234")
    m.close()
    with pytest.raises(ClosedError, match="'lonely' is closed"):
        m.lookup(bytes(4))
    with pytest.raises(ClosedError):
        next(m.keys())


def test_a_closed_namespace_says_so(namespace_name):
    namespace = shmbpf.Namespace(namespace_name)
    namespace.close()
    for use in (namespace.has_runtime, namespace.collect, lambda: namespace.possible_cpus, lambda: namespace.open_segment("map", 1), lambda: namespace.client):
        with pytest.raises(ClosedError, match=namespace_name):
            use()


def test_a_feed_keeps_its_counts_after_its_end():
    with shmbpf.Runtime(cpus=1) as rt:
        feed = rt.device("shm0").feed()
        with shmbpf.attach.source.CaptureFile(CAPTURES / "web.pcap") as source:
            while feed.step(source):
                pass
            rt.device("shm0").wait_drained()
            feed.close()
            assert feed.packets == source.packets > 0
            with pytest.raises(ClosedError, match="feed is closed"):
                feed.step(source)


RACE = """
import sys, threading
import shmbpf
import shmbpf.attach.source
from shmbpf.errors import ClosedError, ShmbpfError
namespace, prog = sys.argv[1:]
outcomes = []
def use(work):
    try:
        while True:
            work()
    except ClosedError:
        outcomes.append("closed")
    except ShmbpfError as error:
        outcomes.append(repr(error))
started = threading.Event()
with shmbpf.Runtime(namespace, cpus=2) as rt:
    obj = rt.load(prog)
    m, p, d = obj.maps["counters"], obj.programs["xdp_counter"], rt.device("shm0")
    works = [lambda: (m[0], started.set()), lambda: list(m.items()), lambda: m.raw.check(), lambda: p.program.insns, lambda: d.attached(1)]
    works += [lambda: m.update(0, {"packets": 1, "bytes": 1}), lambda: d.inject(bytes(60), wait=False)]
    threads = [threading.Thread(target=use, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    started.wait(30)
for thread in threads:
    thread.join(30)
print(sorted(set(outcomes)), len(outcomes))
"""


@pytest.mark.parametrize("attempt", range(3))
def test_threads_in_the_middle_of_it_get_an_error(attempt):
    """A reader that is inside a map while another thread closes it: no crash, nothing left. (In a process of its own: it would take the tests with it.)"""
    name = f"t{os.getpid()}-{secrets.token_hex(4)}"
    command = [sys.executable, "-c", RACE, name, str(example_object("xdp_counter"))]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['closed'] 7\n", ""), done
    assert_nothing_left(name)


def test_two_threads_share_a_cpu_in_turns():
    results = []
    with shmbpf.Runtime(cpus=1) as rt:
        program = rt.load(example_object("xdp_counter")).programs["xdp_counter"]
        packets = [bytes([number]) * (60 + number) for number in range(4)]

        def work(packet):
            for _ in range(200):
                results.append(program.run(packet, cpu=0).data == packet)

        threads = [threading.Thread(target=work, args=(packet,)) for packet in packets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == [True] * 800
