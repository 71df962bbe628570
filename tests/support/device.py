"""A namespace with a device and run statistics, and workers and programs for it, without the Python runtime: what tests of the C packet path stand on."""

from __future__ import annotations

import secrets
import struct
from contextlib import ExitStack

from shmbpf._ffi import ffi, lib
from shmbpf.engine.program import Program, Registry
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment
from shmbpf.spec import ProgramSpec

XDP, TC, ACT, SOCKET = lib.VM_HOOK_XDP, lib.VM_HOOK_TC, lib.VM_HOOK_ACT, lib.VM_HOOK_SOCKET
PROG_TYPES = {SOCKET: 1, TC: 3, ACT: 4, XDP: 6}


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One eBPF instruction."""
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def returning(value: int) -> bytes:
    """A program that returns a number."""
    return insn(0xB7, 0, imm=value) + insn(0x95)


class Bench:
    """One namespace with `cpus` CPUs, a device and a run segment. Use with `with`; nothing is left behind."""

    def __init__(self, cpus: int = 1) -> None:
        self.stack = ExitStack()
        self.cpus = cpus
        self.namespace = self.stack.enter_context(Namespace(f"t{secrets.token_hex(6)}", role="test"))
        self.namespace.fix_cpus(cpus)
        self.dev_segment = self._segment("dev", lib.net_dev_bytes(cpus), lambda seg, number: lib.net_dev_format(seg.base, seg.bytes, number, b"shm0", 7, cpus))
        self.run_segment = self._segment("run", lib.net_run_bytes(cpus), lambda seg, number: lib.net_run_format(seg.base, seg.bytes, number, cpus, 0))
        self.dev = lib.net_dev_of(self.dev_segment.base, self.dev_segment.bytes)
        self.run = lib.net_run_of(self.run_segment.base, self.run_segment.bytes)
        self.registry = self.stack.enter_context(Registry(self.namespace))

    def _segment(self, kind: str, size: int, make) -> Segment:
        def fill(segment: Segment, number: int) -> None:
            assert make(segment, number) == 0

        segment, _ = self.namespace.create_segment(kind, size, fill)
        self.stack.callback(segment.close)
        self.stack.callback(segment.unlink)
        return segment

    def feed(self, client=None):
        """A producer."""
        feed = ffi.new("struct net_feed *")
        assert lib.net_feed_init(feed, client or self.namespace.client, self.dev_segment.base, self.dev_segment.bytes) == 0
        return feed

    def worker(self, cpu: int = 0) -> Worker:
        """The worker of a CPU, in this process."""
        return self.stack.enter_context(Worker(self, cpu))

    def program(self, hook: int, insns: bytes) -> Program:
        """A published program; attach it with `attach`."""
        program = Program.create(self.namespace, ProgramSpec("prog", "test", PROG_TYPES[hook], 0, insns, license="GPL"), {}, self.registry)
        return self.stack.enter_context(program)

    def attach(self, hook: int, insns: bytes) -> int:
        """Makes and attaches a program; returns its id."""
        number = self.program(hook, insns).id
        lib.net_dev_attach(self.dev_segment.base, self.dev, hook, number)
        return number

    def queue(self, cpu: int = 0):
        """`struct net_queue *` of a CPU."""
        return lib.net_dev_queue(self.dev, self.dev_segment.base, cpu)

    def stats(self, cpu: int = 0):
        """`struct run_cpu *` of a CPU."""
        return lib.net_run_cpu(self.run_segment.base, cpu)

    def faults(self, cpu: int = 0):
        """`struct run_faults *` of a CPU."""
        return lib.net_run_faults(self.run_segment.base, self.run_segment.bytes, cpu)

    def close_device(self) -> None:
        """No packet will come any more."""
        lib.net_dev_close(self.dev_segment.base, self.dev)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc) -> None:
        self.stack.close()


class Worker:
    """A `struct net_worker` with a CPU of its own; holds the CPU's lease."""

    def __init__(self, bench: Bench, cpu: int) -> None:
        self._stack = ExitStack()
        self.namespace = self._stack.enter_context(Namespace(bench.namespace.name, role=f"cpu {cpu}", cpu=cpu))
        registry = self._stack.enter_context(Registry(self.namespace))
        self.cpu = lib.vm_cpu_new(self.namespace.client, registry.pointer, cpu)
        assert self.cpu != ffi.NULL
        self._stack.callback(lib.vm_cpu_free, self.cpu)
        self.state = ffi.new("struct net_worker *")
        dev, run = bench.dev_segment, bench.run_segment
        assert lib.net_worker_init(self.state, self.cpu, dev.base, dev.bytes, run.base, run.bytes) == 0

    def out(self, dirfd: int) -> None:
        """Writes output files into a directory; flushed when the worker is idle or closed."""
        self.state.out = lib.net_out_new(dirfd)
        self._stack.callback(lib.net_out_free, self.state.out)

    def work(self, idle_ns: int = 1_000_000) -> int:
        """net_work()."""
        return lib.net_work(self.state, idle_ns)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc) -> None:
        self._stack.close()


def capture_reader(data: bytes):
    """A `struct cap_reader *` over bytes that it keeps alive."""
    reader, buffer = ffi.new("struct cap_reader *"), ffi.from_buffer("uint8_t[]", data)
    lib.cap_init(reader)
    reader.base, reader.bytes, reader.final = buffer, len(data), 1
    _KEEP[reader] = buffer
    return reader


_KEEP: dict = {}
