"""CPUs that measure: forked processes, each with a CPU lease of the namespace and pinned to a CPU of the machine, doing one job after the other.

    parent --job--> child 0, child 1 --result--> parent

A child ends when its pipe closes. Jobs given to several children at once run at the same time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from shmbpf._ffi import ffi, lib
from shmbpf.bench.figures import usable_cpus
from shmbpf.errors import ShmbpfError
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace

_JOB, _RESULT = struct.Struct("=6IQ"), struct.Struct("=iIQQ")
_PR_SET_PDEATHSIG = 1
_KEY_OFFSET = 0x1000000


@dataclass
class _Child:
    pid: int
    jobs: int  #: write end
    results: int  #: read end
    start: int = 0  #: number of its next operation


class Crew:
    """`count` measuring processes of a namespace. Use with `with`."""

    def __init__(self, namespace: Namespace, count: int):
        self._namespace = namespace
        self._children: list[_Child] = []
        places = usable_cpus()
        for cpu in range(count):
            self._children.append(self._fork(cpu, places[cpu % len(places)]))

    def _fork(self, cpu: int, place: int) -> _Child:
        jobs_in, jobs_out = os.pipe()
        results_in, results_out = os.pipe()
        pid = os.fork()
        if pid == 0:
            for child in self._children:  # a sibling must see its pipe closed when the parent closes it
                os.close(child.jobs)
                os.close(child.results)
            os.close(jobs_out)
            os.close(results_in)
            _serve(self._namespace, cpu, place, jobs_in, results_out)
        os.close(jobs_in)
        os.close(results_out)
        return _Child(pid, jobs_out, results_in)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._children)

    def run(self, map_: Map, op: int, mask: int, count: int, members: Sequence[int] = (0,), *, multiplier: int = lib.BENCH_KEY_MULTIPLIER) -> float:
        """ns of CPU time per operation; of several members running at once, the slowest's. Raises ShmbpfError when an operation fails."""
        for member in members:
            self.start(map_, op, mask, count, member, multiplier=multiplier)
        return max(self.result(map_, member) for member in members)

    def start(self, map_: Map, op: int, mask: int, count: int, member: int = 0, *, multiplier: int = lib.BENCH_KEY_MULTIPLIER) -> None:
        """Gives a member something to do; its result() must be fetched before the next."""
        child = self._children[member]
        os.write(child.jobs, _JOB.pack(map_.id, op, mask, _KEY_OFFSET * (member + 1), child.start, multiplier, count))

    def result(self, map_: Map, member: int = 0) -> float:
        """ns of CPU time per operation of what a member was given."""
        return self._result(self._children[member], map_)

    def _result(self, child: _Child, map_: Map) -> float:
        answer = os.read(child.results, _RESULT.size)
        if len(answer) != _RESULT.size:
            raise ShmbpfError(f"bench: the process measuring {map_!r} ended")
        err, child.start, done, spent = _RESULT.unpack(answer)
        if err:
            raise ShmbpfError(f"bench: an operation on {map_!r} failed: {os.strerror(-err)}")
        return spent / done

    def close(self) -> None:
        """Ends the processes. Idempotent."""
        for child in self._children:
            os.close(child.jobs)
            os.close(child.results)
            os.waitpid(child.pid, 0)
        self._children.clear()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def _serve(parent: Namespace, cpu: int, place: int, jobs: int, results: int) -> NoReturn:
    """The life of a child."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, {place})
        parent.close()
        with Namespace(parent.name, role=f"bench {cpu}", cpu=cpu) as namespace:
            while words := os.read(jobs, _JOB.size):
                os.write(results, _do(namespace, *_JOB.unpack(words)))
        status = 0
    except (ShmbpfError, OSError):
        pass  # the parent sees the closed pipe and says which map it was
    finally:
        os._exit(status)


def _do(namespace: Namespace, map_id: int, op: int, mask: int, offset: int, start: int, multiplier: int, count: int) -> bytes:
    job = ffi.new("struct bench_job *", {"op": op, "mask": mask, "offset": offset, "start": start, "multiplier": multiplier, "count": count})
    with Map.open(namespace, map_id) as map_:
        err = lib.bench_map(map_.handle, namespace.client, job)
    return _RESULT.pack(err, job.start, job.done, job.ns)
