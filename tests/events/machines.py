"""Two machines for the same programs: Linux and ours. Both have a CPU 0 that runs them, perf rings in slots, ring buffers, and nothing else in common.

A machine is made from BPF C and the name of a program in it. `events` is its PERF_EVENT_ARRAY, `buffer` its RINGBUF, where it has them. Rings are looked at
through their public layout (shmbpf.testing.kernel_perf), never through readers of ours.
"""

from __future__ import annotations

import mmap
import os
import secrets
import select
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from support.compile import compile_bpf
from support.kernel import load_object as load_into_kernel

import shmbpf
from shmbpf._ffi import lib
from shmbpf.elf import load_object
from shmbpf.events.perf import PerfRing
from shmbpf.events.ringbuf import RingBuffer
from shmbpf.maps.map import Map
from shmbpf.shm.segment import SHM_DIR
from shmbpf.testing.kernel_perf import PAGE, PerfEvent, PerfView, RingbufView

RAW = lib.PERF_SAMPLE_RAW
CURRENT_CPU = 0xFFFFFFFF
PACKET = bytes(range(200)) + bytes(14)
ORDER_SOURCE = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct order { __u64 flags, size; };
struct payload { __u64 words[8192]; };
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 6); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, struct order); __uint(max_entries, 1); } order SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, struct payload); __uint(max_entries, 1); } payload SEC(".maps");
static __always_inline int emit(void *ctx)
{
	__u32 zero = 0;
	struct order *o = bpf_map_lookup_elem(&order, &zero);
	struct payload *p = bpf_map_lookup_elem(&payload, &zero);
	if (!o || !p)
		return 1;
	__u64 size = o->size;
	if (size > sizeof *p)
		return 2;
	p->words[0]++;
	return bpf_perf_event_output(ctx, &events, o->flags, p, size);
}
SEC("xdp") int emit_xdp(struct xdp_md *ctx) { return emit(ctx); }
SEC("tc") int emit_tc(struct __sk_buff *ctx) { return emit(ctx); }
SEC("socket") int emit_socket(struct __sk_buff *ctx) { return emit(ctx); }
"""


@dataclass(frozen=True)
class RingSpec:
    """A perf ring for either machine; the words of perf_event_attr and mmap."""

    cpu: int = 0
    pages: int = 1
    sample_type: int = RAW
    wakeup_events: int = 1
    watermark: int | None = None
    sample_id_all: bool = False
    backward: bool = False
    overwrite: bool = False
    disabled: bool = False


def signed(retval: int) -> int:
    """r0 of a run as a C int."""
    return retval - (1 << 32) if retval & 1 << 31 else retval


class Machine:
    """What both can do."""

    def __init__(self, source: str, program: str):
        self._stack = ExitStack()
        self.object: Path = compile_bpf(source)
        self.program_name = program
        self.rings: dict[int, object] = {}

    def order(self, size: int, flags: int = CURRENT_CPU) -> None:
        """What the programs of ORDER_SOURCE shall send."""
        self.maps["order"].update(bytes(4), struct.pack("<QQ", flags, size))

    def send(self, size: int, flags: int = CURRENT_CPU, packet: bytes = PACKET) -> int:
        """One run; what the output helper returned."""
        self.order(size, flags)
        return self.run(packet)

    def view(self, slot: int = 0) -> PerfView:
        return self.rings[slot].view

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Linux(Machine):
    """The kernel; programs run on its CPU 0."""

    name = "linux"

    def __init__(self, source: str = ORDER_SOURCE, program: str = "emit_xdp"):
        super().__init__(source, program)
        self._program = self._stack.enter_context(load_into_kernel(load_object(self.object, name="events"), program))
        self.maps = self._program.maps

    def run(self, packet: bytes = PACKET) -> int:
        return signed(self._program.run(packet, cpu=0).retval)

    def open_ring(self, slot: int = 0, spec: RingSpec = RingSpec()) -> PerfEvent:
        """A ring of this spec, put into the slot."""
        event = self._stack.enter_context(PerfEvent(spec.cpu, **{k: v for k, v in vars(spec).items() if k != "cpu"}))
        self.maps["events"].update(struct.pack("<I", slot), event.value)
        self.rings[slot] = event
        return event

    def buffer(self) -> RingbufView:
        view = RingbufView.of_fd(self.maps["buffer"].fd, self.maps["buffer"].max_entries, twice=True)
        self._stack.callback(view.close)
        return view

    def buffer_readable(self) -> bool:
        """poll() of the map says so."""
        return bool(polls(self.maps["buffer"].fd))

    def notifications(self) -> Callable[[], bool]:
        """Whether there was one since the last call: edge-triggered epoll tells each once."""
        epoll = self._stack.enter_context(select.epoll())
        epoll.register(self.maps["buffer"].fd, select.EPOLLIN | select.EPOLLET)
        epoll.poll(0)
        return lambda: bool(epoll.poll(0))


class OurRing:
    """A perf ring of ours with the faces of a PerfEvent. It sleeps all the time: every wake-up is seen."""

    def __init__(self, map_: Map, slot: int, spec: RingSpec):
        options = {word: value for word, value in vars(spec).items() if word not in ("cpu", "pages")}
        self.ring = PerfRing.open(map_, spec.cpu, spec.pages, slot, **options)
        self.id, self.value = self.ring.id, struct.pack("<I", self.ring.id)
        with open(self.ring.path, "r+b") as file:
            self.mapping = mmap.mmap(file.fileno(), (1 + spec.pages) * PAGE)
        self.ring.arm()

    @property
    def view(self) -> PerfView:
        return PerfView(self.mapping)

    def woken(self) -> bool:
        """True once for each wake-up, as poll() of a kernel event."""
        if not polls(self.ring.fileno()):
            return False
        self.ring.arm()
        return True

    def enable(self) -> None:
        self.ring.enable()

    def disable(self) -> None:
        self.ring.enable(False)

    def pause(self, paused: bool = True) -> None:
        self.ring.pause(paused)

    def unmap(self) -> None:
        """As a consumer does that lets go of the ring, whose slot then is another thing."""
        self.ring._handle.ctl.unmapped = 1

    def close(self) -> None:
        self.mapping.close()
        self.ring.close()


class Ours(Machine):
    """A namespace with two CPUs; programs run on CPU 0, in this process."""

    name = "ours"

    def __init__(self, source: str = ORDER_SOURCE, program: str = "emit_xdp"):
        super().__init__(source, program)
        self.runtime = self._stack.enter_context(shmbpf.Runtime(f"t{os.getpid()}-{secrets.token_hex(4)}", cpus=2))
        loaded = self.runtime.load(self.object)
        self.maps = {name: map_.raw for name, map_ in loaded.maps.items()}
        self._program = loaded.programs[program]

    def run(self, packet: bytes = PACKET) -> int:
        result = self._program.run(packet, cpu=0)
        assert result.fault is None, result.fault
        return signed(result.retval)

    def open_ring(self, slot: int = 0, spec: RingSpec = RingSpec()) -> OurRing:
        """A ring of this spec, put into the slot."""
        ring = OurRing(self.maps["events"], slot, spec)
        self._stack.callback(ring.close)
        self.rings[slot] = ring
        return ring

    def buffer(self) -> RingbufView:
        map_ = self.maps["buffer"]
        with open(SHM_DIR / f"{map_.namespace.prefix}.map.{map_.id}", "r+b") as file:
            view = RingbufView.of_fd(file.fileno(), map_.max_entries, twice=False)
        self._stack.callback(view.close)
        return view

    def _reader(self) -> RingBuffer:
        reader = RingBuffer(self.maps["buffer"])
        self._stack.callback(reader.close)
        return reader

    def buffer_readable(self) -> bool:
        """arm() says it before anybody sleeps."""
        reader = self._reader()
        return reader.arm()

    def notifications(self) -> Callable[[], bool]:
        """Whether there was one since the last call. It sleeps all the time."""
        reader = self._reader()
        reader.arm()

        def woken() -> bool:
            found = bool(polls(reader.fileno()))
            reader.arm()
            return found

        return woken


def polls(fd: int, timeout_ms: int = 0) -> list[tuple[int, int]]:
    """What poll() says of the descriptor."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll(timeout_ms)
