"""A virtual device of a running runtime: programs are put on its hooks and packets into its queues, by any process."""

from __future__ import annotations

import time

from shmbpf._ffi import ffi, lib
from shmbpf.attach.source import CaptureFile, PacketList, Source, describe_end
from shmbpf.engine.program import Program
from shmbpf.errors import SegmentError, ShmbpfError
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
    """A device by name. Raises ShmbpfError when the namespace has no runtime with such a device."""

    def __init__(self, namespace: Namespace, name: str = "shm0"):
        self.namespace = namespace
        self.name = name
        self._segment = _find(namespace, name)
        self._dev = lib.net_dev_of(self._segment.base, self._segment.bytes)

    def attach(self, program: Program) -> Attachment:
        """Puts a program on its hook, replacing what was there; every CPU follows at its next packet."""
        self.set_program(program.hook, program.id)
        return Attachment(self, program)

    def attached(self, hook: int) -> int:
        """Program id on a hook, 0 = none."""
        return self._dev.attached[hook]

    def set_program(self, hook: int, program_id: int) -> None:
        """Changes a hook; 0 empties it. The device holds the programs on its hooks: they outlive their loader."""
        holder = f"dev.{self._dev.head.id}"
        with self.namespace.creating():
            if program_id:
                self._hold(holder, program_id)
            lib.net_dev_attach(self._segment.base, self._dev, hook, program_id)
            self.namespace.release(holder, {f"prog.{number}" for number in self._dev.attached if number})

    def _hold(self, holder: str, program_id: int) -> None:
        try:
            self.namespace.hold(holder, f"prog.{program_id}")
        except FileNotFoundError:
            raise ShmbpfError(f"no program has id {program_id} (shmbpf prog show lists them)") from None

    def feed(self, *, spread: int = lib.NET_SPREAD_FLOW) -> Feed:
        """A producer for this device."""
        return Feed(self, spread)

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
        queues = [lib.net_dev_queue(self._dev, self._segment.base, cpu) for cpu in range(self._dev.queue_cnt)]
        heads = [queue.head for queue in queues]  # positions count bytes and never wrap; the tail passes a packet when it is finished
        deadline = time.monotonic() + timeout
        while any(queue.tail < head for queue, head in zip(queues, heads, strict=True)):
            if time.monotonic() > deadline:
                raise ShmbpfError(f"device {self.name}: packets are still queued after {timeout:.0f} s: are its CPUs running?")
            time.sleep(0.0005)

    @property
    def memory(self) -> Segment:
        """The device's segment."""
        return self._segment

    def close(self) -> None:
        """Lets go of the device. Idempotent."""
        self._segment.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class Feed:
    """One producer's state: pace, limits and counts."""

    def __init__(self, device: Device, spread: int):
        self._device = device
        self.state = ffi.new("struct net_feed *")
        self._client = device.namespace.new_client("feed")  # its own: two feeds of one process must not take each other's locks for their own
        if lib.net_feed_init(self.state, self._client, device.memory.base, device.memory.bytes):
            raise SegmentError(f"device {device.name}: its segment is damaged")
        self.state.spread = spread

    @property
    def packets(self) -> int:
        """Packets put into queues so far."""
        return self.state.packets

    def step(self, source: Source) -> bool:
        """Feeds for about 50 ms; False at the source's end. Never drops a packet: it waits for room."""
        self.state.source = source.mapped_index
        result = lib.net_feed_capture(self.state, source.reader, _SLICE_NS)
        if result in (0, 1) and (self.state.stop or 0 < self.state.max_packets <= self.state.packets):
            source.finish()
            return False
        if result == 0:
            return source.rewind()
        return result == 1 or self._refused(source, result)

    def close(self) -> None:
        """Gives the producer's client slot back. Idempotent; the counts stay readable."""
        if self._client is not None:
            self._device.namespace.drop_client(self._client)
            self._client = None

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
