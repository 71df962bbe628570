"""cbits/net/device.c, feed.c and work.c: packets go in and come out, all of them, in order, whoever dies on the way."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time

import pytest

from shmbpf._ffi import ffi, lib
from tests.support.captures import RAW, SLL, Packet, Pcapng, flow_frame, ipv4, ipv6, pcap, ports
from tests.support.device import ACT, SOCKET, TC, XDP, Bench, capture_reader, insn, returning
from tests.support.outputs import read_outputs

SECOND = 10**9
AGAIN, PIPE, TOO_LONG = -11, -32, -90


@pytest.fixture
def bench():
    with Bench(2) as bench:
        yield bench


def verdicts(stats, hook: int) -> dict[str, int]:
    """Non-zero counters of a hook, by name."""
    names = {}
    for index in range(lib.NET_VERDICTS):
        name = lib.net_verdict_name(hook, index)
        if name != ffi.NULL and stats.verdicts[hook][index]:
            names[ffi.string(name).decode()] = stats.verdicts[hook][index]
    return names


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.001)


def put(feed, frame: bytes, wait_ns: int = 0) -> int:
    return lib.net_feed_packet(feed, frame, len(frame), len(frame), 5, wait_ns)


# ---- segments ----


@pytest.mark.parametrize("cpus", [0, 257])
def test_impossible_cpu_counts_have_no_size(cpus):
    assert lib.net_dev_bytes(cpus) == lib.net_run_bytes(cpus) == 0


def test_queues_of_a_device_do_not_overlap(bench):
    first, second = bench.queue(0), bench.queue(1)
    assert second - first == 1
    assert lib.net_dev_queue(bench.dev, bench.dev_segment.base, 2) == ffi.NULL
    assert lib.net_dev_data(bench.dev, bench.dev_segment.base, 1) - lib.net_dev_data(bench.dev, bench.dev_segment.base, 0) == lib.NET_QUEUE_BYTES
    assert lib.net_dev_data(bench.dev, bench.dev_segment.base, 2) == ffi.NULL


@pytest.mark.parametrize("field", ["ncpu", "kind", "bytes", "magic"])
def test_damaged_heads_are_refused(bench, field):
    setattr(bench.dev.head, field, 77)
    assert lib.net_dev_of(bench.dev_segment.base, bench.dev_segment.bytes) == ffi.NULL
    assert lib.net_feed_init(ffi.new("struct net_feed *"), bench.namespace.client, bench.dev_segment.base, bench.dev_segment.bytes) == -22


# ---- through the queue ----


@pytest.mark.parametrize("mapped", [False, True])
def test_every_packet_arrives_once_and_in_order(bench, mapped, tmp_path):
    rng = random.Random(3)
    packets = [Packet(flow_frame(rng.randrange(40), number, rng.randrange(60, 1500)), number) for number in range(3000)]
    data = pcap(packets, nanos=True)
    reader, feed = capture_reader(data), bench.feed()
    fd = os.open(tmp_path, os.O_RDONLY)
    workers = [bench.worker(cpu) for cpu in range(2)]
    for worker in workers:
        worker.out(fd)
    if mapped:
        feed.source = 5
        for worker in workers:
            worker.state.source[5], worker.state.source_bytes[5] = reader.base, reader.bytes
    threads = [threading.Thread(target=worker.work) for worker in workers]
    for thread in threads:
        thread.start()
    while (ret := lib.net_feed_capture(feed, reader, SECOND // 10)) == 1:
        pass
    bench.close_device()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert ret == 0
    os.close(fd)
    got = read_outputs(tmp_path)["pass"]
    assert sorted(packet.data for packet in got) == sorted(packet.data for packet in packets)
    per_flow: dict[bytes, list[int]] = {}
    for packet in got:
        per_flow.setdefault(packet.data[-8:-4], []).append(packet.ts_ns)
    assert len(per_flow) > 30
    assert all(times == sorted(times) for times in per_flow.values())
    stats = [bench.stats(cpu) for cpu in range(2)]
    assert sum(one.packets for one in stats) == feed.packets == 3000
    assert min(one.packets for one in stats) > 0
    assert sum(one.bytes for one in stats) == feed.bytes == sum(len(packet.data) for packet in packets)
    assert lib.net_dev_drained(bench.dev_segment.base, bench.dev) == 1


def test_ring_wraps_at_every_alignment(bench):
    worker, feed, rng = bench.worker(0), bench.feed(), random.Random(9)
    feed.spread = lib.NET_SPREAD_CPU0
    sent = size = 0
    while size < 5 * lib.NET_QUEUE_BYTES:
        frame = bytes(rng.choice((1, 13, 60, 61, 62, 63, 64, 1500, 9000, 262144)))
        if put(feed, frame) == AGAIN:
            bench.run.stop = 0
            bench.dev.closed = 1
            assert worker.work() == lib.NET_WORK_CLOSED
            continue
        sent += 1
        size += len(frame)
    worker.work()
    assert (bench.stats().packets, bench.stats().lost, bench.stats().bytes) == (sent, 0, size)


def test_roundrobin_and_cpu0_spread_as_they_say(bench):
    feed = bench.feed()
    feed.spread = lib.NET_SPREAD_ROUNDROBIN
    for _ in range(10):
        assert put(feed, flow_frame(1)) == 0
    assert (bench.queue(0).packets_in, bench.queue(1).packets_in) == (5, 5)
    feed.spread = lib.NET_SPREAD_CPU0
    for flow in range(10):
        assert put(feed, flow_frame(flow)) == 0
    assert (bench.queue(0).packets_in, bench.queue(1).packets_in) == (15, 5)


def test_full_queue_refuses_without_losing_anything(bench):
    feed, worker = bench.feed(), bench.worker(0)
    feed.spread = lib.NET_SPREAD_CPU0
    reader = capture_reader(pcap([Packet(bytes(60))] * 20000))
    assert lib.net_feed_capture(feed, reader, SECOND // 50) == 1
    held = feed.packets
    assert 0 < held < 20000
    assert put(feed, bytes(60)) == AGAIN
    assert put(feed, bytes(262145)) == TOO_LONG
    assert feed.packets == held == reader.packets
    bench.dev.closed = 1
    worker.work()
    while lib.net_feed_capture(feed, reader, SECOND // 50) == 1:
        worker.work()
    worker.work()
    assert bench.stats().packets == feed.packets == 20000
    assert feed.waits > 0


def test_full_queue_without_a_worker_ends_with_epipe(bench):
    feed = bench.feed()
    feed.spread, feed.orphan_ns = lib.NET_SPREAD_CPU0, SECOND // 50
    reader = capture_reader(pcap([Packet(bytes(1500))] * 2000))
    assert lib.net_feed_capture(feed, reader, 10 * SECOND) == PIPE


def test_stop_ends_a_wait_for_room(bench):
    worker, feed = bench.worker(0), bench.feed()
    feed.spread = lib.NET_SPREAD_CPU0
    reader = capture_reader(pcap([Packet(bytes(1500))] * 2000))
    thread = threading.Thread(target=lib.net_feed_capture, args=(feed, reader, 60 * SECOND))
    thread.start()
    wait_for(lambda: feed.waits > 0)
    feed.stop = 1
    thread.join(5)
    assert not thread.is_alive()
    assert worker.state.stats.packets == 0


def test_limit_and_slices_end_feeding(bench):
    feed, reader = bench.feed(), capture_reader(pcap([Packet(flow_frame(1))] * 1000))
    feed.max_packets = 10
    assert lib.net_feed_capture(feed, reader, SECOND) == 0
    assert feed.packets == 10
    feed.max_packets = 0
    assert lib.net_feed_capture(feed, reader, 0) == 1
    assert 10 < feed.packets < 1000


def test_rate_is_kept(bench):
    feed, reader = bench.feed(), capture_reader(pcap([Packet(flow_frame(1))] * 40))
    feed.rate_pps = 1000
    start = time.monotonic()
    while lib.net_feed_capture(feed, reader, SECOND // 100) == 1:
        pass
    assert feed.packets == 40
    assert time.monotonic() - start >= 0.038


def test_realtime_keeps_the_gaps_of_the_capture_in_every_round(bench):
    data = pcap([Packet(flow_frame(1), 10**18), Packet(flow_frame(1), 10**18 + 30_000_000), Packet(flow_frame(1), 10**18 + 10_000_000)])
    feed, start = bench.feed(), time.monotonic()
    feed.realtime = 1
    for _ in range(2):
        reader = capture_reader(data)
        while lib.net_feed_capture(feed, reader, SECOND // 200) == 1:
            pass
    assert feed.packets == 6
    assert time.monotonic() - start >= 0.060


# ---- link types ----


def sll(protocol: int, payload: bytes) -> bytes:
    return struct.pack(">HHH", 0, 1, 6) + b"\x02\x03\x04\x05\x06\x07\0\0" + struct.pack(">H", protocol) + payload


def sll2(protocol: int, payload: bytes) -> bytes:
    return struct.pack(">HHIHBB", protocol, 0, 1, 1, 0, 6) + b"\x02\x03\x04\x05\x06\x07\0\0" + payload


V4, V6 = ipv4("10.0.0.1", "10.0.0.2", 17, ports(7, 9)), ipv6("fe80::1", "fe80::2", 17, ports(7, 9))


@pytest.mark.parametrize(("linktype", "packet", "frame"), [
    (RAW, V4, bytes(12) + b"\x08\x00" + V4), (RAW, V6, bytes(12) + b"\x86\xdd" + V6), (228, V4, bytes(12) + b"\x08\x00" + V4),
    (0, b"\x02\0\0\0" + V4, bytes(12) + b"\x08\x00" + V4), (108, b"\0\0\0\x1e" + V6, bytes(12) + b"\x86\xdd" + V6),
    (SLL, sll(0x0800, V4), bytes(6) + b"\x02\x03\x04\x05\x06\x07\x08\x00" + V4), (276, sll2(0x86DD, V6), bytes(6) + b"\x02\x03\x04\x05\x06\x07\x86\xdd" + V6),
])
def test_other_links_get_an_ethernet_header(bench, tmp_path, linktype, packet, frame):
    worker, feed, fd = bench.worker(0), bench.feed(), os.open(tmp_path, os.O_RDONLY)
    worker.out(fd)
    feed.source, feed.spread = 0, lib.NET_SPREAD_CPU0
    reader = capture_reader(pcap([Packet(packet, 5000, wire=len(packet) + 3)], linktype=linktype))
    assert lib.net_feed_capture(feed, reader, SECOND) == 0
    bench.dev.closed = 1
    worker.work()
    os.close(fd)
    assert [(got.data, got.length) for got in read_outputs(tmp_path)["pass"]] == [(frame, len(frame) + 3)]


@pytest.mark.parametrize(("linktype", "packet"), [(147, V4), (SLL, bytes(16)), (276, bytes(20)), (RAW, b""), (0, bytes(4))])
def test_packets_of_unknown_or_cut_links_are_skipped_and_counted(bench, linktype, packet):
    feed = bench.feed()
    capture = Pcapng().section().interface(linktype=linktype).interface().packet(Packet(packet)).packet(Packet(flow_frame(1)), 1)
    assert lib.net_feed_capture(feed, capture_reader(capture.data), SECOND) == 0
    assert (feed.packets, feed.skipped) == (1, 1)


# ---- programs ----


def run_one(bench, frame: bytes = flow_frame(1), out: str | None = None):
    """Feeds one frame to CPU 0 and works it off."""
    worker, feed = bench.worker(0), bench.feed()
    if out:
        fd = os.open(out, os.O_RDONLY)
        worker.out(fd)
    feed.spread = lib.NET_SPREAD_CPU0
    assert put(feed, frame) == 0
    bench.dev.closed = 1
    assert worker.work() == lib.NET_WORK_CLOSED
    if out:
        os.close(fd)
    return worker


@pytest.mark.parametrize(("hook", "value", "verdict", "file"), [
    (XDP, 0, "aborted", "aborted"), (XDP, 1, "drop", "drop"), (XDP, 2, "pass", "pass"), (XDP, 3, "tx", "tx"), (XDP, 4, "redirect", "drop"), (XDP, 9, "invalid", "drop"),
    (TC, -1, "unspec", "pass"), (TC, 0, "ok", "pass"), (TC, 1, "reclassify", "pass"), (TC, 2, "shot", "drop"), (TC, 3, "pipe", "pass"), (TC, 4, "stolen", "drop"),
    (TC, 5, "queued", "pass"), (TC, 6, "repeat", "pass"), (TC, 7, "redirect", "drop"), (TC, 8, "trap", "drop"), (TC, 99, "other", "pass"),
    (ACT, 2, "shot", "drop"), (ACT, 4, "stolen", "pass"), (ACT, 3, "pipe", "pass"), (SOCKET, 0, "drop", "drop"), (SOCKET, 65535, "accept", "pass"),
])
def test_verdict_is_counted_and_decides_the_file(bench, tmp_path, hook, value, verdict, file):
    bench.attach(hook, returning(value))
    run_one(bench, out=str(tmp_path))
    assert verdicts(bench.stats(), hook) == {verdict: 1}
    assert bench.stats().runs[hook] == 1
    assert {name: [got.data for got in packets] for name, packets in read_outputs(tmp_path).items()} == {file: [flow_frame(1)]}


@pytest.mark.parametrize(("hook", "helper_ret"), [(XDP, "redirect"), (TC, "redirect")])
def test_redirect_helper_names_the_file(bench, tmp_path, hook, helper_ret):
    bench.attach(hook, insn(0xB7, 1, imm=4294967) + insn(0xB7, 2) + insn(0x85, imm=23) + insn(0x95))
    run_one(bench, out=str(tmp_path))
    assert verdicts(bench.stats(), hook) == {helper_ret: 1}
    assert list(read_outputs(tmp_path)) == ["redirect-4294967"]


def test_clone_redirect_writes_a_copy_and_the_packet_goes_on(bench, tmp_path):
    bench.attach(TC, insn(0xB7, 2, imm=3) + insn(0xB7, 3) + insn(0x85, imm=13) + insn(0xB7, 0) + insn(0x95))
    run_one(bench, out=str(tmp_path))
    assert {name: len(packets) for name, packets in read_outputs(tmp_path).items()} == {"redirect-3": 1, "pass": 1}
    assert bench.stats().out_packets == 2


def test_vlan_tag_beside_the_packet_is_in_the_output(bench, tmp_path):
    bench.attach(TC, insn(0xB7, 2, imm=0x0081) + insn(0xB7, 3, imm=42) + insn(0x85, imm=18) + insn(0xB7, 0) + insn(0x95))
    run_one(bench, out=str(tmp_path))
    frame = flow_frame(1)
    assert [got.data for got in read_outputs(tmp_path)["pass"]] == [frame[:12] + b"\x81\x00\x00\x2a" + frame[12:]]


def test_passed_packet_goes_through_every_hook_as_the_program_before_left_it(bench, tmp_path):
    # XDP: adjust_head(+14): cuts the Ethernet header; TC: returns OK only if the first byte now is 0x45; SOCKET keeps 20 bytes
    bench.attach(XDP, insn(0xB7, 2, imm=14) + insn(0x85, imm=44) + insn(0xB7, 0, imm=2) + insn(0x95))
    bench.attach(TC, insn(0x61, 2, 1, 76) + insn(0x61, 3, 1, 80) + insn(0xBF, 4, 2) + insn(0x07, 4, imm=1) + insn(0xB7, 0, imm=2) + insn(0x2D, 4, 3, 3)
                 + insn(0x71, 5, 2) + insn(0x55, 5, off=1, imm=0x45) + insn(0xB7, 0) + insn(0x95))
    bench.attach(ACT, returning(3))
    bench.attach(SOCKET, returning(20))
    run_one(bench, out=str(tmp_path))
    assert [verdicts(bench.stats(), hook) for hook in (XDP, TC, ACT, SOCKET)] == [{"pass": 1}, {"ok": 1}, {"pipe": 1}, {"accept": 1}]
    assert [got.data for got in read_outputs(tmp_path)["pass"]] == [flow_frame(1)[14:34]]


def test_program_knows_device_and_queue(bench):
    # returns 2 (pass) only when ingress_ifindex == 7 and rx_queue_index == 0
    bench.attach(XDP, insn(0x61, 2, 1, 12) + insn(0x61, 3, 1, 16) + insn(0xB7, 0, imm=1) + insn(0x55, 2, off=2, imm=7) + insn(0x55, 3, off=1, imm=0)
                 + insn(0xB7, 0, imm=2) + insn(0x95))
    run_one(bench)
    assert verdicts(bench.stats(), XDP) == {"pass": 1}


@pytest.mark.parametrize(("hook", "verdict"), [(XDP, "aborted"), (TC, "aborted"), (SOCKET, "aborted")])
def test_fault_is_logged_and_the_loop_goes_on(bench, tmp_path, hook, verdict):
    number = bench.attach(hook, insn(0xB7, 1, imm=64) + insn(0x79, 0, 1, 0) + insn(0x95))
    worker = run_one(bench, out=str(tmp_path))
    feed = bench.feed()
    feed.spread = lib.NET_SPREAD_CPU0
    assert put(feed, flow_frame(2)) == 0
    worker.work()
    stats = bench.stats()
    assert (stats.packets, stats.faults, verdicts(stats, hook)) == (2, 2, {verdict: 2})
    faults = bench.faults()
    assert (faults.kind_cnt, faults.others, faults.kind[0].count) == (1, 0, 2)
    fault = faults.kind[0].first
    assert (fault.code, fault.cpu, fault.prog_id, fault.insn, fault.addr) == (lib.VM_FAULT_MEMORY, 0, number, 1, 64)
    worker.__exit__()
    assert list(read_outputs(tmp_path)) == ["aborted"]


def fault_at(number, code=None):
    """A `struct vm_fault` at an instruction."""
    return ffi.new("struct vm_fault *", {"code": code or lib.VM_FAULT_MEMORY, "prog_id": 3, "insn": number, "detail": b"detail of %d" % number})


def test_faults_are_counted_by_kind_and_the_first_of_each_is_kept(bench):
    faults = bench.faults()
    for number, code in ((1, None), (2, None), (1, None), (1, lib.VM_FAULT_BUDGET), (1, None)):
        lib.net_run_note_fault(faults, fault_at(number, code))
    found = [(kind.first.insn, kind.first.code, kind.count) for kind in faults.kind[0:lib.net_run_fault_kinds(faults)]]
    assert found == [(1, lib.VM_FAULT_MEMORY, 3), (2, lib.VM_FAULT_MEMORY, 1), (1, lib.VM_FAULT_BUDGET, 1)]


def test_faults_of_too_many_kinds_are_still_counted(bench):
    faults = bench.faults()
    for number in range(lib.NET_FAULT_KINDS + 5):
        lib.net_run_note_fault(faults, fault_at(number))
    assert (faults.kind_cnt, faults.others) == (lib.NET_FAULT_KINDS, 5)
    assert ffi.string(faults.kind[lib.NET_FAULT_KINDS - 1].first.detail) == b"detail of %d" % (lib.NET_FAULT_KINDS - 1)


def test_a_reader_never_sees_a_fault_that_is_being_written(bench):
    """The reader goes by kind_cnt while the writer fills kinds as fast as it can: what is visible is whole, with its own text."""
    faults = bench.faults()
    events = [fault_at(number) for number in range(lib.NET_FAULT_KINDS)]

    def write():
        for event in events:
            for _ in range(200):
                lib.net_run_note_fault(faults, event)

    writer, looks = threading.Thread(target=write), 0
    writer.start()
    while writer.is_alive() or not looks:
        for kind in faults.kind[0:lib.net_run_fault_kinds(faults)]:
            assert ffi.string(kind.first.detail) == b"detail of %d" % kind.first.insn and kind.count >= 1
        looks += 1
    writer.join()
    assert sum(kind.count for kind in faults.kind) == 200 * lib.NET_FAULT_KINDS


def test_there_are_no_faults_of_a_cpu_the_run_does_not_have(bench):
    assert lib.net_run_faults(bench.run_segment.base, bench.run_segment.bytes, bench.cpus) == ffi.NULL


def test_programs_are_followed_while_the_worker_runs(bench):
    worker, feed = bench.worker(0), bench.feed()
    feed.spread = lib.NET_SPREAD_CPU0
    first, second = bench.program(XDP, returning(1)), bench.program(XDP, returning(2))
    thread = threading.Thread(target=worker.work, args=(60 * SECOND,))
    thread.start()
    stats = bench.stats()
    for number, (program, name) in enumerate([(first.id, "drop"), (second.id, "pass"), (first.id, "drop")], start=1):
        lib.net_dev_attach(bench.dev_segment.base, bench.dev, XDP, program)
        assert put(feed, flow_frame(1)) == 0
        wait_for(lambda number=number: stats.packets == number)
        assert name in verdicts(stats, XDP)
    lib.net_dev_attach(bench.dev_segment.base, bench.dev, XDP, 0)
    assert put(feed, flow_frame(1)) == 0
    wait_for(lambda: stats.packets == 4)
    bench.run.stop = 1
    lib.net_dev_kick(bench.dev_segment.base, bench.dev, 0)
    thread.join(5)
    assert not thread.is_alive()
    assert verdicts(stats, XDP) == {"drop": 2, "pass": 1}


def test_program_that_cannot_be_opened_is_reported_once(bench):
    worker = bench.worker(0)
    lib.net_dev_attach(bench.dev_segment.base, bench.dev, XDP, 4711)
    assert worker.work() == lib.NET_WORK_PROG_ERROR
    assert b"4711" in ffi.string(worker.state.error.text)
    lib.net_dev_attach(bench.dev_segment.base, bench.dev, TC, bench.program(XDP, returning(2)).id)
    assert worker.work() == lib.NET_WORK_PROG_ERROR
    assert b"another hook" in ffi.string(worker.state.error.text)
    bench.run.stop = 1
    assert worker.work() == lib.NET_WORK_STOP


def test_control_word_interrupts_a_sleeping_worker(bench):
    worker, results = bench.worker(0), []
    thread = threading.Thread(target=lambda: results.append(worker.work(60 * SECOND)))
    thread.start()
    wait_for(lambda: bench.queue().consumer_sleeps == 1)
    bench.stats().ctl_word += 1
    lib.net_dev_kick(bench.dev_segment.base, bench.dev, 0)
    thread.join(5)
    assert results == [lib.NET_WORK_CTL]


# ---- dying and scribbling ----


def test_packet_in_hand_of_a_killed_worker_is_skipped_and_counted(bench):
    feed = bench.feed()
    feed.spread = lib.NET_SPREAD_CPU0
    for number in range(3):
        assert put(feed, flow_frame(1, number)) == 0
    bench.stats().in_flight = bench.queue().tail | 1   # died with the first packet
    worker = bench.worker(0)
    assert bench.stats().lost == 1
    bench.dev.closed = 1
    worker.work()
    assert (bench.stats().packets, bench.stats().lost) == (2, 1)


def test_finished_packet_of_a_killed_worker_is_not_counted_as_lost(bench):
    feed = bench.feed()
    feed.spread = lib.NET_SPREAD_CPU0
    for number in range(3):
        assert put(feed, flow_frame(1, number)) == 0
    bench.stats().in_flight = (bench.queue().tail - 64) & 0xFFFFFFFF | 1   # died between two packets
    worker = bench.worker(0)
    bench.dev.closed = 1
    worker.work()
    assert (bench.stats().packets, bench.stats().lost) == (3, 0)


def test_producer_killed_with_the_lock_leaves_no_half_entry(bench):
    from shmbpf.shm.namespace import Namespace

    ready, ready_w = os.pipe()
    child = os.fork()
    if not child:
        try:
            with Namespace(bench.namespace.name, role="victim") as namespace:
                queue = bench.queue()
                if lib.shm_lock(namespace.client, ffi.addressof(queue, "lock")) == 0:
                    ffi.memmove(lib.net_dev_data(bench.dev, bench.dev_segment.base, 0) + queue.head % lib.NET_QUEUE_BYTES, b"\xff" * 40, 40)
                    os.write(ready_w, b"x")
                    signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(ready_w)
    feed, worker = bench.feed(), bench.worker(0)
    feed.spread = lib.NET_SPREAD_CPU0
    assert put(feed, flow_frame(1)) == 0
    assert bench.namespace.client.steals == 1
    bench.dev.closed = 1
    worker.work()
    assert (bench.stats().packets, bench.stats().lost) == (1, 0)


@pytest.mark.parametrize("seed", range(6))
def test_scribbled_queue_neither_crashes_nor_hangs_anybody(bench, seed):
    rng = random.Random(seed)
    worker, feed = bench.worker(0), bench.feed()
    feed.spread, feed.orphan_ns = lib.NET_SPREAD_CPU0, 1
    source = ffi.from_buffer("uint8_t[]", bytes(5000))
    worker.state.source[1], worker.state.source_bytes[1] = source, 5000
    queue, data = bench.queue(), ffi.buffer(lib.net_dev_data(bench.dev, bench.dev_segment.base, 0), lib.NET_QUEUE_BYTES)
    bench.attach(XDP, returning(2))
    bench.dev.closed = 1
    for _ in range(300):
        for _ in range(rng.randrange(4)):
            put(feed, flow_frame(rng.randrange(5), size=rng.randrange(60, 400)))
        where, value = rng.random(), rng.choice((0, 1, 7, 8, 40, 2**20, 2**31, 2**32 - 1, rng.getrandbits(32), rng.randrange(5000)))
        if where < 0.15:
            queue.tail = rng.choice((queue.tail + 8, queue.tail - 8, value, value << 30, queue.head + 1)) % 2**64
        elif where < 0.3:
            queue.head = rng.choice((queue.head + 8, queue.head - 8, value, value << 30, queue.tail + 5)) % 2**64
        else:
            place = (queue.tail + 4 * rng.randrange(12)) % lib.NET_QUEUE_BYTES // 4 * 4
            data[place:place + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
        assert worker.work() == lib.NET_WORK_CLOSED
        assert queue.head == queue.tail
    put(feed, flow_frame(1))
    before = bench.stats().packets
    worker.work()
    assert bench.stats().packets - before <= 1


def test_time_in_programs_is_measured(bench):
    bench.attach(XDP, returning(2))
    feed = bench.feed()
    feed.spread = lib.NET_SPREAD_CPU0
    worker = bench.worker(0)
    bench.dev.closed = 1
    for _ in range(200):
        assert put(feed, flow_frame(1)) == 0
    worker.work()
    assert 0 < bench.stats().run_ns < SECOND
    assert bench.run.first_packet_ns >= bench.run.started_ns > 0
    assert bench.stats().state == lib.RUN_CPU_IDLE
