"""Slots of a perf event array: who may fill them, how long they stay, what an empty, foreign, full or closed ring answers."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import subprocess
import sys
import threading

import pytest
from support.compile import compile_bpf
from support.paths import ROOT

import shmbpf
from shmbpf._ffi import lib
from shmbpf.errors import MapError, ShmbpfError
from shmbpf.events.perf import RAW, PerfRing
from shmbpf.events.records import Lost, Record
from shmbpf.maps.map import Map
from shmbpf.spec import MapSpec

ENOTSUPP = 524
SOURCE = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 4); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 4); __uint(map_flags, 0x800); } kept SEC(".maps");
__u64 serial;
SEC("xdp") int send(struct xdp_md *ctx) { __u64 n = serial++; return -bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &n, sizeof n); }
SEC("xdp") int send_kept(struct xdp_md *ctx) { __u64 n = serial++; return -bpf_perf_event_output(ctx, &kept, 0, &n, sizeof n); }
"""
PACKET = bytes(64)


@pytest.fixture
def machine():
    """A runtime of two CPUs with the programs of SOURCE; run by this process."""
    with shmbpf.Runtime(cpus=2) as runtime:
        runtime.obj = runtime.load(compile_bpf(SOURCE))
        yield runtime


def send(machine, program: str = "send", cpu: int = 0) -> int:
    return machine.obj.programs[program].run(PACKET, cpu=cpu).retval


def events(machine) -> Map:
    return machine.obj.maps["events"].raw


def numbers(ring: PerfRing) -> list[int]:
    return [struct.unpack_from("<Q", record.data)[0] for record in ring.read() if isinstance(record, Record)]


def refusal(function, *args) -> int:
    with pytest.raises(MapError) as caught:
        function(*args)
    return caught.value.errno


def index(number: int) -> bytes:
    return struct.pack("<I", number)


def test_output_to_an_empty_slot_is_enoent(machine):
    assert send(machine) == errno.ENOENT


def test_ring_of_another_cpu_is_eopnotsupp(machine):
    with PerfRing.open(events(machine), 1, slot=0) as ring:
        assert send(machine, cpu=0) == errno.EOPNOTSUPP
        assert (ring.sent, ring.lost) == (0, 0)


def test_disabled_ring_is_eopnotsupp_until_it_is_enabled(machine):
    with PerfRing.open(events(machine), 0, disabled=True) as ring:
        assert send(machine) == errno.EOPNOTSUPP
        ring.enable()
        assert send(machine) == 0


def test_paused_ring_loses_and_says_how_many(machine):
    with PerfRing.open(events(machine), 0) as ring:
        ring.pause()
        assert [send(machine), send(machine)] == [errno.ENOSPC] * 2
        ring.pause(False)
        assert send(machine) == 0
        lost, record = ring.read()
        assert isinstance(lost, Lost) and lost.count == 2 and record.data[:8] == struct.pack("<Q", 2)


def test_a_ring_may_stand_in_several_slots(machine):
    with PerfRing.open(events(machine), 0) as ring:
        events(machine).update(index(3), index(ring.id))
        assert send(machine) == 0
        assert numbers(ring) == [0]


def test_a_newcomer_in_the_slot_gets_what_comes_from_then_on(machine):
    with PerfRing.open(events(machine), 0) as first:
        send(machine)
        with PerfRing.open(events(machine), 0) as second:
            send(machine)
            assert (numbers(first), numbers(second)) == ([0], [1])
        assert send(machine) == errno.ENOENT


def test_closing_an_old_ring_leaves_its_successor_alone(machine):
    first = PerfRing.open(events(machine), 0)
    with PerfRing.open(events(machine), 0) as second:
        first.close()
        assert send(machine) == 0
        assert numbers(second) == [0]


def test_slot_is_emptied_when_the_map_object_is_closed(machine):
    other = Map.open(machine.namespace, events(machine).id)
    ring = PerfRing.open(other, 0)
    assert send(machine) == 0
    other.close()
    assert send(machine) == errno.ENOENT
    ring.close()


@pytest.mark.parametrize(("map_name", "program", "answer"), [("events", "send", errno.ENOENT), ("kept", "send_kept", errno.ENOSPC)])
def test_slot_of_a_killed_consumer(machine, map_name, program, answer):
    """It goes when somebody finds its ring full, and stays where the map preserves elements."""
    script = f"""
import sys
import threading
from shmbpf.events.perf import PerfRing
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
ring = PerfRing.open(Map.open(Namespace({machine.namespace.name!r}), {machine.obj.maps[map_name].id}), 0, 1, sample_type={RAW})
print("ready", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert child.stdout.readline() == "ready\n"
    assert send(machine, program) == 0
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stdin.close()
    answers = [send(machine, program) for _ in range(300)]
    assert answers[0] == 0 and answers[-1] == answer


def test_bpf_calls_give_linux_errnos(machine):
    map_ = events(machine)
    with PerfRing.open(map_, 0) as ring:
        assert refusal(map_.lookup, index(0)) == ENOTSUPP
        assert refusal(map_.lookup_and_delete, index(0)) == ENOTSUPP
        assert refusal(map_.update, index(0), index(ring.id), 1) == errno.EINVAL
        assert refusal(map_.update, index(4), index(ring.id)) == errno.E2BIG
        assert refusal(map_.update, index(0), index(ring.id + 1000)) == errno.EBADF
        assert refusal(map_.delete, index(4)) == errno.E2BIG
        assert refusal(map_.delete, index(1)) == errno.ENOENT
        map_.delete(index(0))
        assert refusal(map_.delete, index(0)) == errno.ENOENT
    assert list(map_.keys()) == [index(number) for number in range(4)]


@pytest.mark.parametrize(("flags", "answer"), [(0x80, errno.EINVAL), (0x100, errno.EINVAL), (0x1, errno.EINVAL), (0x800, 0), (0x8, 0)])
def test_creation_flags(namespace, flags, answer):
    spec = MapSpec("events", 4, 4, 4, 8, flags=flags)
    if answer:
        assert refusal(Map.create, namespace, spec) == answer
    else:
        Map.create(namespace, spec).close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cpu": 2}, "CPU 2 does not exist: this namespace has CPUs 0 to 1"),
        ({"cpu": -1}, "expected 0 to"),
        ({"cpu": 0, "pages": 3}, "expected a power of two"),
        ({"cpu": 0, "pages": 0}, "expected a power of two"),
        ({"cpu": 0, "pages": 1 << 20}, "at most 65536"),
        ({"cpu": 0, "slot": 4}, "indexes are 0 to 3"),
        ({"cpu": 0, "sample_type": 1 << 5}, "not supported"),
    ],
)
def test_bad_rings_are_refused_in_words(machine, arguments, words):
    with pytest.raises(ShmbpfError, match=words):
        PerfRing.open(events(machine), **arguments)
    assert not [name for name in machine.namespace.segments() if name.startswith("ring.")]


def test_ring_in_another_kind_of_map_is_refused(namespace):
    with Map.create(namespace, MapSpec("plain", 2, 4, 8, 1)) as plain, pytest.raises(MapError, match="go into a perf_event_array"):
        PerfRing.open(plain, 0)


def test_a_closed_ring_says_so(machine):
    ring = PerfRing.open(events(machine), 0)
    ring.close()
    ring.close()
    with pytest.raises(ShmbpfError, match="is closed"):
        ring.read()


def test_sleeper_is_woken_once_for_each_time_it_slept(machine):
    with PerfRing.open(events(machine), 0) as ring:
        poller = select.poll()
        poller.register(ring, select.POLLIN)
        send(machine)
        assert poller.poll(0) == []  # nobody said that he sleeps
        assert ring.arm() is True
        ring.read()
        assert ring.arm() is False
        send(machine)
        assert poller.poll(5000)
        assert ring.arm() is True and poller.poll(0) == []


def test_sleeper_is_woken_by_the_event_that_fills_the_quota(machine):
    with PerfRing.open(events(machine), 0, wakeup_events=3) as ring:
        polled = []
        for _ in range(6):
            ring.arm()
            send(machine)
            polled.append(bool(select.select([ring], [], [], 0)[0]))
        assert polled == [False, False, True] * 2


def test_a_consumers_garbage_in_its_page_hurts_no_other_ring(machine):
    with PerfRing.open(events(machine), 0, 1) as mine, PerfRing.open(events(machine), 1) as other:
        scribbled = mine._handle.page
        for tail in (1 << 63, 12345, 0xFFFFFFFFFFFFFFFF, 7):
            scribbled.data_tail = tail
            scribbled.data_head = (tail + 3) % (1 << 64)
            send(machine, cpu=0)
            send(machine, cpu=1)
            mine.read()
        assert len(numbers(other)) == 4 and other.lost == 0
        mine.check()
        other.check()


def test_a_rings_pipe_goes_with_it(machine):
    directory = f"/dev/shm/{machine.namespace.prefix}.wake"
    ring = PerfRing.open(events(machine), 0)
    assert os.listdir(directory) == [f"ring.{ring.id}"]
    ring.close()
    machine.namespace.collect()
    assert not os.path.exists(directory)


def test_chunks_hold_the_same_records(machine):
    with PerfRing.open(events(machine), 0, 1, sample_type=RAW) as ring:
        seen = []
        for _ in range(500):
            send(machine)
            for chunk in ring.chunks():
                view = bytes(chunk)
                while view:
                    kind, _, size = struct.unpack_from("<IHH", view)
                    assert kind == 9
                    seen.append(struct.unpack_from("<Q", view, 12)[0])
                    view = view[size:]
        assert seen == list(range(500)) and ring.sent == 500


def test_programs_cannot_touch_the_slots(namespace):
    source = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 4); } events SEC(".maps");
SEC("xdp") int look(struct xdp_md *ctx) { __u32 zero = 0; return bpf_map_lookup_elem(&events, &zero) != 0; }
"""
    with shmbpf.Runtime(cpus=1) as runtime:
        fault = runtime.load(compile_bpf(source)).programs["look"].run(PACKET).fault
    assert fault is not None and "perf_event_array" in fault


def test_recovery_publishes_what_a_dead_cpu_had_committed(machine):
    with PerfRing.open(events(machine), 1, sample_type=RAW) as ring:
        send(machine, cpu=1)
        machine._release_local()  # CPU 1 is nobody now
        committed = ring._handle.page.data_head
        ring._handle.page.data_head = 0  # as if it had died right after the commit
        assert ring.read() == [] and ring.arm() is False
        assert events(machine).recover() == 1
        assert select.select([ring], [], [], 5)[0] and ring._handle.page.data_head == committed
        assert numbers(ring) == [0]


def test_sizes_are_those_libbpf_would_ask_for():
    """A perf event array without max_entries has a slot for each CPU; ring buffers are rounded up to a power of two of pages."""
    source = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1); } small SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 12288); } odd SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 8192); } even SEC(".maps");
SEC("xdp") int pass(struct xdp_md *ctx) { return 2; }
"""
    with shmbpf.Runtime(cpus=3) as runtime:
        maps = runtime.load(compile_bpf(source)).maps
        assert {name: map_.raw.max_entries for name, map_ in maps.items()} == {"events": 3, "small": 4096, "odd": 16384, "even": 8192}


def test_reading_goes_on_behind_a_scribbled_position(machine):
    with PerfRing.open(events(machine), 0) as ring:
        for garbage in (0x9999999999999999, 3, (1 << 64) - 8):
            ring._handle.page.data_tail = garbage
            send(machine)
            ring.read()
            assert ring.unread == 0
            assert send(machine) == 0 and len(numbers(ring)) == 1
        assert ring.broken == 3


def test_losses_at_the_end_of_a_stream_are_told_and_not_told_twice(machine):
    stream = machine.obj.maps["events"].records(timeout=0.05, pages=1, cpus=[0])
    machine.obj.programs["send"].run(PACKET, cpu=0, repeat=300)
    first = list(stream)
    received = sum(isinstance(event, Record) for event in first)
    assert received < 300 and isinstance(first[-1], Lost) and received + first[-1].count == 300
    assert send(machine) == 0
    assert [type(event) for event in stream] == [Record]  # the ring's own LOST record says nothing new
    assert stream.tally.lost[0] == 300 - received
    stream.close()


def test_rings_end_with_their_runtime():
    with shmbpf.Runtime(cpus=1) as runtime:
        ring = runtime.load(compile_bpf(SOURCE)).maps["events"].open_ring(0)
        prefix = runtime.namespace.prefix
    for use in (ring.read, ring.arm, lambda: ring.unread, lambda: ring.sent, lambda: list(ring.chunks()), ring.pause):
        with pytest.raises(shmbpf.ClosedError, match="is closed"):
            use()
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]


def test_rings_are_opened_from_typed_maps_too(machine):
    with shmbpf.PerfRing.open(machine.obj.maps["events"], 0):
        assert send(machine) == 0


def test_futex_sleeper_is_woken_too(machine):
    with PerfRing.open(events(machine), 0) as ring:
        wake = ring._handle.wake
        seen = wake.seq
        send(machine)
        assert wake.seq == seen  # nobody waits: nothing is done about it
        lib.wake_arm(wake, lib.WAKE_FUTEX)
        woken: list[int] = []
        sleeper = threading.Thread(target=lambda: woken.append(lib.wake_wait(wake, seen, 20_000_000_000)))
        sleeper.start()
        send(machine)
        sleeper.join(timeout=10)
        assert woken == [0] and wake.seq == seen + 1 and wake.armed == 0
        assert lib.wake_wait(wake, wake.seq, 1_000_000) == -errno.ETIMEDOUT
