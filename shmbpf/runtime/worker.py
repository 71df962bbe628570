"""The body of a worker: one simulated CPU in a forked process.

It enters a C loop with the GIL released and leaves it only when told to stop, when its device closes, or when the supervisor has a message. Packets never
touch Python.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import NoReturn

from shmbpf._ffi import ffi, lib
from shmbpf.engine.local import test_run
from shmbpf.engine.program import Registry
from shmbpf.errors import ShmbpfError
from shmbpf.runtime.control import decode_bytes, encode_bytes, receive_message, refusal, send_message
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment

#: what ends a runtime: the supervisor's business, a worker is ended by it (or dies with it)
END_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_PR_SET_PDEATHSIG = 1
_IDLE_NS = 20_000_000


@dataclass
class WorkerPlan:
    """What every worker of a runtime needs; prepared by the supervisor before it forks."""

    namespace: Namespace
    device: Segment
    run: Segment
    sources: list = field(default_factory=list)  #: mapped captures: (pointer, bytes, owner)
    out_fd: int = -1  #: directory for output files, -1 = keep nothing
    trace_fd: int = -1  #: where trace_printk lines go
    budget: int = 0  #: instructions a run may take, 0 = the default
    supervisor_pid: int = field(default_factory=os.getpid)


def run_worker(plan: WorkerPlan, cpu: int, channel: socket.socket, mask: set[int]) -> NoReturn:
    """Never returns: ends the process with 0 after a stop, 1 after an error (its text goes to stderr). `mask` is the signal mask to work with."""
    status = 1
    try:
        _settle(plan, mask)
        Worker(plan, cpu, channel).loop()
        status = 0
    except (ShmbpfError, OSError) as error:
        print(f"shmbpf: CPU {cpu}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _settle(plan: WorkerPlan, mask: set[int]) -> None:
    """Signals and inheritance: the end of a run is the supervisor's business, its death is ours, its client slot is not."""
    for number in END_SIGNALS:  # sent to a whole process group they must not tear a CPU out of a program
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != plan.supervisor_pid:  # it died before it could take us along
        os._exit(1)
    faulthandler.enable()
    lib.shm_guard_bus()
    plan.namespace.close()


class Worker:
    """One CPU: lease, packet memory, program tables, and the loop."""

    def __init__(self, plan: WorkerPlan, cpu: int, channel: socket.socket):
        self.cpu_number = cpu
        self._channel = channel
        self._namespace = Namespace(plan.namespace.name, role=f"cpu {cpu}", cpu=cpu)
        self._registry = Registry(self._namespace)
        self._cpu = lib.vm_cpu_new(self._namespace.client, self._registry.pointer, cpu)
        if self._cpu == ffi.NULL:
            raise ShmbpfError("no packet memory below 4 GiB: raise 'ulimit -v'")
        if plan.budget:
            self._cpu.budget_limit = plan.budget
        self._worker = ffi.new("struct net_worker *")
        err = lib.net_worker_init(self._worker, self._cpu, plan.device.base, plan.device.bytes, plan.run.base, plan.run.bytes)
        if err:
            raise ShmbpfError(f"the device cannot be used: {os.strerror(-err)}")
        for index, (base, size, _) in enumerate(plan.sources):
            self._worker.source[index], self._worker.source_bytes[index] = base, size
        if plan.out_fd >= 0:
            self._worker.out = lib.net_out_new(plan.out_fd)
        self._worker.trace.fd = plan.trace_fd

    def loop(self) -> None:
        """Works until the runtime stops or the device is closed and drained."""
        self._worker.stats.pid = os.getpid()
        while self._serve_all():
            reason = lib.net_work(self._worker, _IDLE_NS)
            if reason in (lib.NET_WORK_STOP, lib.NET_WORK_CLOSED):
                break
            if reason == lib.NET_WORK_PROG_ERROR:  # its hook stays empty; the CPU goes on
                print(f"shmbpf: CPU {self.cpu_number}: {ffi.string(self._worker.error.text).decode(errors='replace')}", file=sys.stderr, flush=True)
        if self._worker.out != ffi.NULL:
            lib.net_out_flush(self._worker.out)

    def _serve_all(self) -> bool:
        """Answers what the supervisor has sent; False when it has gone. What arrives after the look at ctl_word ends the next net_work() at once."""
        self._worker.ctl_seen = self._worker.stats.ctl_word
        while select.select([self._channel], [], [], 0)[0]:
            if not self._serve():
                return False
        return True

    def _serve(self) -> bool:
        message = receive_message(self._channel)
        if message is None:
            return False
        try:
            answer = {"ok": True, **self._run_program(message)}
        except Exception as error:  # whatever a request holds, it must not end the CPU
            answer = refusal(error)
        send_message(self._channel, answer)
        return True

    def _run_program(self, message: dict) -> dict:
        prog = self._registry.program(message["prog"])
        result = test_run(self._namespace, self._cpu, prog, decode_bytes(message["data"]), decode_bytes(message.get("ctx")), message.get("repeat", 1))
        return {"retval": result.retval, "data": encode_bytes(result.data), "ctx": encode_bytes(result.ctx),
                "duration_ns": result.duration_ns, "fault": result.fault, "redirect_ifindex": result.redirect_ifindex}  # fmt: skip
