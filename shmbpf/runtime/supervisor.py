"""The supervisor: forks the CPUs of a namespace, watches them, replaces the dead, and answers the control socket.

It is the CLI itself (`shmbpf run`), or a process of its own when shmbpf is used as a library (runtime/host.py). Single-threaded: fork happens with no other
thread around.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass, field

from shmbpf._ffi import lib
from shmbpf.engine.program import Program
from shmbpf.engine.trace import trace_pipe
from shmbpf.errors import ShmbpfError
from shmbpf.maps.map import Map
from shmbpf.runtime.control import ControlServer, Reply, receive_message, refusal, send_message
from shmbpf.runtime.faults import FaultWatch
from shmbpf.runtime.report import CpuReport, read_cpu
from shmbpf.runtime.trace import TraceHub
from shmbpf.runtime.worker import END_SIGNALS, WorkerPlan, run_worker
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment

DEVICE = "shm0"
DEVICE_IFINDEX = 1
_HASTY_S = 1.0  #: a worker that dies sooner than this after its start
_HASTY_LIMIT = 3  #: ... this many times in a row is not started again


@dataclass
class _Child:
    pid: int
    pidfd: int
    channel: socket.socket
    started: float
    hasty: int = 0
    packets: int = 0  #: of this CPU when the process was started
    waiting: deque[Reply] = field(default_factory=deque)  #: who asked for a run on this CPU, in order
    channel_open: bool = True  #: still watched for answers


class Supervisor:
    """The runtime of a namespace: `cpus` workers on the device shm0. Raises NamespaceBusyError when the namespace has one already.

    `notices` collects lines for the user (deaths, restarts); whoever owns the supervisor prints them.
    """

    def __init__(self, namespace: Namespace, cpus: int | None = None, *, out_fd: int = -1, budget: int = 0):
        check_cpu_count(cpus)
        self.namespace = namespace
        self.notices: list[str] = []
        self.failed: set[int] = set()
        self._children: dict[int, _Child] = {}
        namespace.claim_runtime()
        with ExitStack() as undo:
            undo.callback(namespace.release_runtime)
            with namespace.creating():  # nobody may change the number of CPUs in between
                self.cpus = namespace.fix_cpus(cpus)
                self.device, self.device_id = namespace.create_segment("dev", lib.net_dev_bytes(self.cpus), self._format_device)
                undo.enter_context(self.device)
                self.run, self.run_id = namespace.create_segment("run", lib.net_run_bytes(self.cpus), self._format_run)
                undo.enter_context(self.run)
            namespace.ctl.run_id = self.run_id
            self.server = ControlServer(namespace.run_dir, self._answer)
            undo.pop_all()
        self._run = lib.net_run_of(self.run.base, self.run.bytes)
        self.faults = FaultWatch(namespace, self.run, self.cpus)
        self.dev = lib.net_dev_of(self.device.base, self.device.bytes)
        self._trace_fd, trace_write = trace_pipe()
        self.trace = TraceHub(namespace.run_dir, self.server.selector, self._trace_fd, self._lost_lines)
        self.plan = WorkerPlan(namespace, self.device, self.run, out_fd=out_fd, trace_fd=trace_write, budget=budget)
        self._wake_fd, wake = socket.socketpair()
        self._wake_fd.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        self.server.selector.register(self._wake_fd, selectors.EVENT_READ, lambda sock: sock.recv(4096))

    def _format_device(self, segment: Segment, number: int) -> None:
        _require_ok(lib.net_dev_format(segment.base, segment.bytes, number, DEVICE.encode(), DEVICE_IFINDEX, self.cpus), "device")

    def _format_run(self, segment: Segment, number: int) -> None:
        _require_ok(lib.net_run_format(segment.base, segment.bytes, number, self.cpus, os.getpid()), "run statistics")

    # -- workers --

    def start(self) -> None:
        """Forks every CPU. Sources must be in `plan.sources` by now."""
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for cpu in range(self.cpus):
            self._fork(cpu)

    def _fork(self, cpu: int, hasty: int = 0) -> None:
        ours, theirs = socket.socketpair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)  # a child must not run our handlers: it takes over with these blocked
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                run_worker(self.plan, cpu, theirs, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.settimeout(2)
        child = _Child(pid, os.pidfd_open(pid), ours, time.monotonic(), hasty, lib.net_run_cpu(self.run.base, cpu).packets)
        self._children[cpu] = child
        self.server.selector.register(child.pidfd, selectors.EVENT_READ, lambda _fd, cpu=cpu: self._reap(cpu))
        self.server.selector.register(ours, selectors.EVENT_READ, lambda channel, cpu=cpu: self._hand_back(cpu, channel))

    @property
    def pids(self) -> dict[int, int]:
        """PID of each running CPU."""
        return {cpu: child.pid for cpu, child in sorted(self._children.items())}

    def poll(self, timeout: float) -> None:
        """Reaps, restarts and answers; waits at most `timeout` seconds for something to do."""
        self.server.poll(timeout)
        self.notices += self.faults.look(time.monotonic())

    def _reap(self, cpu: int) -> None:
        child = self._children.pop(cpu)
        self.server.selector.unregister(child.pidfd)
        _, status = os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        if child.channel_open:
            self.server.selector.unregister(child.channel)
        child.channel.close()
        for reply in child.waiting:
            reply(refusal(ShmbpfError(f"CPU {cpu} died during the run")))
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        stats = lib.net_run_cpu(self.run.base, cpu)
        hasty = child.hasty + 1 if time.monotonic() - child.started < _HASTY_S and stats.packets == child.packets else 0
        self.notices.append(self._describe_death(cpu, child.pid, status))
        repairs = self._recover()
        if self._run.stop:
            return
        try:
            if hasty >= _HASTY_LIMIT:
                raise ShmbpfError("it dies at once, again and again")
            self._fork(cpu, hasty)
        except (OSError, ShmbpfError) as error:
            self.failed.add(cpu)
            self.notices[-1] += f"; not replaced: {error}"
            return
        stats.restarts += 1
        self.notices[-1] += f"; {repairs} repairs in maps; replaced by PID {self._children[cpu].pid}"

    def _describe_death(self, cpu: int, pid: int, status: int) -> str:
        stats = lib.net_run_cpu(self.run.base, cpu)
        how = f"was killed by {_signal_name(os.WTERMSIG(status))}" if os.WIFSIGNALED(status) else f"ended with status {os.WEXITSTATUS(status)}"
        if not stats.prog_id:
            return f"CPU {cpu} (PID {pid}) {how} between packets"
        try:
            with Program.open(self.namespace, stats.prog_id) as program:
                return f"CPU {cpu} (PID {pid}) {how} in program {program.name} (id {program.id})"
        except ShmbpfError:
            return f"CPU {cpu} (PID {pid}) {how} in program id {stats.prog_id}"

    def _recover(self) -> int:
        """Takes back what the dead held in any map, at once, so that no one has to wait for it."""
        repairs = 0
        for number in self.namespace.ids("map"):
            try:
                with Map.open(self.namespace, number) as map_:
                    repairs += map_.recover()
            except ShmbpfError:
                continue  # gone meanwhile
        return repairs

    # -- packets --

    def close_device(self) -> None:
        """No more packets will come: workers finish what is queued and end."""
        lib.net_dev_close(self.device.base, self.dev)

    @property
    def is_working(self) -> bool:
        """True while any CPU process runs."""
        return bool(self._children)

    def reports(self) -> list[CpuReport]:
        """Counters of every CPU, now."""
        return [read_cpu(self.run.base, cpu) for cpu in range(self.cpus)]

    @property
    def first_packet_ns(self) -> int:
        """CLOCK_MONOTONIC of the first packet that reached a program, 0 before."""
        return self._run.first_packet_ns

    def read_trace(self) -> bytes:
        """Lines of trace_printk that have come since the last call."""
        return self.trace.take_kept()

    def _lost_lines(self) -> Counter[int]:
        return Counter({cpu: lost for cpu in range(self.cpus) if (lost := lib.net_run_cpu(self.run.base, cpu).trace_lost)})

    # -- requests --

    def _answer(self, request: dict, reply: Reply) -> None:
        command = request.get("command")
        if command == "info":
            reply({"ok": True, "pid": os.getpid(), "cpus": self.cpus, "pids": list(self.pids.values()), "device": self.device_id, "run": self.run_id})
        elif command == "prog_run":
            self._forward(int(request.get("cpu", 0)), request, reply)
        elif command == "stop":
            reply({"ok": True})
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            raise ShmbpfError(f"unknown request {command!r}")

    def _forward(self, cpu: int, request: dict, reply: Reply) -> None:
        """Hands a request to a worker, which answers between two packets; nobody waits for it here."""
        child = self._children.get(cpu)
        if child is None:
            raise ShmbpfError(f"CPU {cpu} is not running (CPUs: 0 to {self.cpus - 1})")
        try:
            send_message(child.channel, request)
        except OSError as error:
            os.kill(child.pid, signal.SIGKILL)  # half a frame is in its socket: only a new process can be talked to again
            raise ShmbpfError(f"CPU {cpu} takes no requests: {error}") from error
        child.waiting.append(reply)
        lib.net_run_cpu(self.run.base, cpu).ctl_word += 1
        lib.net_dev_kick(self.device.base, self.dev, cpu)

    def _hand_back(self, cpu: int, channel: socket.socket) -> None:
        """A worker's answer goes to whoever asked first. A worker that closes its end is dying: the reaper tells those who wait."""
        child = self._children.get(cpu)
        if child is None or child.channel is not channel:
            return  # reaped in the same round of poll()
        try:
            answer = receive_message(child.channel, within=2)
        except (OSError, ValueError):
            answer = None
        if answer is None:
            self.server.selector.unregister(child.channel)
            child.channel_open = False
            os.kill(child.pid, signal.SIGKILL)  # if it is not dead yet: nobody can talk to it any more
        elif child.waiting:
            child.waiting.popleft()(answer)

    # -- the end --

    def stop(self, timeout: float = 5.0) -> None:
        """Stops the workers (packets in hand are finished), by force after `timeout` seconds."""
        self._run.stop = 1
        for cpu in range(self.cpus):
            lib.net_dev_kick(self.device.base, self.dev, cpu)
        deadline = time.monotonic() + timeout
        while self._children and time.monotonic() < deadline:
            self.server.poll(0.02)
        self.kill()
        while self._children:
            self.server.poll(1.0)
        self.notices += self.faults.look(time.monotonic(), is_last=True)

    def kill(self) -> None:
        """Ends the workers at once; once stop() was called they are not replaced."""
        self._run.stop = 1
        for child in list(self._children.values()):
            os.kill(child.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stops everything and removes device, statistics and control socket. The namespace stays the caller's."""
        self.stop()
        signal.set_wakeup_fd(-1)
        self.trace.close()
        self.server.close()
        for fd in (self._trace_fd, self.plan.trace_fd):
            os.close(fd)
        self._wake.close()
        self._wake_fd.close()
        self.device.close()
        self.run.close()
        self.namespace.release_runtime()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def check_cpu_count(cpus: int | None) -> None:
    """Raises ShmbpfError for a CPU count that cannot be."""
    if cpus is None:
        return
    most = min(lib.SHM_MAX_CPUS, max(64, 16 * (os.cpu_count() or 1)))
    if not 1 <= cpus <= most:
        raise ShmbpfError(f"--cpus {cpus}: expected 1 to {most} CPUs on this machine (it has {os.cpu_count()})")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and cpus * 4 + 64 > soft:
        raise ShmbpfError(f"--cpus {cpus}: {soft} open files are allowed, {cpus * 4 + 64} are needed: raise 'ulimit -n'")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"signal {number}"


def _require_ok(err: int, what: str) -> None:
    if err:
        raise ShmbpfError(f"{what}: {os.strerror(-err)}")
