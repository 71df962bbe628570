"""SIGKILL of CPU processes in the middle of hash updates: nothing committed is lost, nobody hangs, every map is sound."""

import os
import random
import signal
import struct
import subprocess
import sys
import time

import pytest

import shmbpf
from tests.support.compile import compile_bpf
from tests.support.paths import CAPTURES, ROOT

KILLS = max(200, int(os.environ.get("SHMBPF_KILLS", "0")))  # the long form: make stress
SLOTS = 512
CPUS = 4
#: every packet: one replace (or first insert) of a slot of this CPU, one insert and one delete in a range that all CPUs share; `done` is advanced after the replace
SOURCE = (ROOT / "tests" / "support" / "bpf_api.h").read_text() + f"""
struct {{ __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, {CPUS * SLOTS + 256}); __uint(key_size, 8); __uint(value_size, 16); }} entries SEC(".maps");
struct {{ __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 8); }} done SEC(".maps");
SEC("xdp") int churn(struct xdp_md *ctx)
{{
    __u32 zero = 0, cpu = bpf_get_smp_processor_id();
    __u64 *last = bpf_map_lookup_elem(&done, &zero), key, value[2];
    if (!last)
        return XDP_ABORTED;
    value[0] = *last + 1;
    value[1] = ~value[0];
    key = (__u64)(cpu + 1) << 32 | value[0] % {SLOTS};
    if (bpf_map_update_elem(&entries, &key, value, BPF_ANY))
        return XDP_DROP;
    *last = value[0];
    key = bpf_get_prandom_u32() % 128;
    bpf_map_update_elem(&entries, &key, value, BPF_ANY);
    key = bpf_get_prandom_u32() % 128;
    bpf_map_delete_elem(&entries, &key);
    return XDP_PASS;
}}
char _license[] SEC("license") = "GPL";
"""


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.001)


@pytest.fixture
def churning():
    with shmbpf.Runtime(cpus=CPUS) as rt:
        obj = rt.load(compile_bpf(SOURCE))
        with obj.programs["churn"].attach(rt.device("shm0")):
            command = [sys.executable, "-m", "shmbpf", "--ns", rt.namespace.name, "inject", "shm0", str(CAPTURES / "web.pcap"), "--loop", "1000000"]
            feeder = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
            yield rt, obj, feeder
            feeder.kill()
            feeder.wait()


def packets_of(rt):
    return [report.packets for report in rt.reports()]


def test_killed_workers_lose_nothing_that_was_committed(churning):
    rt, obj, feeder = churning
    random.seed(17)
    wait_until(lambda: all(packets_of(rt)), "every CPU works")
    for number in range(KILLS):
        cpu = number % CPUS
        restarts = rt.reports()[cpu].restarts
        time.sleep(random.random() * 0.002)
        os.kill(rt.reports()[cpu].pid, signal.SIGKILL)
        wait_until(lambda: rt.reports()[cpu].restarts > restarts, f"CPU {cpu} is replaced")
        before = packets_of(rt)
        wait_until(lambda: all(now > then for now, then in zip(packets_of(rt), before, strict=True)), "all CPUs go on")
    feeder.kill()
    feeder.wait()
    rt.device("shm0").wait_drained()
    entries = obj.maps["entries"].raw
    entries.recover()
    entries.check()
    assert_all_committed(entries, struct.unpack(f"<{CPUS}Q", obj.maps["done"].raw.lookup(bytes(4))))
    assert sum(report.restarts for report in rt.reports()) == KILLS
    assert all(report.verdicts["xdp"].keys() == {"pass"} for report in rt.reports()), "no update was ever refused: the map was never wrongly full"


def assert_all_committed(entries, done):
    for cpu, last in enumerate(done):
        assert last > SLOTS
        for sequence in range(last - SLOTS + 1, last + 1):
            first, second = struct.unpack("<QQ", entries.lookup(struct.pack("<II", sequence % SLOTS, cpu + 1)))
            assert first in (sequence, sequence + SLOTS) and second == first ^ 0xFFFFFFFFFFFFFFFF, (cpu, sequence, first)


def test_every_element_is_usable_again_after_kills(churning):
    rt, obj, feeder = churning
    wait_until(lambda: all(packets_of(rt)), "every CPU works")
    for cpu in range(CPUS):
        os.kill(rt.reports()[cpu].pid, signal.SIGKILL)
    wait_until(lambda: all(report.restarts for report in rt.reports()), "all are replaced")
    feeder.kill()
    feeder.wait()
    rt.device("shm0").wait_drained()
    entries = obj.maps["entries"].raw
    for key in list(entries.keys()):
        entries.delete(key)
    for number in range(entries.max_entries):
        entries.update(struct.pack("<Q", number), bytes(16), shmbpf.uapi.NOEXIST)
    with pytest.raises(shmbpf.MapFullError):
        entries.update(struct.pack("<Q", entries.max_entries), bytes(16))
    entries.check()
