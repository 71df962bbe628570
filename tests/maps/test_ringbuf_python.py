"""Ring buffers and user ring buffers as Python sees them."""

from __future__ import annotations

import errno
import os
import select
import struct
import time

import pytest

import shmbpf
from shmbpf._ffi import ffi, lib
from shmbpf.errors import ClosedError, MapError
from shmbpf.events.ringbuf import RingBuffer, UserRingBuffer
from shmbpf.spec import MapSpec

RINGBUF, USER_RINGBUF, HASH, PAGE = 27, 31, 1, 4096


@pytest.fixture
def runtime():
    with shmbpf.Runtime(cpus=2) as made:
        yield made


def create(runtime, type: int = RINGBUF, size: int = PAGE):
    return runtime.create_map(MapSpec("ring", type, 0, 0, size, 0)).raw


def put(m, data: bytes, flags: int = 0) -> int:
    return lib.ringbuf_output(m.handle, m.namespace.client, ffi.from_buffer(data), len(data), flags)


class TestPython:
    def test_a_ring_ends_with_its_map(self, runtime):
        m = create(runtime)
        ring = RingBuffer(m)
        put(m, b"a")
        chunk = next(ring.chunks())
        m.close()
        assert bytes(chunk[8:9]) == b"a"  # a view keeps what it shows
        for use in (ring.read, ring.arm, lambda: ring.sent, lambda: ring.stalled):
            with pytest.raises(ClosedError):
                use()
        ring.close()

    def test_records_have_the_programs_bytes(self, runtime):
        m = create(runtime)
        with RingBuffer(m) as ring:
            put(m, b"one")
            put(m, b"")
            records = ring.read()
            assert [record.data for record in records] == [b"one", b""]
            assert (records[0].cpu, records[0].index, records[0].map_id) == (-1, -1, m.id)
            assert (ring.read(), ring.sent, ring.lost, ring.aborted, ring.unread) == ([], 2, 0, 0, 0)

    def test_a_record_larger_than_the_buffer_is_read_whole(self, runtime):
        m = create(runtime, size=1 << 20)
        with RingBuffer(m) as ring:
            data = os.urandom((1 << 20) - 16)
            assert put(m, data) == 0
            assert [record.data for record in ring.read()] == [data]

    def test_poll_sleeps_until_a_record_comes(self, runtime):
        m = create(runtime)
        with RingBuffer(m) as ring:
            assert not ring.arm()
            assert select.select([ring], [], [], 0)[0] == []
            put(m, b"a")
            assert select.select([ring], [], [], 10)[0] == [ring]
            assert ring.arm(), "there is something to read already"
            ring.read()
            assert not ring.arm() and select.select([ring], [], [], 0)[0] == []

    def test_a_sleeper_behind_a_dead_producer_goes_on_by_itself(self, runtime):
        """Its producer lived when the consumer went to sleep, and nobody comes by when it dies."""
        m = create(runtime)
        with RingBuffer(m) as ring:
            victim = m.namespace.new_client("victim")
            assert lib.ringbuf_reserve(m.handle, victim, 8) != ffi.NULL
            put(m, b"behind")
            assert not ring.arm() and ring.stalled and ring.read() == []
            m.namespace.drop_client(victim)
            del victim
            found, deadline = [], time.monotonic() + 10
            while not found and time.monotonic() < deadline:
                select.select([ring], [], [], 10)
                found = ring.read()
                ring.arm()
            assert [record.data for record in found] == [b"behind"] and ring.aborted == 1

    def test_chunks_are_whole_records(self, runtime):
        m = create(runtime, size=1 << 16)
        with RingBuffer(m) as ring:
            for i in range(1000):
                put(m, struct.pack("=I", i))
            words = b"".join(bytes(chunk) for chunk in ring.chunks())
            assert [struct.unpack_from("=I", words, at + 8)[0] for at in range(0, len(words), 16)] == list(range(1000))
            assert ring.unread == 0

    def test_a_scribbled_position_is_one_error(self, runtime):
        m = create(runtime)
        with RingBuffer(m) as ring:
            put(m, b"a")
            ffi.cast("uint64_t *", m.handle.base)[0] = 1 << 30
            with pytest.raises(MapError, match="consumer's position"):
                ring.read()
            put(m, b"b")
            assert [record.data for record in ring.read()] == [b"b"]

    def test_other_maps_are_refused_by_name(self, runtime):
        m = runtime.create_map(MapSpec("flows", HASH, 4, 4, 4, 0)).raw
        for face in (RingBuffer, UserRingBuffer):
            with pytest.raises(MapError, match="'flows'.*is of type hash: expected a "):
                face(m)

    def test_a_closed_ring_says_so(self, runtime):
        ring = RingBuffer(create(runtime))
        ring.close()
        ring.close()
        with pytest.raises(ClosedError, match="'ring' is closed"):
            ring.read()

    def test_user_ring_says_how_much_room_there_is(self, runtime):
        m = create(runtime, USER_RINGBUF)
        with UserRingBuffer(m) as ring:
            ring.write(bytes(4000))
            with pytest.raises(MapError, match="88 of 4096 bytes are free") as full:
                ring.write(bytes(100))
            assert full.value.errno == errno.ENOSPC
            with pytest.raises(MapError, match="at most 4088") as never:
                ring.write(bytes(5000))
            assert (never.value.errno, ring.room, ring.drained) == (errno.E2BIG, 88, 0)
