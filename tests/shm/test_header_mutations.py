"""Whatever stands in the control block of a segment, who attaches to it refuses it or works: no crash, no hang. In a child process, which would be the one to crash."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.paths import ROOT

MUTATIONS = int(os.environ.get("SHMBPF_MUTATIONS", "100000"))

SCRIPT = """
import mmap, random, sys
from shmbpf._ffi import ffi, lib
from shmbpf.events.perf import PerfRing
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.spec import MapSpec
from support.programs import RETURN_2, make

name, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
TYPES = {"hash": (1, 4, 8, 4), "array": (2, 4, 8, 4), "prog_array": (3, 4, 4, 4), "perf_event_array": (4, 4, 4, 4), "percpu_hash": (5, 4, 8, 4),
         "percpu_array": (6, 4, 8, 4), "ringbuf": (27, 0, 0, 4096), "user_ringbuf": (31, 0, 0, 4096)}
rng, worked = random.Random(what), 0
lib.shm_guard_bus()


def use_map(client, base, size):
    handle = ffi.new("struct map *")
    if lib.map_attach(handle, base, size):
        return 0
    key, value, why = ffi.new("uint8_t[64]"), ffi.new("uint8_t[4096]"), ffi.new("char[256]")
    for call in (lib.map_lookup_elem, lib.map_update_elem):
        call(handle, client, key, value, 0)
    lib.map_get_next_key(handle, client, ffi.NULL, key)
    lib.map_check(handle, client, why, 256)
    lib.map_recover(handle, client)
    lib.map_detach(handle)
    return 1


def use_ring(client, base, size):
    ring, records, buffer = ffi.new("struct ring *"), ffi.new("struct ring_record[4]"), ffi.new("uint8_t[65536]")
    if lib.ring_attach(ring, base, size):
        return 0
    sample = ffi.new("struct ring_sample *")
    sample.data, sample.data_bytes = ffi.cast("uint8_t *", buffer), 40
    lib.ring_output(ring, client, sample)
    lib.ring_read(ring, records, 4, buffer, 65536)
    lib.ring_recover(ring)
    return 1


def use_prog(client, base, size):
    image, error = ffi.new("struct prog_image *"), ffi.new("struct vm_error *")
    if lib.prog_image_of(image, base, size):
        return 0
    registry = lib.vm_registry_new(b"shmbpf.none", client)
    prog = lib.vm_prog_new(registry, image, error)
    if prog:
        lib.vm_prog_free(prog)
    lib.vm_registry_free(registry)
    return 1


with Namespace(name) as namespace:
    namespace.fix_cpus(2)
    if what in TYPES:
        with Map.create(namespace, MapSpec("victim", *TYPES[what])) as made:
            original, use = bytes(ffi.buffer(made._segment.base, made._segment.bytes)), use_map
    elif what == "ring":
        with Map.create(namespace, MapSpec("events", *TYPES["perf_event_array"])) as events, PerfRing.open(events, 0, 1) as ring:
            original, use = bytes(ffi.buffer(ring._segment.base, ring._segment.bytes)), use_ring
    else:
        with make(namespace, RETURN_2) as program:
            image = program.image
            size = image.ctl.head.bytes
            original, use = bytes(ffi.buffer(ffi.cast("uint8_t *", image.ctl) + 4096 - size, size)), use_prog
            del image
    memory = mmap.mmap(-1, len(original))
    base, size = ffi.cast("uint8_t *", ffi.from_buffer(memory)), len(original)
    namespace.client.busy_ns = 1000
    for _ in range(count):
        memory[:] = original
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            memory[size - 4096 + rng.choice((rng.randrange(256), rng.randrange(4096)))] = rng.randrange(256)
        worked += use(namespace.client, base, size)
print(worked)
"""
SUBJECTS = ["hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array", "ringbuf", "user_ringbuf", "ring", "prog"]


@pytest.mark.parametrize("what", SUBJECTS)
def test_a_mutated_control_block_is_refused_or_works(namespace_name, what):
    count = MUTATIONS // len(SUBJECTS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", SCRIPT, namespace_name, what, str(count)], env=environment, capture_output=True, text=True, timeout=120 + count / 100, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert 0 < int(done.stdout) < count, "neither all were refused nor all accepted"
