"""Ring buffers as C makes them, on anonymous memory (see raw_maps.py)."""

from __future__ import annotations

import errno
import os

from shmbpf._ffi import ffi, lib
from support.raw_maps import RawMap, RawNamespace
from support.ringbuf_bytes import PAGE, RingBytes

RINGBUF, USER_RINGBUF = 27, 31


class Ring(RawMap):
    """A ring buffer through its C functions."""

    def output(self, data: bytes, flags: int = 0, me=None) -> int:
        return lib.ringbuf_output(self.handle, me or self.me, ffi.from_buffer(data), len(data), flags)

    def reserve(self, size: int, me=None):
        return lib.ringbuf_reserve(self.handle, me or self.me, size)

    def commit(self, sample, flags: int = 0, discard: bool = False, me=None) -> None:
        lib.ringbuf_commit(self.handle, me or self.me, sample, flags, discard)

    def read(self, room: int = 1000, buffer_bytes: int = 1 << 20) -> list[bytes]:
        records, buffer = ffi.new("struct ring_record[]", room), ffi.new("uint8_t[]", buffer_bytes)
        count = lib.ringbuf_read(self.handle, self.me, records, room, buffer, buffer_bytes)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        assert all(records[i].type == lib.PERF_RECORD_SAMPLE for i in range(count))
        return [bytes(ffi.buffer(buffer + records[i].off, records[i].bytes)) for i in range(count)]

    def counts(self) -> tuple[int, int, int]:
        found = ffi.new("struct ringbuf_counts *")
        assert lib.ringbuf_count(self.handle, self.me, found) == 0
        return found.sent, found.lost, found.aborted

    def query(self, what: int) -> int:
        return lib.ringbuf_query(self.handle, what)

    def bytes(self) -> RingBytes:
        return RingBytes(self.fd, self.handle.max_entries, kernel=False)

    def write(self, data: bytes, me=None) -> int:
        return lib.user_ringbuf_write(self.handle, me or self.me, ffi.from_buffer(data), len(data))

    def drain(self, limit: int = 1000) -> list[bytes]:
        sample, size, found = ffi.new("uint8_t **"), ffi.new("uint32_t *"), []
        assert lib.user_ringbuf_begin(self.handle, self.me) == 0
        while len(found) < limit:
            err = lib.user_ringbuf_next(self.handle, self.me, sample, size)
            if err == -errno.ENODATA:
                break
            if err == 0:
                found.append(bytes(ffi.buffer(sample[0], size[0])))
                lib.user_ringbuf_release(self.handle, size[0])
            else:
                assert err == -errno.EAGAIN
        lib.user_ringbuf_end(self.handle, self.me, 1)
        return found


def make(ns: RawNamespace, size: int = PAGE, type: int = RINGBUF) -> Ring:
    made = ns.create(type, 0, 0, size)
    ring = Ring(ns, os.dup(made.fd))
    made.close()
    return ring


def die(client: RawNamespace) -> None:
    """A client that is gone; nobody can tell it from a dead process."""
    lib.shm_client_detach(client.me)
