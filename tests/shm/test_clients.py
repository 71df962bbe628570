"""Clients, owner words and lock words: who is alive, who may steal, who waits."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.raw_maps import NO_CPU, RawNamespace

from shmbpf._ffi import ffi, lib

TESTS = Path(__file__).parent.parent
HOLDER = """
import os, sys, time
from support.raw_maps import RawNamespace, ffi, lib, _mapped
ctl, words, cpu, action = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
ns = RawNamespace.join(ctl, cpu)
base, _ = _mapped(words)
word = ffi.cast("uint32_t *", base)
if action == "lock":
    assert lib.shm_lock(ns.me, word) == 0
elif action == "fork":
    assert lib.shm_lock(ns.me, word) == 0
    if os.fork() == 0:
        result = lib.shm_lock(ns.me, word + 1)
        os.write(1, b"%d\\n" % result)
        sys.stdin.read()
        os._exit(0)
    os.kill(os.getpid(), 9)
os.write(1, b"ready\\n")
sys.stdin.read()
"""


class Holder:
    """Another process: a client that holds a lock word (or a CPU) until it is killed."""

    def __init__(self, ns: RawNamespace, words: int, action: str = "lock", cpu: int = NO_CPU):
        path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(ns.fd), str(words), str(cpu), action],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(ns.fd, words), env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        self.first_line = self.process.stdout.readline().strip()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def ns():
    with RawNamespace(4) as namespace:
        yield namespace


@pytest.fixture
def words():
    fd = os.memfd_create("words", os.MFD_CLOEXEC)
    os.truncate(fd, 4096)
    base = ffi.new("uint8_t **")
    assert lib.shm_map_fd(fd, 4096, 1, base) == 0
    yield fd, ffi.cast("uint32_t *", base[0])
    lib.shm_unmap(base[0], 4096)
    os.close(fd)


@pytest.fixture
def hold(ns, words):
    holders = []

    def start(*args, **kwargs):
        holders.append(Holder(ns, words[0], *args, **kwargs))
        return holders[-1]

    yield start
    for holder in holders:
        holder.close()


def test_a_free_lock_is_taken_and_given_back(ns, words):
    word = words[1]
    assert lib.shm_lock(ns.me, word) == 0
    assert word[0] == ns.me.owner
    lib.shm_unlock(ns.me, word)
    assert word[0] == 0


def test_locking_twice_is_a_deadlock(ns, words):
    assert lib.shm_lock(ns.me, words[1]) == 0
    assert lib.shm_lock(ns.me, words[1]) == -errno.EDEADLK


def test_a_live_owner_keeps_its_lock(ns, words, hold):
    holder, word = hold(), words[1]
    ns.me.busy_ns = 30_000_000
    owner = word[0]
    assert lib.shm_trylock(ns.me, word) == -errno.EBUSY
    begin = time.monotonic()
    assert lib.shm_lock(ns.me, word) == -errno.EBUSY
    assert time.monotonic() - begin >= 0.03
    assert word[0] & 0x7FFFFFFF == owner
    assert lib.shm_owner_pid(ns.me, ns.me.blocker) == holder.process.pid


def test_a_stopped_owner_is_not_dead(ns, words, hold):
    holder = hold()
    holder.kill(signal.SIGSTOP)
    ns.me.busy_ns = 10_000_000
    assert lib.shm_lock(ns.me, words[1]) == -errno.EBUSY
    holder.kill(signal.SIGCONT)


def test_the_lock_of_a_dead_owner_is_taken_over(ns, words, hold):
    hold().kill()
    assert lib.shm_lock(ns.me, words[1]) == 1
    assert words[1][0] == ns.me.owner and ns.me.steals == 1 and ns.me.ctl.deaths == 1


def test_a_waiter_takes_over_soon_after_the_death(ns, words, hold):
    holder, result = hold(), []
    ns.me.busy_ns = 10_000_000_000
    waiter = threading.Thread(target=lambda: result.append(lib.shm_lock(ns.me, words[1])))
    waiter.start()
    deadline = time.monotonic() + 10
    while not words[1][0] & 0x80000000 and time.monotonic() < deadline:
        os.sched_yield()
    holder.kill()
    waiter.join(10)
    assert result == [1]


def test_the_next_holder_of_a_slot_is_somebody_else(ns, words, hold):
    """The dead one's slot is taken again: its lock still counts as a dead one's."""
    first = hold()
    owner = words[1][0]
    first.kill()
    with RawNamespace.join(ns.fd) as second:
        assert second.me.slot == (owner >> 20) - 1 and second.me.owner != owner
        assert lib.shm_owner_alive(ns.me, owner) == 0
        assert lib.shm_owner_alive(ns.me, second.me.owner) == 1
        assert lib.shm_lock(ns.me, words[1]) == 1


def test_a_forked_child_neither_locks_nor_keeps_its_parent_alive(ns, words, hold):
    holder = hold("fork")                  # the parent has killed itself; its child lives on
    assert holder.first_line == b"%d" % -errno.ECHILD
    holder.process.wait()
    assert words[1][1] == 0
    assert lib.shm_lock(ns.me, words[1]) == 1


def test_a_cpu_is_leased_once_and_free_after_death(ns, words, hold):
    holder = hold("lease", cpu=2)
    assert lib.shm_cpu_leased(ns.me, 2) == 1 and lib.shm_cpu_leased(ns.me, 1) == 0
    with pytest.raises(OSError) as refused:
        RawNamespace.join(ns.fd, 2)
    assert refused.value.errno == errno.EBUSY
    holder.kill()
    with RawNamespace.join(ns.fd, 2):
        assert lib.shm_cpu_leased(ns.me, 2) == 1


def test_a_cpu_that_is_not_possible_is_refused(ns):
    with pytest.raises(OSError) as refused:
        RawNamespace.join(ns.fd, 4)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize("owner", [0, 1, 0xFFFFF, 0x7FFFFFFF, 0x40000000])
def test_owner_words_nobody_gave_out_are_dead(ns, owner):
    assert lib.shm_owner_alive(ns.me, owner) == 0


def test_a_scribbled_lock_word_is_taken_over(ns, words):
    for garbage in (0x80000000, 0xFFFFFFFF, 0x12345):
        words[1][0] = garbage
        assert lib.shm_lock(ns.me, words[1]) == 1
        lib.shm_unlock(ns.me, words[1])


def test_a_namespace_has_a_limited_number_of_clients(ns):
    joined = []
    try:
        for _ in range(40):
            joined.append(RawNamespace.join(ns.fd))
        assert len({client.me.slot for client in joined} | {ns.me.slot}) == 41
    finally:
        for client in joined:
            client.close()
    with RawNamespace.join(ns.fd) as again:
        assert again.me.slot == 1 and again.me.slots[1].gen == 2
