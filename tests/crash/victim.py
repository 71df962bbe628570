"""Processes made to be killed at work on a hash table. Run as a script it serves a Nursery.

    request   {"ctl": fd, "map": fd, "cpu": n, "job": name, ...}

Jobs: `once` arms a kill point and runs one operation; `rounds` runs the endless `script` of test_hash_kill.py until somebody kills it.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
from typing import Iterator

KEYS, BATCH = 48, 400


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


def script(seed: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Phases of a victim's endless work: ("update", [(key, value), ...]), ("delete", [(key, 0), ...]), in turn. Values only grow."""
    rng, stamp = random.Random(seed), 0
    while True:
        ops = []
        for _ in range(BATCH):
            stamp += 1
            ops.append((rng.randrange(KEYS), stamp))
        yield "update", ops
        present = sorted({key for key, _ in ops})
        rng.shuffle(present)
        yield "delete", [(key, 0) for key in present[: len(present) // 2]]


def run_once(m, request: dict) -> None:
    from shmbpf._ffi import lib

    key, value = u32(request["key"]), struct.pack("=Q", request["value"]) * (m.value_bytes // 8)
    operations = {
        "insert": lambda: m.update(key, value, 1),
        "replace": lambda: m.update(key, value, 2),
        "delete": lambda: m.delete(key),
        "take": lambda: m.lookup_and_delete(key),
        "batch_delete": lambda: m.lookup_batch(200, delete=True),
        "recover": m.recover,
        "locked": lambda: m.update(key, value, 4),
    }
    if lib.shm_point_arm(request["point"].encode(), request["nth"]) != 0:
        sys.exit(f"no kill point {request['point']}: is this the build with points?")
    for operation in request["operations"]:
        operations[operation]()


def run_rounds(m, request: dict) -> None:
    """The first word of the log is the number of phases begun: what they were follows from the seed."""
    log = mmap.mmap(_borrowed(request["parent"], request["log"]), mmap.PAGESIZE)
    progress = memoryview(log).cast("Q")
    for kind, ops in script(request["seed"]):
        keys, values = b"".join(u32(key) for key, _ in ops), b"".join(struct.pack("=Q", value) * (m.value_bytes // 8) for _, value in ops)
        progress[0] += 1
        if kind == "update":
            m.update_batch([(keys, values)], count=len(ops))
        else:
            m.delete_batch([keys], count=len(ops))


def _borrowed(parent: int, fd: int) -> int:
    return os.open(f"/proc/{parent}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def run_victim(request: dict, ready) -> None:
    from support.raw_maps import RawMap, RawNamespace

    namespace = RawNamespace.join(_borrowed(request["parent"], request["ctl"]), request["cpu"])
    m = RawMap(namespace, _borrowed(request["parent"], request["map"]))
    ready()
    {"once": run_once, "rounds": run_rounds}[request["job"]](m, request)


if __name__ == "__main__":
    import support.raw_maps  # noqa: F401  before the forks, which are many
    from nursery import serve

    serve(run_victim)
