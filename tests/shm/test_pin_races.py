"""Many processes pin, open and unpin the same names at once: one winner each time, bpffs's errors, nothing left.

Short here; SHMBPF_PINS=100000 is the long form (make stress).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from support.paths import ROOT

from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import PinTree
from shmbpf.spec import MapSpec

PROCESSES, NAMES = 8, 3
ROUNDS = int(os.environ.get("SHMBPF_PINS", "1600")) // PROCESSES

#: each worker has a map of its own whose only value is the map's id: what is opened must be whole, and somebody's
WORKER = """
import errno, random, struct, sys
from shmbpf.errors import PinError
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import PinTree
from shmbpf.spec import MapSpec

name, seed, rounds, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng, counts = random.Random(seed), {"won": 0, "lost": 0, "opened": 0, "unpinned": 0}
with Namespace(name) as namespace:
    tree = PinTree(namespace)
    for _ in range(rounds):
        path = f"race/{rng.randrange(names)}"
        with Map.create(namespace, MapSpec("own", 2, 4, 8, 1)) as own:
            own.update(bytes(4), struct.pack("<Q", own.id))
            try:
                tree.pin("map", own.id, path, parents=True)
                counts["won"] += 1
            except PinError as error:
                assert error.errno == errno.EEXIST, error
                counts["lost"] += 1
        try:
            with Map(namespace, tree.open(path, "map")) as found:
                assert struct.unpack("<Q", found.lookup(bytes(4)))[0] == found.id
                counts["opened"] += 1
        except PinError as error:
            assert error.errno == errno.ENOENT, error
        try:
            if rng.random() < 0.7:
                tree.unpin(path)
                counts["unpinned"] += 1
        except PinError as error:
            assert error.errno == errno.ENOENT, error
print(counts["won"], counts["lost"], counts["opened"], counts["unpinned"])
"""


def test_racing_processes_see_one_winner_and_bpffss_errors(namespace_name):
    with Namespace(namespace_name) as namespace:
        namespace.fix_cpus(1)
        command = [sys.executable, "-c", WORKER, namespace_name]
        racers = [subprocess.Popen([*command, str(seed), str(ROUNDS), str(NAMES)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for seed in range(PROCESSES)]
        ends = [racer.communicate(timeout=3000) for racer in racers]
        assert [racer.returncode for racer in racers] == [0] * PROCESSES, ends
        won, lost, opened, unpinned = (sum(column) for column in zip(*(map(int, out.split()) for out, _ in ends), strict=True))
        tree = PinTree(namespace)
        left = list(tree.walk())
        assert won + lost == PROCESSES * ROUNDS and won - unpinned == len(left) and opened > 0 and lost > 0
        shutil.rmtree(tree.root)
        assert namespace.collect() == sorted(pin.object for pin in left) and namespace.segments() == []


def test_a_pin_never_names_another_object(namespace):
    """An opener that looked before the name was given to another map gets the one or the other, whole."""
    tree = PinTree(namespace)
    maps = [Map.create(namespace, MapSpec(f"m{number}", 2, 4, 8, 1)) for number in range(2)]
    for number, map_ in enumerate(maps):
        tree.pin("map", map_.id, f"spare{number}")
    for turn in range(200):
        os.rename(tree.place(f"spare{turn % 2}"), tree.place("name"))
        assert tree.get("name").id == maps[turn % 2].id
        os.rename(tree.place("name"), tree.place(f"spare{turn % 2}"))
    for map_ in maps:
        map_.close()
    shutil.rmtree(tree.root)
