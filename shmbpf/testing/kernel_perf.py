"""Event rings of the real kernel, and rings as their public layout shows them.

    PerfEvent   perf_event_open(PERF_COUNT_SW_BPF_OUTPUT) on one CPU, mapped; its fd goes into a slot of a PERF_EVENT_ARRAY
    PerfView    struct perf_event_mmap_page and data of any mapping, the kernel's or ours: head, tail and the bytes between, nothing interpreted
    RingbufView the same for BPF_MAP_TYPE_RINGBUF: consumer page, producer page, data

The views know the public layouts alone (Linux v6.12 include/uapi/linux/perf_event.h, kernel/bpf/ringbuf.c), which is what makes them good for comparing two
implementations. A PerfEvent owns its descriptor and its mapping, the views own nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import select
import struct
from typing import Final, NamedTuple

from shmbpf._ffi import ffi, lib

_NR_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}.get(platform.machine())
_TYPE_SOFTWARE, SW_BPF_OUTPUT = 1, 10  #: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_BPF_OUTPUT
_ATTR_BYTES: Final = 64  #: PERF_ATTR_SIZE_VER0
_DISABLED, _WATERMARK, _SAMPLE_ID_ALL, _WRITE_BACKWARD = 1 << 0, 1 << 14, 1 << 18, 1 << 27
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_DISABLE, _IOC_ID, _IOC_PAUSE_OUTPUT = 0x2400, 0x2401, 0x80082407, 0x40042409
PAGE: Final = mmap.PAGESIZE
RINGBUF_BUSY, RINGBUF_DISCARD = 1 << 31, 1 << 30

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class PerfRecord(NamedTuple):
    """One record of a perf ring. `body` is what follows the 8 bytes of its header, padding included; `position` is the stream offset of the header."""

    type: int
    misc: int
    body: bytes
    position: int


class RingbufRecord(NamedTuple):
    """One record of a ring buffer. `flags` are the BUSY and DISCARD bits; `pg_off` is the header's second word."""

    flags: int
    data: bytes
    pg_off: int
    position: int


class PerfView:
    """A mapped perf ring. `mapping` is 1 + 2^n pages from the file's start; a reader that consumes must have mapped it writable."""

    def __init__(self, mapping: mmap.mmap | memoryview):
        self._mapping = mapping

    def field(self, name: str) -> int:
        """An unsigned field of struct perf_event_mmap_page."""
        at = ffi.offsetof("struct perf_event_mmap_page", name)
        return int.from_bytes(self._mapping[at : at + _width(name)], "little")

    @property
    def head(self) -> int:
        return self.field("data_head")

    @property
    def tail(self) -> int:
        return self.field("data_tail")

    @tail.setter
    def tail(self, position: int) -> None:
        at = ffi.offsetof("struct perf_event_mmap_page", "data_tail")
        self._mapping[at : at + 8] = struct.pack("<Q", position)

    @property
    def data(self) -> bytes:
        """All data pages."""
        offset, size = self.field("data_offset"), self.field("data_size")
        return bytes(self._mapping[offset : offset + size])

    def stream(self, start: int, end: int) -> bytes:
        """The bytes at the stream offsets from `start` to `end`, at most one turn of the ring."""
        data, size = self.data, self.field("data_size")
        if end - start > size:
            raise ValueError(f"a ring of {size} bytes does not hold {end - start}")
        at = start % size
        return (data + data)[at : at + end - start]

    def unread(self) -> bytes:
        """From tail to head."""
        return self.stream(self.tail, self.head)

    def records(self) -> list[PerfRecord]:
        """The unread records, left unread."""
        return split_perf_records(self.unread(), self.tail)

    def consume(self) -> list[PerfRecord]:
        """The unread records; they are read then."""
        head = self.head
        found = split_perf_records(self.stream(self.tail, head), self.tail)
        self.tail = head
        return found


def _width(name: str) -> int:
    return ffi.sizeof(dict(ffi.typeof("struct perf_event_mmap_page").fields)[name].type)


def split_perf_records(stream: bytes, position: int = 0) -> list[PerfRecord]:
    """Cuts a stream into its records. Raises ValueError where it is no chain of whole records."""
    found, at = [], 0
    while at < len(stream):
        kind, misc, size = struct.unpack_from("<IHH", stream, at)
        if size < 8 or size % 8 or at + size > len(stream):
            raise ValueError(f"a record at stream offset {position + at} has {size} bytes, and {len(stream) - at} are left")
        found.append(PerfRecord(kind, misc, stream[at + 8 : at + size], position + at))
        at += size
    return found


class PerfEvent:
    """A perf event of one CPU that bpf_perf_event_output() writes to. `pages` of data; None: not mapped, 0: the first page alone.

    `overwrite` maps it read-only. Raises OSError with the kernel's errno.
    """

    def __init__(self, cpu: int, *, pages: int | None = 1, sample_type: int = lib.PERF_SAMPLE_RAW, wakeup_events: int = 1, watermark: int | None = None,
                 sample_id_all: bool = False, backward: bool = False, overwrite: bool = False, disabled: bool = False, config: int = SW_BPF_OUTPUT):  # fmt: skip
        switches = ((_DISABLED, disabled), (_WATERMARK, watermark is not None), (_SAMPLE_ID_ALL, sample_id_all), (_WRITE_BACKWARD, backward))
        flags = sum(bit for bit, on in switches if on)
        attr = struct.pack("=2I5QI3I", _TYPE_SOFTWARE, _ATTR_BYTES, config, 0, sample_type, 0, flags, wakeup_events if watermark is None else watermark, 0, 0, 0)
        self.fd = _perf_event_open(attr, cpu)
        self.mapping: mmap.mmap | None = None
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        try:
            if pages is not None:
                protection = mmap.PROT_READ | (0 if overwrite else mmap.PROT_WRITE)
                self.mapping = mmap.mmap(self.fd, (1 + pages) * PAGE, mmap.MAP_SHARED, protection)
        except BaseException:
            self.close()
            raise

    @property
    def value(self) -> bytes:
        """What bpf(2) takes as the element of a PERF_EVENT_ARRAY."""
        return struct.pack("=i", self.fd)

    @property
    def view(self) -> PerfView:
        """The mapped ring."""
        return PerfView(self.mapping)

    @property
    def id(self) -> int:
        """The id that LOST records and PERF_SAMPLE_ID carry."""
        return struct.unpack("=Q", fcntl.ioctl(self.fd, _IOC_ID, bytes(8)))[0]

    def enable(self) -> None:
        fcntl.ioctl(self.fd, _IOC_ENABLE, 0)

    def disable(self) -> None:
        fcntl.ioctl(self.fd, _IOC_DISABLE, 0)

    def pause(self, paused: bool = True) -> None:
        """PERF_EVENT_IOC_PAUSE_OUTPUT."""
        fcntl.ioctl(self.fd, _IOC_PAUSE_OUTPUT, int(paused))

    def woken(self) -> bool:
        """True once for each wake-up: poll() takes it back (kernel/events/core.c, perf_poll())."""
        return bool(self._poll.poll(0))

    def unmap(self) -> None:
        """Lets go of the ring. Idempotent."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None

    def close(self) -> None:
        """Gives everything back. Idempotent."""
        self.unmap()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> PerfEvent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _perf_event_open(attr: bytes, cpu: int) -> int:
    if _NR_PERF_EVENT_OPEN is None:
        raise OSError(errno.ENOSYS, f"perf_event_open(2) has no known number on {platform.machine()}")
    block = ctypes.create_string_buffer(attr[:_ATTR_BYTES].ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)
    fd = _libc.syscall(_NR_PERF_EVENT_OPEN, block, -1, cpu, -1, ctypes.c_ulong(_FLAG_FD_CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"perf_event_open: {os.strerror(ctypes.get_errno())}")
    return fd


class RingbufView:
    """A ring buffer by its public layout: `consumer` is the page at offset 0, `producer` what begins with the producer page and goes on with the data."""

    def __init__(self, consumer: mmap.mmap, producer: mmap.mmap, size: int):
        self._consumer, self._producer, self.size = consumer, producer, size

    @classmethod
    def of_fd(cls, fd: int, size: int, *, twice: bool) -> RingbufView:
        """Maps a file. `twice`: the file shows the data twice, as the kernel's map does; otherwise once."""
        consumer = mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        return cls(consumer, mmap.mmap(fd, PAGE + size * (1 + twice), mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE), size)

    @property
    def consumer_pos(self) -> int:
        return struct.unpack_from("<Q", self._consumer)[0]

    @consumer_pos.setter
    def consumer_pos(self, position: int) -> None:
        self._consumer[:8] = struct.pack("<Q", position)

    @property
    def producer_pos(self) -> int:
        return struct.unpack_from("<Q", self._producer)[0]

    @property
    def pending_pos(self) -> int:
        return struct.unpack_from("<Q", self._producer, 8)[0]

    def stream(self, start: int, end: int) -> bytes:
        """The bytes at the positions from `start` to `end`."""
        data, at = bytes(self._producer[PAGE : PAGE + self.size]), start % self.size
        return (data + data)[at : at + end - start]

    def records(self) -> list[RingbufRecord]:
        """Everything between consumer and producer position, busy and discarded records included."""
        return split_ringbuf_records(self.stream(self.consumer_pos, self.producer_pos), self.consumer_pos)

    def consume(self) -> list[RingbufRecord]:
        """As records(), read up to the producer position."""
        found = self.records()
        self.consumer_pos = found[-1].position + 8 + -(-len(found[-1].data) // 8) * 8 if found else self.consumer_pos
        return found

    def close(self) -> None:
        """Unmaps both."""
        self._consumer.close()
        self._producer.close()


def split_ringbuf_records(stream: bytes, position: int = 0) -> list[RingbufRecord]:
    """Cuts a stream into its records. Raises ValueError where it is no chain of whole records."""
    found, at = [], 0
    while at < len(stream):
        word, pg_off = struct.unpack_from("<II", stream, at)
        size = word & ~(RINGBUF_BUSY | RINGBUF_DISCARD)
        if at + 8 + size > len(stream):
            raise ValueError(f"a record at position {position + at} has {size} bytes, and {len(stream) - at - 8} are left")
        found.append(RingbufRecord(word & (RINGBUF_BUSY | RINGBUF_DISCARD), stream[at + 8 : at + 8 + size], pg_off, position + at))
        at += 8 + -(-size // 8) * 8
    return found
