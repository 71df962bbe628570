"""Events in numbers: a program that numbers what it sends, packets that run it on every CPU, and readers that say exactly what they got.

The numbers: each CPU gives every event that reaches a ring, or is lost to a full one, the next number of its own. So for each CPU and ring what was received
and what was lost make up a run of numbers without holes, and holes in what was received are losses.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.compile import compile_bpf

import shmbpf
from shmbpf._ffi import ffi, lib
from shmbpf.bench.packets import make_capture
from shmbpf.maps.map import Map

EVENTS_PER_PACKET = 16
_STATE = struct.Struct("<7Q")
SOURCE = f"""
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
struct count {{ __u64 next, ok, full, nobody, other; }};
struct {{ __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 8); }} events SEC(".maps");
struct {{ __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 18); }} buffer SEC(".maps");
struct {{ __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __type(key, __u32); __type(value, struct count); __uint(max_entries, 2); }} counts SEC(".maps");
struct record {{ __u64 number, check, cpu, filler[5]; }};
static __always_inline void note(struct count *c, long result)
{{
	c->ok += result == 0;
	c->full += result == -28 || result == -11;
	c->nobody += result == -2;
	c->other += result && result != -28 && result != -11 && result != -2;
}}
static __always_inline void note_and_number(struct count *c, long result)
{{
	note(c, result);
	c->next += result != -2;
}}
static __always_inline struct count *next_record(__u32 which, struct record *r)
{{
	struct count *c = bpf_map_lookup_elem(&counts, &which);

	if (c) {{
		r->number = c->next;
		r->check = ~c->next;
		r->cpu = bpf_get_smp_processor_id();
	}}
	return c;
}}
SEC("xdp") int storm(struct xdp_md *ctx)
{{
	struct record r = {{}};
	for (int i = 0; i < {EVENTS_PER_PACKET}; i++) {{
		struct count *c = next_record(0, &r);
		if (c)
			note_and_number(c, bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &r, sizeof r));
	}}
	return XDP_DROP;
}}
/* For CPUs that are killed: the number is taken before the event is sent, so a death leaves a hole and never gives a number twice. */
SEC("xdp") int hail(struct xdp_md *ctx)
{{
	struct record r = {{}};
	for (int i = 0; i < {EVENTS_PER_PACKET}; i++) {{
		struct count *c = next_record(0, &r);
		if (c) {{
			c->next++;
			note(c, bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &r, sizeof r));
		}}
	}}
	return XDP_DROP;
}}
SEC("xdp") int flood(struct xdp_md *ctx)
{{
	struct record r = {{}};
	for (int i = 0; i < {EVENTS_PER_PACKET}; i++) {{
		struct count *c = next_record(1, &r);
		if (c)
			note_and_number(c, bpf_ringbuf_output(&buffer, &r, sizeof r, 0));
	}}
	return XDP_DROP;
}}
"""


@dataclass(frozen=True)
class Counts:
    """What the program on one CPU says."""

    next: int
    ok: int
    full: int
    nobody: int
    other: int


@dataclass(frozen=True)
class State:
    """What a reader says: struct counts of tests/support/readers/perf_reader.c."""

    position: int
    received: int
    lost: int
    missing: int
    first: int
    next: int
    torn: int


class StateFile:
    """Where a reader keeps its State; right at every moment, also when the reader is killed."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "w+b") as file:
            file.truncate(mmap.PAGESIZE)
            self.memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def read(self) -> State:
        side = struct.unpack_from("<Q", self.memory)[0]
        return State(*_STATE.unpack_from(self.memory, 8 + side * _STATE.size))

    def close(self) -> None:
        self.memory.close()


class ForeignReader:
    """One of the C readers at work on a file, or on an open descriptor. `finish()` lets it drain what is left and end."""

    def __init__(self, program: Path, target: str | Path | int, *arguments: object):
        is_fd = isinstance(target, int)
        command = [program, f"fd:{target}" if is_fd else target, *map(str, arguments)]
        self._out = tempfile.TemporaryFile("w+")  # no pipe: a reader must not wait for its own reader
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._out, stderr=subprocess.PIPE, text=True, pass_fds=[target] if is_fd else [])
        wait_until(lambda: os.fstat(self._out.fileno()).st_size or self.process.poll() is not None, "the reader is ready")

    def finish(self) -> list[str]:
        """Its lines."""
        _, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, f"{self.process.returncode}: {err}"
        with self._out:
            self._out.seek(0)
            return self._out.read().splitlines()[1:]  # the first says `ready`

    def kill(self) -> None:
        """At once. Idempotent, and nothing after finish()."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()
        self._out.close()


class Traffic:
    """A runtime whose CPUs run one of the programs on every packet injected."""

    def __init__(self, cpus: int, program: str):
        self.runtime = shmbpf.Runtime(f"t{os.getpid()}-{secrets.token_hex(4)}", cpus=cpus)
        self.cpus = cpus
        loaded = self.runtime.load(compile_bpf(SOURCE))
        self.events: Map = loaded.maps["events"].raw
        self.buffer: Map = loaded.maps["buffer"].raw
        self._counts: Map = loaded.maps["counts"].raw
        self._which = {"storm": 0, "hail": 0, "flood": 1}[program]
        self.device = self.runtime.device("shm0")
        self._attachment = self.device.attach(loaded.programs[program].program)

    def send(self, packets: int) -> None:
        """Injects so many packets of many flows, and returns when all have been processed."""
        flows = _flows(2000)
        self.device.inject((flows * (packets // len(flows) + 1))[:packets])

    @contextmanager
    def sending(self, packets: int = 0) -> Iterator[None]:
        """Sends inside the block, at least so many packets, from a thread; all of them have been processed afterwards."""
        stop = threading.Event()

        def work() -> None:
            sent = 0
            while sent < packets or not stop.is_set():
                self.send(2000)
                sent += 2000

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
            try:
                yield
            finally:
                stop.set()
            done.result()

    def counts(self) -> list[Counts]:
        """By CPU."""
        words = struct.unpack(f"<{5 * self.cpus}Q", self._counts.lookup(struct.pack("<I", self._which)))
        return [Counts(*words[cpu * 5 : cpu * 5 + 5]) for cpu in range(self.cpus)]

    def close(self) -> None:
        self.runtime.close()


def _flows(packets: int) -> list[bytes]:
    capture, found, at = make_capture(packets), [], 24
    while at < len(capture):
        size = struct.unpack_from("<I", capture, at + 8)[0]
        found.append(capture[at + 16 : at + 16 + size])
        at += 16 + size
    return found


@contextmanager
def traffic(cpus: int, program: str = "storm") -> Iterator[Traffic]:
    """A running Traffic."""
    made = Traffic(cpus, program)
    try:
        yield made
    finally:
        made.close()


def ring_counters(path: str | Path) -> tuple[int, int]:
    """(sent, lost) of a ring, from its file."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        ring, base = ffi.new("struct ring *"), ffi.from_buffer(memory)
        assert lib.ring_attach(ring, ffi.cast("uint8_t *", base), len(memory)) == 0
        result = lib.ring_sent(ring), lib.ring_lost(ring)
        ffi.release(base)
        return result


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.001)
