"""Makers of objects are killed at any time: whoever comes next finds nothing half-made, and when all is collected the memory is back."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest
from nursery import Nursery

from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import PinTree

CYCLES = int(os.environ.get("SHMBPF_CREATE_KILLS", "200"))


@pytest.fixture(scope="module")
def nursery():
    made = Nursery("create_victim.py", points=False)
    yield made
    made.close()


def test_create_and_kill_cycles_leave_nothing(nursery, namespace_name):
    rng = random.Random(1)
    for cycle in range(CYCLES):
        pid = nursery.start(namespace=namespace_name, seed=cycle)
        time.sleep(rng.random() * 0.006)
        os.kill(pid, signal.SIGKILL)
        assert nursery.end() == -signal.SIGKILL
        if cycle % 50 == 49:
            with Namespace(namespace_name) as namespace:
                namespace.collect()
                pinned = PinTree(namespace).paths()
                assert set(namespace.segments()) == set(pinned)
                for name in pinned:
                    with Map.open(namespace, int(name.partition(".")[2])) as map_:
                        map_.check()
    with Namespace(namespace_name) as namespace:
        shutil.rmtree(namespace.pin_dir, ignore_errors=True)
