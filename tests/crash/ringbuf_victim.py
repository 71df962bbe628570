"""Processes made to be killed at work on a ring buffer. Run as a script it serves a Nursery.

Jobs: `once` arms a kill point and does `operations`; `rounds` produces until somebody kills it, and keeps the number of records accepted in `log`.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys


def payload(producer: int, number: int) -> bytes:
    """A record that shows when it is torn."""
    return struct.pack("=II", producer, number) + bytes([(producer * 31 + number) % 251]) * (number * 7 % 120)


def operations(handle, me, producer: int) -> dict:
    """What a victim can do, by name; `number` is the record's."""
    from shmbpf._ffi import ffi, lib

    records, buffer = ffi.new("struct ring_record[]", 64), ffi.new("uint8_t[]", 1 << 16)
    sample, size = ffi.new("uint8_t **"), ffi.new("uint32_t *")

    def output(number: int) -> int:
        data = payload(producer, number)
        return lib.ringbuf_output(handle, me, ffi.from_buffer(data), len(data), 0)

    def drain(_number: int) -> None:
        if lib.user_ringbuf_begin(handle, me):
            return
        while lib.user_ringbuf_next(handle, me, sample, size) == 0:
            lib.user_ringbuf_release(handle, size[0])
        lib.user_ringbuf_end(handle, me, 1)

    def write(number: int) -> int:
        data = payload(producer, number)
        return lib.user_ringbuf_write(handle, me, ffi.from_buffer(data), len(data))

    return {
        "output": output,
        "reserve": lambda _: lib.ringbuf_reserve(handle, me, 40),
        "discard": lambda _: lib.ringbuf_commit(handle, me, lib.ringbuf_reserve(handle, me, 40), 0, 1),
        "read": lambda _: lib.ringbuf_read(handle, me, records, 64, buffer, 1 << 16),
        "recover": lambda _: lib.map_recover(handle, me),
        "write": write,
        "drain": drain,
    }


def run_victim(request: dict, ready) -> None:
    from support.raw_maps import RawMap, RawNamespace

    from shmbpf._ffi import lib

    borrowed = {name: os.open(f"/proc/{request['parent']}/fd/{request[name]}", os.O_RDWR | os.O_CLOEXEC) for name in ("ctl", "map", "log") if name in request}
    namespace = RawNamespace.join(borrowed["ctl"])
    m = RawMap(namespace, borrowed["map"])
    does = operations(m.handle, m.me, request["producer"])
    if request["job"] == "once" and lib.shm_point_arm(request["point"].encode(), request["nth"]):
        sys.exit(f"no kill point {request['point']}: is this the build with points?")
    ready()
    if request["job"] == "once":
        for number, name in enumerate(request["operations"]):
            does[name](number)
        return
    progress, number = memoryview(mmap.mmap(borrowed["log"], mmap.PAGESIZE)).cast("Q"), 0
    while True:
        if does["output"](number) == 0:
            number += 1
            progress[request["producer"]] = number


if __name__ == "__main__":
    import support.raw_maps  # noqa: F401  before the forks, which are many
    from nursery import serve

    serve(run_victim)
