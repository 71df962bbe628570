"""What `import shmbpf` gives: a Runtime, the objects loaded into it, their maps and programs.

    with shmbpf.Runtime(cpus=4) as rt:
        obj = rt.load("prog.o")
        result = obj.programs["xdp_main"].run(packet, cpu=2)
        with obj.programs["xdp_main"].attach(rt.device("shm0")):
            rt.device("shm0").inject("capture.pcap")
        obj.maps["flows"][key]
"""

from __future__ import annotations

import atexit
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from shmbpf.attach.device import Attachment, Device
from shmbpf.elf import load_object
from shmbpf.engine.loaded import LoadedObject, load_spec
from shmbpf.engine.local import LocalCpu, RunResult, default_cpu
from shmbpf.engine.program import Program
from shmbpf.errors import ClosedError, ShmbpfError
from shmbpf.maps import open_map
from shmbpf.maps.map import Map
from shmbpf.maps.typed import TypedMap
from shmbpf.runtime.control import ControlClient
from shmbpf.runtime.remote import check_run, run_remote
from shmbpf.runtime.report import CpuReport, read_cpu
from shmbpf.runtime.supervisor import check_cpu_count
from shmbpf.runtime.trace import TraceThread
from shmbpf.shm.namespace import ANONYMOUS, Namespace, collect_abandoned
from shmbpf.shm.pins import PinTree
from shmbpf.spec import MapSpec


class RuntimeProgram:
    """A loaded program, ready to run on one packet or to be attached."""

    def __init__(self, runtime: Runtime, program: Program):
        self._runtime = runtime
        self.program = program
        self.id, self.name, self.type, self.tag = program.id, program.name, program.type, program.tag

    def run(self, packet: bytes, *, cpu: int | None = None, ctx: bytes | None = None, repeat: int = 1) -> RunResult:
        """BPF_PROG_TEST_RUN on a CPU: retval, data, ctx, duration_ns; `fault` is the reason when the run was stopped.

        Packet and context limits are Linux's; what it refuses raises MapError with its errno.
        """
        return self._runtime.run_program(self.program, packet, cpu=cpu, ctx=ctx, repeat=repeat)

    def attach(self, device: Device) -> Attachment:
        """Puts the program on its hook of a device; detached at the end of the `with` block."""
        return device.attach(self.program)

    def pin(self, path: str) -> None:
        """Pins the program (which keeps its maps) at a path of the namespace's pin tree. PinError as bpffs."""
        PinTree(self.program.namespace).pin("prog", self.program.id, path, parents=True)

    def __repr__(self) -> str:
        return repr(self.program)


class RuntimeObject:
    """An object's maps (typed by BTF) and programs, by name."""

    def __init__(self, runtime: Runtime, loaded: LoadedObject):
        self._loaded = loaded
        self.name = loaded.name
        self.warnings = loaded.warnings
        self.maps: Mapping[str, TypedMap] = {name: TypedMap(map_) for name, map_ in loaded.maps.items()}
        self.programs: Mapping[str, RuntimeProgram] = {name: RuntimeProgram(runtime, program) for name, program in loaded.programs.items()}

    def close(self) -> None:
        """Lets go of the object's maps and programs. Idempotent."""
        for map_ in self.maps.values():
            map_.end_streams()
        self._loaded.close()


class Runtime:
    """A simulated machine. `Runtime(cpus=4)` has a namespace of its own, which goes with it; `Runtime("prod")` joins a named one.

    CPU processes are started when first needed (a device is used), or are those of the runtime that already drives the namespace. Until then `run()`
    leases a CPU in this process.
    """

    def __init__(self, namespace: str | None = None, *, cpus: int | None = None):
        check_cpu_count(cpus)
        collect_abandoned()
        self.namespace = Namespace(namespace or f"{ANONYMOUS}{os.getpid()}-{secrets.token_hex(4)}", role="python")
        self._pid = os.getpid()
        self._lock = threading.RLock()  #: loading, starting and closing: one thread at a time
        self._closed = False
        self._objects: list[RuntimeObject] = []
        self._devices: dict[str, Device] = {}
        self._local: dict[int, LocalCpu] = {}
        self._host: subprocess.Popen | None = None
        self._opened: list[TypedMap | Program] = []
        self._trace: TraceThread | None = None
        try:
            self.cpus = self.namespace.fix_cpus(cpus or self.namespace.possible_cpus or None)
        except BaseException:
            self.namespace.close()
            raise
        atexit.register(self.close)  # a runtime that nobody closes must not leave its segments behind

    # -- objects --

    def load(self, path: str | os.PathLike | bytes, *, programs: Collection[str] | None = None, type: int | None = None) -> RuntimeObject:
        """Loads an object file (or its bytes). `programs` limits it to these (and their tail-call targets); `type` is for sections that do not tell it."""
        with self._open():
            loaded = load_spec(self.namespace, load_object(path), only=programs, program_type=type)
            self._objects.append(RuntimeObject(self, loaded))
            return self._objects[-1]

    def create_map(self, spec: MapSpec) -> TypedMap:
        """A map without an object."""
        with self._open():
            made = TypedMap(Map.create(self.namespace, spec))
            self._opened.append(made)
            return made

    def open_program(self, which: int | str) -> RuntimeProgram:
        """A program by id or pin path, whoever loaded it. Closed with the runtime."""
        with self._open():
            found = Program.open(self.namespace, which) if isinstance(which, int) else Program(self.namespace, PinTree(self.namespace).open(which, "prog"))
            self._opened.append(found)
            return RuntimeProgram(self, found)

    def open_map(self, which: int | str) -> TypedMap:
        """A map by id, name or pin path (a text with a '/'), whoever made it. Closed with the runtime."""
        with self._open():
            found = open_map(which, ns=self.namespace)
            self._opened.append(found)
            return found

    # -- running --

    def run_program(self, program: Program, packet: bytes, *, cpu: int | None = None, ctx: bytes | None = None, repeat: int = 1) -> RunResult:
        """See RuntimeProgram.run()."""
        with self._open():
            number = default_cpu(self.namespace) if cpu is None else cpu
            check_run(self.namespace, number, repeat)
            is_remote = self.namespace.has_runtime()
            if is_remote:
                self._log_trace()
            if not is_remote and number not in self._local:
                self._local[number] = LocalCpu(self.namespace.name, number)
            local = None if is_remote else self._local[number]
        if local is not None:
            return local.run(program.id, packet, ctx=ctx, repeat=repeat)
        return run_remote(self.namespace, program.id, packet, cpu=number, ctx=ctx, repeat=repeat)

    def start(self) -> None:
        """Starts the CPU processes now, if the namespace has no runtime yet."""
        with self._open():
            self._start()

    def _start(self) -> None:
        if self.namespace.has_runtime():
            return
        self._release_local()
        for device in self._devices.values():  # of a runtime that is gone
            device.close()
        self._devices.clear()
        command = [sys.executable, "-m", "shmbpf.runtime.host", self.namespace.name, str(self.cpus)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
        self._host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        first = self._host.stdout.readline().strip()
        if first != "ready":
            self._stop_host()
            if self.namespace.has_runtime():
                ControlClient(self.namespace.run_dir).close()  # somebody else was faster: theirs will do, once it listens
                return
            raise ShmbpfError(first.removeprefix("error ") or "the runtime's supervisor did not start")
        self._log_trace()

    def _log_trace(self) -> None:
        """From now on lines of trace_printk of the namespace's running CPUs go to the logger `shmbpf.trace`."""
        if self._trace is not None and not self._trace.is_alive:
            self._trace.close()
            self._trace = None
        if self._trace is None:
            with suppress(OSError):  # the runtime ends this very moment
                self._trace = TraceThread(self.namespace.run_dir)

    def device(self, name: str = "shm0") -> Device:
        """A device of the running CPUs (which are started if need be)."""
        with self._open():
            self._start()
            if name not in self._devices:
                self._devices[name] = Device(self.namespace, name)
            return self._devices[name]

    @property
    def pids(self) -> list[int]:
        """PIDs of the CPU processes, CPU 0 first; empty when none run."""
        with self._open():
            is_up = self.namespace.has_runtime()
        if not is_up:
            return []
        with ControlClient(self.namespace.run_dir) as client:
            return client.ask(command="info")["pids"]

    def reports(self) -> list[CpuReport]:
        """Counters of every CPU of the running runtime."""
        with self._open(), self.namespace.open_segment("run", self.namespace.ctl.run_id) as segment:
            return [read_cpu(segment.base, cpu) for cpu in range(self.cpus)]

    # -- the end --

    @contextmanager
    def _open(self) -> Iterator[None]:
        """The runtime stays open meanwhile. Raises ClosedError when it is not."""
        with self._lock:
            if self._closed:
                raise ClosedError("the runtime is closed: make a new one (shmbpf.Runtime)")
            yield

    def _release_local(self) -> None:
        for cpu in self._local.values():
            cpu.close()
        self._local.clear()

    def _stop_host(self) -> None:
        if self._host is None:
            return
        self._host.stdin.close()
        self._host.terminate()  # a forked child of ours may hold the other end of its stdin
        try:
            self._host.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._host.kill()
            self._host.wait()
        self._host.stdout.close()
        self._host = None

    def close(self) -> None:
        """Stops the CPUs it started, closes every object, and leaves the namespace. Idempotent.

        What is used afterwards, in whichever thread, raises ClosedError.
        """
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return  # a forked child: all of this is its parent's
        with self._lock:
            if not self._closed:
                self._closed = True
                self._shut_down()

    def _shut_down(self) -> None:
        for device in self._devices.values():
            device.close()
        self._devices.clear()
        self._release_local()
        is_ours = self._host is not None
        self._stop_host()
        if self._trace is not None:
            self._trace.join() if is_ours else self._trace.close()
        for obj in self._objects:
            obj.close()
        for opened in self._opened:
            opened.close()
        self.namespace.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc) -> None:
        self.close()
