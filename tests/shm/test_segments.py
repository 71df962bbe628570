"""Heads and names of segments: what is opened, what is refused."""

from __future__ import annotations

import errno
import os
import secrets

import pytest
from support.raw_maps import HASH, RawNamespace

from shmbpf._ffi import ffi, lib


@pytest.fixture
def name():
    """A name of this test's own below /dev/shm."""
    name = f"shmbpf-test.{os.getpid()}.{secrets.token_hex(6)}"
    yield name
    path = f"/dev/shm/{name}"
    if os.path.isdir(path):
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


@pytest.fixture
def published(name):
    """The bytes of a good map segment, not yet under the name."""
    with RawNamespace(2) as ns, ns.create(HASH, 4, 8, 4) as m:
        return bytes(m.memory())


def put(name: str, data: bytes, mode: int = 0o600) -> None:
    fd = os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    os.write(fd, data)
    os.fchmod(fd, mode)
    os.close(fd)


def open_segment(name: str, kind: int = lib.SHM_KIND_MAP) -> int:
    base, size = ffi.new("uint8_t **"), ffi.new("uint64_t *")
    fd = lib.shm_open_segment(name.encode(), kind, base, size)
    if fd >= 0:
        lib.shm_unmap(base[0], size[0])
        os.close(fd)
        return 0
    return -fd


def test_a_published_segment_is_opened(name, published):
    put(name, published)
    assert open_segment(name) == 0
    assert open_segment("/" + name) == 0


def test_another_kind_is_refused(name, published):
    put(name, published)
    assert open_segment(name, lib.SHM_KIND_PROG) == errno.EINVAL


def test_missing_and_strange_names_are_refused(name):
    assert open_segment(name) == errno.ENOENT
    assert open_segment(f"x/../{name}") == errno.EINVAL
    assert open_segment("x" * 300) == errno.EINVAL


def test_a_segment_in_the_making_is_not_opened(name, published):
    head = len(published) - 4096
    put(name, published[:head] + bytes(8) + published[head + 8 :])
    assert open_segment(name) == errno.EAGAIN


def test_another_layout_is_refused(name, published):
    head = len(published) - 4096 + 8
    put(name, published[:head] + bytes([published[head] ^ 1]) + published[head + 1 :])
    assert open_segment(name) == errno.EPROTO


@pytest.mark.parametrize("size", [0, 100, 4095, 4097])
def test_files_of_odd_sizes_are_refused(name, published, size):
    put(name, published[:size])
    assert open_segment(name) == errno.EINVAL


def test_a_truncated_or_grown_segment_is_refused(name, published):
    put(name, published[4096:])
    assert open_segment(name) == errno.EINVAL


def test_files_others_could_read_are_refused(name, published):
    put(name, published, 0o644)
    assert open_segment(name) == errno.EPERM


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_is_no_regular_file_is_refused(name, published, kind):
    path = f"/dev/shm/{name}"
    {"symlink": lambda: os.symlink("/dev/zero", path), "directory": lambda: os.mkdir(path), "fifo": lambda: os.mkfifo(path, 0o600)}[kind]()
    assert open_segment(name) in (errno.ELOOP, errno.EISDIR, errno.EINVAL)


@pytest.mark.parametrize("offset", range(0, 384, 4))
def test_scribbled_control_blocks_are_refused_or_work(published, offset):
    """Every word of head and attributes, with values that hurt: attaching refuses or gives a map that works and stays inside its memory."""
    with RawNamespace(2) as ns:
        for word in (0, 1, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            at = len(published) - 4096 + offset
            memory = ffi.new("uint8_t[]", len(published) + 4096)
            start = (-int(ffi.cast("uintptr_t", memory))) % 4096
            base = memory + start
            ffi.memmove(base, published[:at] + word.to_bytes(4, "little") + published[at + 4 :], len(published))
            handle = ffi.new("struct map *")
            if lib.map_attach(handle, base, len(published)) != 0:
                continue
            key, value = ffi.new("uint8_t[64]"), ffi.new("uint8_t[256]")
            lib.map_update_elem(handle, ns.me, key, value, 0)
            lib.map_lookup_elem(handle, ns.me, key, value, 0)
            lib.map_delete_elem(handle, ns.me, key)
