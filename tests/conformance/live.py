"""Programs with maps: a namespace, maps and programs by name, and a CPU to run them on. Sources name maps as `map[NAME]`."""

from __future__ import annotations

import re
from contextlib import ExitStack

from shmbpf._ffi import ffi, lib
from shmbpf.asm import assemble
from shmbpf.engine.local import LocalCpu, RunResult
from shmbpf.engine.program import Program, Registry
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.spec import MapSpec, ProgramSpec

XDP = 6
HASH, ARRAY, PROG_ARRAY, PERCPU_HASH, PERCPU_ARRAY = 1, 2, 3, 5, 6


class Machine:
    """One namespace with one CPU. Everything in it goes with it."""

    def __init__(self, name: str, cpus: int = 2):
        self._stack = ExitStack()
        self.name = name
        self.namespace = self._stack.enter_context(Namespace(name, role="test"))
        self.namespace.fix_cpus(cpus)
        self.maps: dict[str, Map] = {}
        self._registry = self._stack.enter_context(Registry(self.namespace))

    def map(self, name: str, type: int, key: int, value: int, entries: int, flags: int = 0) -> Map:
        made = self.maps[name] = self._stack.enter_context(Map.create(self.namespace, MapSpec(name, type, key, value, entries, flags)))
        return made

    def program(self, source: str, type: int = XDP, *, license: str = "GPL") -> Program:
        """Raises LoadError."""
        linked = re.sub(r"map\[(\w+)\](?!\[)", lambda found: f"map[id:{self.maps[found[1]].id}]", source)
        linked = re.sub(r"map\[(\w+)\]\[0\]", lambda found: f"map[id:{self.maps[found[1]].id}][0]", linked)
        spec = ProgramSpec("p", "xdp", type, 0, assemble(linked), license=license)
        return self._stack.enter_context(Program.create(self.namespace, spec, {}, self._registry))

    def cpu(self, number: int = 0) -> LocalCpu:
        return LocalCpu(self.name, number)

    def run(self, program: Program, packet: bytes = bytes(64), cpu: int = 0) -> RunResult:
        with self.cpu(cpu) as one:
            return one.run(program.id, packet)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fault_code(cpu: LocalCpu) -> str:
    """Name of the code of the last fault of a CPU."""
    return ffi.string(ffi.cast("enum vm_fault_code", cpu._cpu.fault.code)) if cpu._cpu.fault.code else "VM_OK"


__all__ = ["ARRAY", "HASH", "PERCPU_ARRAY", "PERCPU_HASH", "PROG_ARRAY", "XDP", "Machine", "fault_code", "lib"]
