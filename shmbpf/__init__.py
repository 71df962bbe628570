"""shmbpf: the Linux eBPF subsystem as ordinary, unprivileged processes.

`Runtime`, `open_map`, the specs and the errors are imported on first use, so that `import shmbpf` (and `shmbpf --help`) stays cheap.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "Runtime": "shmbpf.api", "RuntimeObject": "shmbpf.api", "RuntimeProgram": "shmbpf.api", "RunResult": "shmbpf.engine.local",
    "open_map": "shmbpf.maps", "Map": "shmbpf.maps.map", "TypedMap": "shmbpf.maps.typed", "Namespace": "shmbpf.shm.namespace",
    "load_object": "shmbpf.elf", "MapSpec": "shmbpf.spec", "ProgramSpec": "shmbpf.spec", "ObjectSpec": "shmbpf.spec",
    "MapType": "shmbpf.uapi", "ProgType": "shmbpf.uapi", "MapFlag": "shmbpf.uapi", "XdpAction": "shmbpf.uapi", "TcAction": "shmbpf.uapi",
    "ShmbpfError": "shmbpf.errors", "MapError": "shmbpf.errors", "MapKeyError": "shmbpf.errors", "MapFullError": "shmbpf.errors",
    "LoadError": "shmbpf.errors", "ObjectError": "shmbpf.errors", "ClosedError": "shmbpf.errors",
    "Record": "shmbpf.events.records", "Lost": "shmbpf.events.records", "PerfRing": "shmbpf.events.perf",
    "RingBuffer": "shmbpf.events.ringbuf", "UserRingBuffer": "shmbpf.events.ringbuf",
}  # fmt: skip

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'shmbpf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
