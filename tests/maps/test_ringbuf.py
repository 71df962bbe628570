"""Ring buffers below the helpers: creation, bytes in the segment, readers, wake-ups, and what a consumer's scribbling can do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import select
import struct
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.compile import compile_bpf
from support.kernel import KernelMap, pinned_to_cpu
from support.kernel import load_object as load_into_kernel
from support.raw_maps import RawNamespace
from support.raw_ringbuf import RINGBUF, USER_RINGBUF, Ring, die, make
from support.ringbuf_bytes import BUSY, DISCARD, PAGE, RingBytes

from shmbpf._ffi import ffi, lib
from shmbpf.elf import load_object

HASH = 1
NO_WAKEUP, FORCE_WAKEUP = lib.BPF_RB_NO_WAKEUP, lib.BPF_RB_FORCE_WAKEUP
KINDS = pytest.mark.parametrize("type", [RINGBUF, USER_RINGBUF], ids=["ringbuf", "user_ringbuf"])


@pytest.fixture
def ns():
    with RawNamespace(2) as made:
        yield made


@pytest.fixture
def ring(ns):
    with make(ns) as made:
        yield made


@pytest.fixture
def dead(ns):
    """A client that reserves and is gone."""
    client = RawNamespace.join(os.dup(ns.fd))
    yield client
    client.close()


class TestMap:
    @KINDS
    @pytest.mark.parametrize("attr", [(0, 0, 4096, 0), (0, 0, 8192, 4), (0, 0, 1 << 16, 0), (0, 0, 2048, 0), (0, 0, 4095, 0), (0, 0, 12288, 0), (0, 0, 0, 0), (4, 0, 4096, 0), (0, 8, 4096, 0),
                                      (0, 0, 4096, 8), (0, 0, 4096, 0x400), (0, 0, 4096, 1), (0, 0, 4096, 0x80)])  # fmt: skip
    @pytest.mark.kernel
    def test_creation_is_refused_where_linux_refuses(self, ns, type, attr):
        key, value, entries, flags = attr
        assert made_errno(lambda: ns.create(type, key, value, entries, flags)) == made_errno(lambda: KernelMap(type, key, value, entries, flags))

    @KINDS
    @pytest.mark.kernel
    def test_element_operations_fail_as_with_a_null_key_in_linux(self, ns, type):
        with ns.create(type, 0, 0, PAGE) as ours, KernelMap(type, 0, 0, PAGE) as linux:
            for operation in ("lookup", "lookup_and_delete", "delete", "next_key"):
                assert made_errno(lambda: getattr(ours, operation)(b"")) == made_errno(lambda: getattr(linux, operation)(None)) == 524
            assert made_errno(lambda: ours.update(b"", b"")) == made_errno(lambda: linux.update(None, None)) == 524
            assert ours.lookup_batch(1)[0] == ours.update_batch([])[0] == ours.delete_batch([])[0] == 524
            ours.freeze()
            linux.freeze()

    def test_a_closed_map_gives_its_address_space_back(self, ns):
        with make(ns, 1 << 20) as ring:
            data = f"{int(ffi.cast('uintptr_t', ring.handle.own)):x}-"
            assert data in Path("/proc/self/maps").read_text()
        assert data not in Path("/proc/self/maps").read_text()

    @KINDS
    def test_other_types_are_no_ring(self, ns, type):
        other = HASH if type == RINGBUF else RINGBUF
        with (ns.create(HASH, 4, 4, 4) if other == HASH else make(ns)) as m:
            assert lib.ringbuf_wake_of(m.handle) == ffi.NULL or other == RINGBUF
            assert lib.user_ringbuf_write(m.handle, m.me, ffi.from_buffer(b"a"), 1) == -errno.EINVAL
            if other == HASH:
                assert lib.ringbuf_reserve(m.handle, m.me, 8) == ffi.NULL
                assert lib.ringbuf_query(m.handle, 1) == 0


def made_errno(action) -> int:
    try:
        made = action()
    except OSError as error:
        return error.errno
    if hasattr(made, "close"):
        made.close()
    return 0


class TestProducing:
    def test_records_are_exact_and_in_order(self, ring):
        sent = [bytes([i]) * i for i in range(40)]
        assert [ring.output(data) for data in sent] == [0] * 40
        assert ring.read() == sent
        assert ring.counts() == (40, 0, 0)
        ring.check()

    def test_a_page_holds_255_records_of_16_bytes(self, ring):
        assert [ring.output(bytes(8)) for _ in range(256)] == [0] * 255 + [-errno.EAGAIN]
        assert ring.counts() == (255, 1, 0)
        assert len(ring.read()) == 255

    def test_the_largest_payload_is_the_size_less_16(self, ring):
        assert ring.reserve(4081) == ffi.NULL
        assert ring.output(bytes(4080)) == 0
        assert ring.reserve(0x40000000) == ffi.NULL
        assert ring.counts() == (1, 2, 0)

    def test_unknown_flags_send_nothing_and_lose_nothing(self, ring):
        assert ring.output(b"a", 4) == -errno.EINVAL
        assert (ring.counts(), ring.query(0)) == ((0, 0, 0), 0)

    def test_out_of_order_commits_are_delivered_in_reserve_order(self, ring):
        samples = [ring.reserve(8) for _ in range(3)]
        for i, sample in enumerate(samples):
            ffi.memmove(sample, struct.pack("=Q", i), 8)
        ring.commit(samples[2])
        ring.commit(samples[1])
        assert ring.read() == []
        assert lib.ringbuf_stalled(ring.handle)
        ring.commit(samples[0])
        assert ring.read() == [struct.pack("=Q", i) for i in range(3)]

    def test_a_discarded_record_takes_space_and_is_skipped(self, ring):
        ring.output(b"first")
        ring.commit(ring.reserve(8), discard=True)
        ring.output(b"last")
        with closing(ring.bytes()) as raw:
            assert [header[1] & (BUSY | DISCARD) for header in raw.headers()] == [0, DISCARD, 0]
        assert ring.query(0) == 48
        assert ring.read() == [b"first", b"last"]
        assert ring.counts() == (2, 0, 0)

    def test_an_open_record_keeps_its_place_however_much_is_read(self, ring):
        """What lies between the oldest open record and the newest may not fill the ring (CVE-2024-41009)."""
        for _ in range(100):
            ring.output(bytes(8))
        ring.read()
        held = ring.reserve(8)
        with closing(ring.bytes()) as raw:
            raw.consumer_pos = raw.producer_pos  # a consumer that reads what it must not
            assert [ring.output(bytes(8)) for _ in range(255)] == [0] * 254 + [-errno.EAGAIN]
        ring.commit(held)
        assert ring.output(bytes(8)) == 0, "now only what is unread counts"
        ring.check()

    def test_records_never_wrap_in_memory(self, ring):
        for i in range(500):
            data = struct.pack("=I", i) * 257
            assert ring.output(data) == 0
            assert ring.read() == [data]

    def test_counters_see_what_lies_behind_an_open_record(self, ring):
        held = ring.reserve(8)
        ring.output(b"behind")
        ring.commit(ring.reserve(1), discard=True)
        assert ring.counts() == (1, 0, 0)
        ring.commit(held)
        assert ring.counts() == (2, 0, 0)

    def test_a_live_holder_of_the_lock_costs_the_record_not_the_program(self, ns, ring, dead):
        ring.me.busy_ns = 1_000_000
        control = ffi.cast("struct shm_ringbuf *", ring.handle.links)
        control.lock = dead.me.owner
        assert ring.output(b"a") == -errno.EAGAIN
        control.lock = 0
        assert ring.counts() == (0, 1, 0)
        assert ring.output(b"b") == 0


class TestReading:
    def test_read_stops_at_room_and_buffer_and_goes_on(self, ring):
        for i in range(10):
            ring.output(bytes([i]) * 10)
        assert ring.read(room=3) == [bytes([i]) * 10 for i in range(3)]
        assert ring.read(buffer_bytes=25) == [bytes([i]) * 10 for i in (3, 4)]
        with pytest.raises(OSError) as refused:
            ring.read(buffer_bytes=9)
        assert refused.value.errno == errno.ENOSPC
        assert len(ring.read()) == 5

    def test_peek_shows_finished_records_in_one_piece(self, ring):
        for _ in range(200):
            ring.output(bytes(8))
        ring.read()
        for i in range(100):
            ring.output(struct.pack("=Q", i))
        held = ring.reserve(8)
        start = ffi.new("const uint8_t **")
        assert lib.ringbuf_peek(ring.handle, ring.me, 100, start) == 96
        assert lib.ringbuf_peek(ring.handle, ring.me, 1 << 20, start) == 1600  # round the end of the ring
        words = struct.unpack("=" + "IIQ" * 100, bytes(ffi.buffer(start[0], 1600)))
        assert words[2::3] == tuple(range(100))
        lib.ringbuf_consume(ring.handle, 1600)
        assert lib.ringbuf_peek(ring.handle, ring.me, 1 << 20, start) == 0
        ring.commit(held)
        ring.check()

    def test_a_stock_reader_drains_the_segment(self, ring):
        with closing(ring.bytes()) as raw:
            for i in range(1000):
                data = os.urandom(i % 300)
                assert ring.output(data) == 0
                if i % 7 == 0:
                    ring.commit(ring.reserve(5), discard=True)
                if i % 3 == 0:
                    assert list(raw.consume())[-1] == data
            list(raw.consume())
            assert raw.consumer_pos == raw.producer_pos
        ring.check()


class TestDeadProducers:
    def test_their_open_record_is_skipped_and_counted(self, ring, dead):
        ring.output(b"before")
        assert ring.reserve(100, dead.me) != ffi.NULL
        ring.output(b"behind")
        assert ring.read() == [b"before"]
        die(dead)
        assert ring.read() == [b"behind"]
        assert ring.counts() == (2, 0, 1)
        ring.check()

    def test_a_slow_one_is_never_touched(self, ring, dead):
        sample = ring.reserve(8, dead.me)
        ring.output(b"behind")
        assert ring.read() == [] and ring.recover() == 0
        ffi.memmove(sample, b"finished", 8)
        ring.commit(sample, me=dead.me)
        assert ring.read() == [b"finished", b"behind"]
        assert ring.counts() == (2, 0, 0)

    def test_producers_without_room_free_a_stock_reader(self, ring, dead):
        """A reader that knows nothing of owners waits at the open record until a producer needs the room."""
        ring.reserve(8, dead.me)
        die(dead)
        with closing(ring.bytes()) as raw:
            while ring.output(b"survivor") == 0:
                assert list(raw.consume()) == []
            assert len(list(raw.consume())) == 254
        assert ring.counts() == (254, 1, 1)
        ring.check()

    def test_recovery_closes_everything_they_left(self, ring, dead):
        for _ in range(3):
            ring.reserve(8, dead.me)
            ring.output(b"mine")
        die(dead)
        assert ring.recover() == 3
        assert ring.recover() == 0
        assert ring.read() == [b"mine"] * 3
        assert ring.counts() == (3, 0, 3)

    def test_a_commit_wakes_who_sleeps_behind_one(self, ring, dead):
        """The sleeper was told nothing of the reservation: the next producer sees that it sleeps in front of an open record."""
        wake = lib.ringbuf_wake_of(ring.handle)
        lib.wake_arm(wake, lib.WAKE_FUTEX)
        ring.reserve(8, dead.me)
        die(dead)
        ring.output(b"behind")
        assert wake.armed == 0
        assert ring.read() == [b"behind"]


class TestScribbling:
    """The consumer page is the consumer's: whatever stands there costs nobody else anything."""

    @pytest.mark.parametrize("position", [1, 8, 4095, 4096, 1 << 20, (1 << 64) - 8, (1 << 64) - 1, 1 << 63])
    def test_a_position_beyond_the_producers_loses_records_but_nothing_else(self, ring, position):
        ring.output(b"unread")
        with closing(ring.bytes()) as raw:
            raw.consumer_pos = position
            before = ring.query(3)
            accepted = [ring.output(b"next") for _ in range(300)].count(0)
            assert ring.query(3) == before + 16 * accepted
            raw.consumer_pos = ring.query(3)
        assert ring.counts() == (1 + accepted, 300 - accepted, 0)
        assert ring.output(b"good again") == 0 and ring.read() == [b"good again"]

    @pytest.mark.parametrize("position", [1, 12, 4 * PAGE, (1 << 64) - 2 * PAGE])
    def test_our_reader_says_so_once_and_goes_on(self, ring, position):
        for _ in range(4):
            ring.output(b"unread")
        with closing(ring.bytes()) as raw:
            raw.consumer_pos = position
        with pytest.raises(OSError) as damaged:
            ring.read()
        assert damaged.value.errno == errno.EUCLEAN
        ring.output(b"next")
        assert ring.read() == [b"next"]
        ring.check()

    def test_random_positions_never_break_a_producer(self, ring):
        source = random.Random(5)
        with closing(ring.bytes()) as raw:
            for _ in range(3000):
                raw.consumer_pos = source.choice([source.getrandbits(64), (raw.producer_pos - source.randrange(5000)) % (1 << 64), raw.producer_pos])
                ring.output(bytes(source.randrange(200)))
            raw.consumer_pos = raw.producer_pos
        ring.check()
        assert sum(ring.counts()[:2]) == 3000

    def test_fsck_names_a_scribbled_header(self, ring):
        ring.reserve(8)
        ring.output(b"a")
        with closing(ring.bytes()) as raw:
            raw.store(16, struct.pack("=I", 100))
        why = ffi.new("char[]", 200)
        assert lib.map_check(ring.handle, ring.me, why, 200) == -errno.EUCLEAN
        assert b"position 16" in ffi.string(why)
        assert ring.recover() == 0


#: (flags of each record, whether a consumer that sleeps is woken by it); `None`: the consumer reads everything. Linux v6.18, edge-triggered epoll.
WAKEUPS = [
    ([0], [True]),
    ([0, 0], [True, False]),
    ([0, None, 0], [True, None, True]),
    ([0, FORCE_WAKEUP], [True, True]),
    ([NO_WAKEUP, 0], [False, False]),
    ([NO_WAKEUP, None, 0], [False, None, True]),
    ([NO_WAKEUP | FORCE_WAKEUP, 0], [True, False]),
    ([0, NO_WAKEUP, FORCE_WAKEUP, 0], [True, False, True, False]),
]
SENDER = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } rb SEC(".maps");
SEC("xdp") int sender(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data; __u64 word = 1;
	if (data + 1 > (__u8 *)(long)ctx->data_end) return 0;
	return bpf_ringbuf_output(&rb, &word, 8, data[0] & 3) ? 1 : 2;
}
"""


@pytest.mark.parametrize("flags, woken", WAKEUPS)
class TestWakeups:
    def test_only_a_caught_up_consumer_is_woken(self, ring, flags, woken):
        wake, found = lib.ringbuf_wake_of(ring.handle), []
        for flag in flags:
            if flag is None:
                ring.read()
                found.append(None)
                continue
            wake.armed = lib.WAKE_FUTEX
            ring.output(bytes(8), flag)
            found.append(wake.armed == 0)
        assert found == woken

    @pytest.mark.kernel
    def test_linux_wakes_the_same(self, flags, woken):
        with load_into_kernel(load_object(compile_bpf(SENDER), name="sender"), "sender") as program, pinned_to_cpu(0), select.epoll() as poll:
            fd, found = program.maps["rb"].fd, []
            raw = RingBytes(fd, PAGE, kernel=True)
            poll.register(fd, select.EPOLLIN | select.EPOLLET)
            for flag, expected in zip(flags, woken):
                if flag is None:
                    list(raw.consume())
                    found.append(None)
                    continue
                poll.poll(0)
                assert program.run(bytes([flag]) + bytes(63)).retval == 2
                found.append(bool(poll.poll(5 if expected else 0.02)))
            raw.close()
        assert found == woken


class TestStalledSleeper:
    def test_is_woken_by_whatever_finishes_the_record_it_watches(self, ring):
        wake, held = lib.ringbuf_wake_of(ring.handle), ring.reserve(8)
        lib.wake_arm(wake, lib.WAKE_FUTEX | lib.RINGBUF_WAKE_STALLED)
        ring.output(b"behind")
        assert wake.armed, "it knows of the open record already"
        ring.commit(held, NO_WAKEUP)
        assert wake.armed == 0


def record(number: int, i: int) -> bytes:
    return struct.pack("=II", number, i) + bytes([number * 16 + i % 16]) * (i % 97)


def produce(fds: tuple[int, int], number: int, count: int, start) -> None:
    with RawNamespace.join(os.dup(fds[0]), number) as ns, Ring(ns, os.dup(fds[1])) as ring:
        start.wait()
        for i in range(count):
            data = record(number, i)
            while ring.output(data):
                os.sched_yield()


class TestTwoProducers:
    def test_nothing_is_torn_lost_or_out_of_order(self, ns):
        count, context = 20000, multiprocessing.get_context("fork")
        with make(ns, 1 << 16) as ring:
            start = context.Event()
            workers = [context.Process(target=produce, args=((ns.fd, ring.fd), number, count, start)) for number in range(2)]
            for worker in workers:
                worker.start()
            start.set()
            following, deadline = [0, 0], time.monotonic() + 60
            while sum(following) < 2 * count:
                assert time.monotonic() < deadline
                for data in ring.read(room=500):
                    number, i = struct.unpack_from("=II", data)
                    assert i == following[number] and data == record(number, i)
                    following[number] += 1
            for worker in workers:
                worker.join()
                assert worker.exitcode == 0
            sent, _, aborted = ring.counts()
            assert (sent, aborted) == (2 * count, 0)
            ring.check()


class TestForeignReader:
    def test_a_c_reader_that_knows_the_public_protocol_only_drains_two_producers(self, ns, tmp_path):
        count, size, context = 5000, 1 << 14, multiprocessing.get_context("fork")
        reader = tmp_path / "reader"
        subprocess.run(["cc", "-O2", "-o", reader, Path(__file__).parent / "stock_ringbuf_reader.c"], check=True)
        with make(ns, size) as ring:
            start = context.Event()
            workers = [context.Process(target=produce, args=((ns.fd, ring.fd), number, count, start)) for number in range(2)]
            for worker in workers:
                worker.start()
            with subprocess.Popen([reader, f"/proc/{os.getpid()}/fd/{ring.fd}", str(size), str(2 * count)], stdout=subprocess.PIPE, text=True) as running:
                start.set()
                printed = running.communicate(timeout=60)[0].split()
            for worker in workers:
                worker.join()
            assert running.returncode == 0
            assert printed == [str(count), str(count), str(sum(sum(record(number, i)) for number in range(2) for i in range(count)))]
            ring.check()
