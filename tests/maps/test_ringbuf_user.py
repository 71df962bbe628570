"""User ring buffers below the helper that drains them: producers of ours and stock ones, the dead, damaged positions."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import closing

import pytest
from support.raw_maps import RawNamespace
from support.raw_ringbuf import USER_RINGBUF, die, make
from support.ringbuf_bytes import BUSY

from shmbpf._ffi import ffi, lib


@pytest.fixture
def ns():
    with RawNamespace(2) as made:
        yield made


@pytest.fixture
def dead(ns):
    """A client that reserves and is gone."""
    client = RawNamespace.join(os.dup(ns.fd))
    yield client
    client.close()


class TestUserRing:
    def test_samples_come_exact_and_in_order(self, ns):
        with make(ns, type=USER_RINGBUF) as ring:
            for round_ in range(50):
                sent = [bytes([i + round_]) * (i * 7) for i in range(15)]
                assert [ring.write(data) for data in sent] == [0] * 15
                assert ring.drain() == sent
            assert ring.counts() == (750, 0, 0)
            ring.check()

    def test_it_fills_to_the_last_byte(self, ns):
        with make(ns, type=USER_RINGBUF) as ring:
            assert [ring.write(bytes(8)) for _ in range(257)] == [0] * 256 + [-errno.ENOSPC]
            assert lib.user_ringbuf_room(ring.handle) == 0
            assert len(ring.drain()) == 256
            assert ring.write(bytes(4088)) == 0
            assert ring.write(bytes(4089)) == -errno.E2BIG

    def test_the_open_sample_of_a_dead_producer_is_passed_over(self, ns, dead):
        with make(ns, type=USER_RINGBUF) as ring:
            ring.write(b"before")
            with closing(ring.bytes()) as raw:
                at = raw.producer_pos
                raw.store(at, struct.pack("=II", 8 | BUSY, dead.me.owner))
                raw.producer_pos = at + 16
            ring.write(b"behind")
            assert ring.drain() == [b"before"]
            die(dead)
            assert ring.drain() == [b"behind"]
            assert ring.counts() == (2, 0, 1)

    def test_an_open_sample_without_an_owner_is_waited_for(self, ns):
        with make(ns, type=USER_RINGBUF) as ring:
            with closing(ring.bytes()) as raw:
                raw.produce(b"stock", flags=BUSY)
                assert ring.drain() == []
                raw.store(0, struct.pack("=I", 5))
            assert ring.drain() == [b"stock"]

    def test_one_drains_at_a_time(self, ns, dead):
        with make(ns, type=USER_RINGBUF) as ring:
            ring.write(b"a")
            assert lib.user_ringbuf_begin(ring.handle, dead.me) == 0
            assert lib.user_ringbuf_begin(ring.handle, ring.me) == -errno.EBUSY
            die(dead)
            assert ring.drain() == [b"a"]

    def test_draining_wakes_who_waits_for_room(self, ns):
        with make(ns, type=USER_RINGBUF) as ring:
            wake = lib.ringbuf_wake_of(ring.handle)
            ring.write(b"a")
            lib.wake_arm(wake, lib.WAKE_FUTEX)
            ring.drain()
            assert wake.armed == 0

    @pytest.mark.parametrize("positions", [(0, 4), (4, 8), ((1 << 64) - 8, 0)])
    def test_damaged_positions_are_refused(self, ns, positions):
        with make(ns, type=USER_RINGBUF) as ring:
            with closing(ring.bytes()) as raw:
                raw.consumer_pos, raw.producer_pos = positions
            sample, size = ffi.new("uint8_t **"), ffi.new("uint32_t *")
            assert lib.user_ringbuf_begin(ring.handle, ring.me) == 0
            assert lib.user_ringbuf_next(ring.handle, ring.me, sample, size) in (-errno.EINVAL, -errno.ENODATA, -errno.E2BIG)
            lib.user_ringbuf_end(ring.handle, ring.me, 0)
