"""A virtual device of a running runtime: programs are put on its hooks and packets into its queues, by any process."""

from __future__ import annotations

import time
import weakref
from functools import partial

from shmbpf._ffi import ffi, lib
from shmbpf.attach.source import CaptureFile, PacketList, Source, describe_end
from shmbpf.engine.program import Program
from shmbpf.errors import SegmentError, ShmbpfError
from shmbpf.shm.live import Handle, owned, take_away
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment

_SLICE_NS = 50_000_000


class Attachment:
    """A program on a hook of a device, until `detach()` (or the end of a `with` block)."""

    def __init__(self, device: Device, program: Program):
        self.device = device
        self.program = program

    def detach(self) -> None:
        """Takes the program off, if it is still there."""
        if self.device.attached(self.program.hook) == self.program.id:
            self.device.set_program(self.program.hook, 0)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc) -> None:
        self.detach()


class Device:
    """A device by name. Raises ShmbpfError when the namespace has no runtime with such a device, ClosedError after its (or its runtime's) `close()`."""

    _dev = Handle()

    def __init__(self, namespace: Namespace, name: str = "shm0"):
        self.namespace = namespace
        self.name = name
        self._segment = _find(namespace, name)
        self._dev = owned(lib.net_dev_of(self._segment.base, self._segment.bytes), self._segment.close)
        self._feeds: weakref.WeakSet[Feed] = weakref.WeakSet()

    def attach(self, program: Program) -> Attachment:
        """Puts a program on its hook, replacing what was there; every CPU follows at its next packet."""
        self.set_program(program.hook, program.id)
        return Attachment(self, program)

    def attached(self, hook: int) -> int:
        """Program id on a hook, 0 = none."""
        dev = self._dev
        return dev.attached[hook]

    def set_program(self, hook: int, program_id: int) -> None:
        """Changes a hook; 0 empties it. The device holds the programs on its hooks: they outlive their loader."""
        dev = self._dev
        holder = f"dev.{dev.head.id}"
        with self.namespace.creating():
            if program_id:
                self._hold(holder, program_id)
            lib.net_dev_attach(self._segment.base, dev, hook, program_id)
            self.namespace.release(holder, {f"prog.{number}" for number in dev.attached if number})

    def _hold(self, holder: str, program_id: int) -> None:
        try:
            self.namespace.hold(holder, f"prog.{program_id}")
        except FileNotFoundError:
            raise ShmbpfError(f"no program has id {program_id} (shmbpf prog show lists them)") from None

    def feed(self, *, spread: int = lib.NET_SPREAD_FLOW) -> Feed:
        """A producer for this device."""
        feed = Feed(self, spread)
        self._feeds.add(feed)
        return feed

    def inject(self, packets, *, wait: bool = True) -> int:
        """Feeds a capture file (path) or packets (bytes, or an iterable of bytes) and returns how many; with `wait`, after all have been processed."""
        source = PacketList.of(packets) or CaptureFile(packets)
        with source, self.feed() as feed:
            while feed.step(source):
                pass
        if wait:
            self.wait_drained()
        return feed.packets

    def wait_drained(self, timeout: float = 30.0) -> None:
        """Returns once every packet that is queued now has been processed. Raises ShmbpfError when that does not happen in time."""
        heads = self._positions("head")  # positions count bytes and never wrap; the tail passes a packet when it is finished
        deadline = time.monotonic() + timeout
        while any(tail < head for tail, head in zip(self._positions("tail"), heads, strict=True)):
            if time.monotonic() > deadline:
                raise ShmbpfError(f"device {self.name}: packets are still queued after {timeout:.0f} s: are its CPUs running?")
            time.sleep(0.0005)

    def _positions(self, end: str) -> list[int]:
        dev = self._dev
        return [getattr(lib.net_dev_queue(dev, self._segment.base, cpu), end) for cpu in range(dev.queue_cnt)]

    @property
    def memory(self) -> Segment:
        """The device's segment."""
        return self._segment

    @property
    def pointer(self):
        """`struct shm_dev *`; it keeps the segment mapped."""
        return self._dev

    def close(self) -> None:
        """Lets go of the device and ends its feeds. Idempotent."""
        for feed in list(self._feeds):
            feed.close()
        take_away(self, "_dev")

    def closed_text(self) -> str:
        """What using it after its end is answered with."""
        return f"device {self.name!r} is closed (it, or its runtime): ask the runtime for it again"

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class Feed:
    """One producer's state: pace, limits and counts. Raises ClosedError when its device is gone."""

    _live = Handle()

    def __init__(self, device: Device, spread: int):
        self._device = device
        state, memory, pointer = ffi.new("struct net_feed *"), device.memory, device.pointer
        client = device.namespace.new_client("feed")  # its own: two feeds of one process must not take each other's locks for their own
        self._live = owned(state, partial(_let_go, device.namespace, client, pointer))
        if lib.net_feed_init(self._live, client, memory.base, memory.bytes):
            raise SegmentError(f"device {device.name}: its segment is damaged")
        self._live.spread = spread
        self._last = None

    @property
    def state(self):
        """`struct net_feed *`: limits to set, counts to read. After close() it is a copy with the last counts."""
        return self.__dict__.get("_live") or self._last

    @property
    def packets(self) -> int:
        """Packets put into queues so far."""
        return self.state.packets

    def step(self, source: Source) -> bool:
        """Feeds for about 50 ms; False at the source's end. Never drops a packet: it waits for room."""
        state = self._live
        state.source = source.mapped_index
        result = lib.net_feed_capture(state, source.reader, _SLICE_NS)
        if result in (0, 1) and (self.state.stop or 0 < self.state.max_packets <= self.state.packets):
            source.finish()
            return False
        if result == 0:
            return source.rewind()
        return result == 1 or self._refused(source, result)

    def close(self) -> None:
        """Gives the producer's client slot back. Idempotent; the counts stay readable."""
        live = self.__dict__.get("_live")
        if live is not None:
            self._last = ffi.new("struct net_feed *")
            live.stop = 1  # whoever is feeding returns soon
            for count in ("packets", "bytes", "skipped", "waits", "max_packets"):
                setattr(self._last, count, getattr(live, count))
            del live
            take_away(self, "_live")

    def closed_text(self) -> str:
        """What using it after its end is answered with."""
        return f"device {self._device.name!r}: this feed is closed"

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def _refused(self, source: Source, result: int) -> bool:
        if result == -11:  # EAGAIN: the stream needs bytes
            source.fill()
            return True
        if result == -32:  # EPIPE
            raise ShmbpfError(f"device {self._device.name}: a CPU has gone and is not coming back")
        raise source.error(describe_end(source))


def _let_go(namespace: Namespace, client, _device) -> None:
    """The end of a feed: what it kept (the device's memory) goes with this call's arguments."""
    namespace.drop_client(client)


def _find(namespace: Namespace, name: str) -> Segment:
    for number in reversed(namespace.ids("dev")):  # an older one of that name belongs to a runtime that was killed, and is kept by whoever still looks at it
        try:
            segment = namespace.open_segment("dev", number)
        except FileNotFoundError:
            continue
        dev = lib.net_dev_of(segment.base, segment.bytes)
        if ffi.string(dev.head.name, 16).decode(errors="replace") == name:
            return segment
        segment.close()
    raise ShmbpfError(f"namespace {namespace.name!r} has no device {name!r}: start a runtime there first (shmbpf --ns {namespace.name} run prog.o)")
