"""What every test may ask for. Each test works in a namespace of its own, and leaving anything of it behind fails the session."""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `tests.support` as well as `support`

pytest_plugins = ["support.kernel"]

_PREFIX = f"t{os.getpid()}-"


def _left_behind(name: str) -> list[str]:
    """Entries of /dev/shm that belong to namespaces whose names begin with `name`."""
    return sorted(entry for entry in os.listdir("/dev/shm") if entry.startswith(f"shmbpf.{os.getuid()}.{name}"))


def assert_nothing_left(name: str) -> None:
    """Fails when something of a namespace stays. A visitor (another process listing all namespaces) may hold it for a moment and then clears up itself."""
    deadline = time.monotonic() + 3
    while _left_behind(name) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _left_behind(name) == [], "left in /dev/shm by this test"


@pytest.fixture
def namespace_name() -> str:
    """A fresh namespace's name. Whoever uses it leaves nothing in it."""
    name = f"{_PREFIX}{secrets.token_hex(4)}"
    yield name
    assert_nothing_left(name)


@pytest.fixture
def namespace(namespace_name):
    """A fresh Namespace, closed after the test."""
    from shmbpf.shm.namespace import Namespace

    with Namespace(namespace_name, role="test") as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_in_shm():
    """The last word of a test process: none of its namespaces exists any more."""
    yield
    assert_nothing_left(_PREFIX)
