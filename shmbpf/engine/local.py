"""Running programs in this process: a CPU of the namespace, leased for as long as it is needed (D8: `prog run` without a runtime)."""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass

from shmbpf._ffi import ffi, lib
from shmbpf.engine.fault import describe_fault
from shmbpf.engine.program import Registry
from shmbpf.engine.trace import LocalTrace
from shmbpf.errors import ClosedError, LoadError, map_error
from shmbpf.shm.namespace import Namespace


@dataclass(frozen=True)
class RunResult:
    """What BPF_PROG_TEST_RUN gives: `retval` (unsigned 32 bits), the packet and context afterwards, ns per run; `fault` says why a run was stopped.

    An skb program that was given no context gives none back (`ctx` is empty).
    """

    retval: int
    data: bytes
    ctx: bytes
    duration_ns: int
    fault: str | None = None
    redirect_ifindex: int = 0


class LocalCpu:
    """CPU `cpu` of a namespace in this process. Raises NamespaceBusyError while somebody else has it. A CPU runs one program at a time: threads take turns."""

    def __init__(self, namespace_name: str, cpu: int = 0):
        self._turn = threading.Lock()  #: held during a run, so that the CPU is not given back under it
        self._namespace = Namespace(namespace_name, role=f"cpu {cpu}", cpu=cpu)
        self._registry = Registry(self._namespace)
        self._cpu = lib.vm_cpu_new(self._namespace.client, self._registry.pointer, cpu)
        if self._cpu == ffi.NULL:
            self._registry.close()
            self._namespace.close()
            raise LoadError("no packet memory below 4 GiB: raise 'ulimit -v', or look for other mappings there")
        self._trace = LocalTrace(self._cpu, cpu)

    def run(self, program_id: int, packet: bytes, *, ctx: bytes | None = None, repeat: int = 1) -> RunResult:
        """BPF_PROG_TEST_RUN: Linux's limits and errors (MapError carries the errno). Lines of trace_printk go to the logger `shmbpf.trace`."""
        with self._turn:
            if self._cpu == ffi.NULL:
                raise ClosedError("prog run: this CPU was given back, the runtime is closed")
            try:
                return test_run(self._namespace, self._cpu, self._registry.program(program_id), packet, ctx, repeat)
            finally:
                self._trace.log()

    def close(self) -> None:
        """Gives the CPU back. Idempotent."""
        with self._turn:
            if self._cpu == ffi.NULL:
                return
            lib.vm_cpu_free(self._cpu)
            self._cpu = ffi.NULL
            self._trace.close()
            self._registry.close()
            self._namespace.close()

    def __enter__(self) -> LocalCpu:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def test_run(namespace: Namespace, cpu, prog, packet: bytes, ctx: bytes | None, repeat: int) -> RunResult:
    """One vm_test_run() on a vm_cpu, as a RunResult."""
    run = ffi.new("struct vm_test_run *")
    if ctx is None and lib.vm_prog_hook(prog) == lib.VM_HOOK_XDP:
        ctx = struct.pack("<6I", 0, len(packet), 0, 0, 0, 0)  # Linux wants data_end to agree with the packet as soon as a context is asked for
    data_in, data_out = ffi.from_buffer(packet), ffi.new("uint8_t[]", lib.VM_PACKET_ARENA)
    ctx_in, ctx_out = ffi.new("uint8_t[]", ctx or 1), ffi.new("uint8_t[]", 256)
    run.data_in, run.data_in_bytes, run.data_out, run.data_out_bytes = data_in, len(packet), data_out, lib.VM_PACKET_ARENA
    run.repeat = repeat
    if ctx is not None:  # a program that is given none is not asked for one either: in Linux that decides about some fields (skb->wire_len)
        run.ctx_in, run.ctx_in_bytes, run.ctx_out, run.ctx_out_bytes = ctx_in, len(ctx), ctx_out, 256
    err = lib.vm_test_run(cpu, prog, run)
    if err < 0:
        raise map_error(-err, f"prog run: a packet of {len(packet)} bytes and a context of {len(ctx or b'')} bytes are refused")
    fault = describe_fault(namespace, cpu.fault) if run.fault else None
    return RunResult(
        run.retval, bytes(ffi.buffer(data_out, run.data_out_bytes)), bytes(ffi.buffer(ctx_out, run.ctx_out_bytes)), run.duration_ns, fault, run.redirect_ifindex
    )


def default_cpu(namespace: Namespace) -> int:
    """The CPU a run goes to when none is named: the one this thread is on, if the namespace has it."""
    possible = namespace.fix_cpus(namespace.possible_cpus or None)
    return min(os.sched_getaffinity(0)) % possible
