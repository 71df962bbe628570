"""The packet path: ns for a packet to be fed into a queue, and to be taken out, run through a program of two instructions and counted. No Python in it.

Producer and worker take turns in this process, a full queue at a time, so that each is measured alone. Beside it the kernel's own path from driver to
XDP_DROP (BPF_F_TEST_XDP_LIVE_FRAMES), where that exists.
"""

from __future__ import annotations

import os
import secrets
import statistics
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from shmbpf._ffi import ffi, lib
from shmbpf.bench.figures import Figure, Session
from shmbpf.elf import load_object
from shmbpf.engine.program import Program, Registry
from shmbpf.errors import ShmbpfError
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment
from shmbpf.testing import bpf_syscall
from shmbpf.testing import kernel as linux

OBJECT = Path(__file__).with_name("packet.o")
_TARGET = 150.0
_FRAMES = 20_000
_ROUND = 4_000  #: packets of one turn: they fit into a queue
_LIVE_FRAMES, _LIVE_REPEAT = 2, 200_000  #: BPF_F_TEST_XDP_LIVE_FRAMES


def measure_packets(session: Session) -> list[Figure]:
    """The producer's and the worker's time for one packet."""
    session.progress("packet path")
    with ExitStack() as stack:
        bench = PacketBench(stack)
        turns = max(session.effort.rounds * 8, 5 * _FRAMES // _ROUND)
        fed, worked = zip(*(bench.turn() for _ in range(turns)), strict=True)
    theirs = [_live_frames() for _ in range(session.effort.rounds)] if session.kernel else []
    return [
        Figure("feeding a packet (mapped capture)", "ns", statistics.median(fed)),
        Figure("working on it (2 instructions: XDP_DROP)", "ns", statistics.median(worked), min((ns for ns in theirs if ns), default=None), _TARGET),
    ]


class PacketBench:
    """A device with one CPU, its producer and its worker, and a capture that goes round."""

    def __init__(self, stack: ExitStack):
        self._stack = stack
        namespace = stack.enter_context(Namespace(f"bench-{os.getpid()}-{secrets.token_hex(4)}", role="bench"))
        namespace.fix_cpus(1)
        lease = stack.enter_context(Namespace(namespace.name, role="cpu 0", cpu=0))
        dev = self._segment(namespace, "dev", lib.net_dev_bytes(1), lambda base, size, number: lib.net_dev_format(base, size, number, b"shm0", 7, 1))
        run = self._segment(namespace, "run", lib.net_run_bytes(1), lambda base, size, number: lib.net_run_format(base, size, number, 1, 0))
        registry = stack.enter_context(Registry(lease))
        self._dev = lib.net_dev_of(dev.base, dev.bytes)
        self._attach(namespace, registry, dev)
        cpu = lib.vm_cpu_new(lease.client, registry.pointer, 0)
        if cpu == ffi.NULL:
            raise ShmbpfError("bench: no packet memory below 4 GiB: raise 'ulimit -v'")
        stack.callback(lib.vm_cpu_free, cpu)
        self._worker, self._feed = ffi.new("struct net_worker *"), ffi.new("struct net_feed *")
        _require(lib.net_worker_init(self._worker, cpu, dev.base, dev.bytes, run.base, run.bytes))
        _require(lib.net_feed_init(self._feed, namespace.client, dev.base, dev.bytes))
        self._capture = ffi.new("uint8_t[]", make_capture(_FRAMES))
        self._reader = ffi.new("struct cap_reader *")
        self._worker.source[0], self._worker.source_bytes[0] = self._capture, len(self._capture)
        self._feed.source = 0
        lib.net_dev_close(dev.base, self._dev)  # the worker comes back when its queue is empty

    def _segment(self, namespace: Namespace, kind: str, size: int, form: Callable[..., int]) -> Segment:
        segment, _ = namespace.create_segment(kind, size, lambda made, number: _require(form(made.base, made.bytes, number)))
        self._stack.callback(segment.close)
        self._stack.callback(segment.unlink)
        return segment

    def _attach(self, namespace: Namespace, registry: Registry, dev: Segment) -> None:
        program = self._stack.enter_context(Program.create(namespace, load_object(OBJECT).programs["drop"], {}, registry))
        lib.net_dev_attach(dev.base, self._dev, program.hook, program.id)

    def turn(self) -> tuple[float, float]:
        """(ns per packet fed, ns per packet worked), CPU time of one turn."""
        if self._reader.base == ffi.NULL or self._reader.bytes - self._reader.pos < _ROUND * 1600:
            lib.cap_init(self._reader)
            self._reader.base, self._reader.bytes, self._reader.final = self._capture, len(self._capture), 1
        before = self._feed.packets
        self._feed.max_packets = before + _ROUND
        start = lib.shm_clock_ns(_THREAD_CPU)
        _require(min(lib.net_feed_capture(self._feed, self._reader, 10**10), 0))
        middle = lib.shm_clock_ns(_THREAD_CPU)
        if lib.net_work(self._worker, 1_000_000) != lib.NET_WORK_CLOSED:
            raise ShmbpfError("bench: the worker stopped before its queue was empty: this is a bug of shmbpf")
        end = lib.shm_clock_ns(_THREAD_CPU)
        packets = self._feed.packets - before
        return (middle - start) / packets, (end - middle) / packets


_THREAD_CPU = 3  #: CLOCK_THREAD_CPUTIME_ID


def make_capture(frames: int) -> bytes:
    """A pcap of UDP packets of 2,000 flows, 60 to 1,400 bytes long."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for number in range(frames):
        flow, size = number * 7919 % 2000, (60, 60, 120, 400, 1400)[number * 31 % 5]
        addresses = struct.pack(">II", 0x0A000001 + flow, 0x0A010001 + flow % 17)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, size - 14, number & 0xFFFF, 0, 64, 17, 0) + addresses
        udp = struct.pack(">HHHH", 1024 + flow, 53, size - 34, 0)
        frame = (bytes(12) + b"\x08\x00" + ip + udp).ljust(size, b"\x5a")
        out.append(struct.pack("<IIII", number // 1000, number % 1000, size, size) + frame)
    return b"".join(out)


def _live_frames() -> float | None:
    """ns per packet of the kernel's path to a program that drops it; None where this kernel cannot."""
    spec = load_object(OBJECT)
    try:
        with linux.load_object(spec, "drop") as program:
            context = struct.pack("<6I", 0, 64, 0, 0, 0, 0)
            return float(bpf_syscall.prog_test_run(program.fd, bytes(64), ctx=context, out_bytes=0, repeat=_LIVE_REPEAT, flags=_LIVE_FRAMES)[3]) or None
    except OSError:
        return None


def _require(result: int) -> None:
    if result < 0:
        raise ShmbpfError(f"bench: the packet path cannot be set up ({result}): this is a bug of shmbpf")
