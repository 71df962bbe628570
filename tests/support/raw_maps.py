"""Maps as C makes them, on anonymous memory: the map code without names, segments in /dev/shm, or the Python API.

    with RawNamespace(cpus=4) as ns, ns.create(HASH, 4, 8, 100) as m:
        m.update(key, value)

A RawMap has the methods of `support.kernel.KernelMap` and refuses with the same OSError, so one test drives both. Another process joins through the two
file descriptors (`RawNamespace.join`, `RawMap.open`), as a CPU or a command would.
"""

from __future__ import annotations

import errno
import os
from typing import Iterator

from shmbpf._ffi import ffi, lib

NO_CPU = lib.SHM_NO_CPU
NO_SPIN_LOCK = lib.MAP_NO_SPIN_LOCK
HASH, ARRAY, PROG_ARRAY, PERCPU_HASH, PERCPU_ARRAY = 1, 2, 3, 5, 6
NOEXIST, EXIST, F_LOCK = 1, 2, 4


def check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _memory(bytes_: int) -> int:
    """A file of `bytes_` zeros that has all its pages: a later store can't fail."""
    fd = os.memfd_create("shmbpf-test", os.MFD_CLOEXEC)
    os.posix_fallocate(fd, 0, bytes_)
    return fd


def _mapped(fd: int) -> tuple[object, int]:
    base, size = ffi.new("uint8_t **"), os.fstat(fd).st_size
    check(lib.shm_map_fd(fd, size, 1, base))
    return base[0], size


class RawNamespace:
    """A control segment and this process's client in it."""

    def __init__(self, cpus: int = 4, cpu: int = NO_CPU, fd: int | None = None):
        self.fd = _memory(lib.shm_ctl_bytes()) if fd is None else fd
        base, size = _mapped(self.fd)
        ctl = lib.shm_ctl_of(base, size)
        if fd is None:
            lib.shm_ctl_init(base, size)
            ctl.possible_cpus = cpus
            lib.shm_publish(ffi.addressof(ctl.head))
        self.cpus = ctl.possible_cpus
        lib.shm_unmap(base, size)
        self.me = ffi.new("struct shm_client *")
        check(lib.shm_client_attach(self.me, self.fd, size, cpu, b"test"))
        self._owned = fd is None

    @classmethod
    def join(cls, fd: int, cpu: int = NO_CPU) -> RawNamespace:
        """A further client of the namespace whose control segment is `fd`."""
        return cls(fd=fd, cpu=cpu)

    def create(self, type: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, *, spin_lock_off: int = NO_SPIN_LOCK) -> RawMap:
        attr = ffi.new("struct map_attr *", dict(type=type, key_size=key_size, value_size=value_size, max_entries=max_entries, flags=flags,
                                                ncpu=self.cpus, spin_lock_off=spin_lock_off))  # fmt: skip
        layout = ffi.new("struct map_layout *")
        check(lib.map_plan(attr, layout))
        fd = _memory(layout.total)
        base, size = _mapped(fd)
        check(lib.map_format(base, attr, 1, ffi.NULL))
        lib.shm_unmap(base, size)
        return RawMap(self, fd)

    def close(self) -> None:
        lib.shm_client_detach(self.me)
        if self._owned:
            os.close(self.fd)

    def __enter__(self) -> RawNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawMap:
    """A map's segment and this process's handle of it. The file descriptor is the map's own."""

    def __init__(self, namespace: RawNamespace, fd: int):
        self.fd, self.me = fd, namespace.me
        self._base, self._size = _mapped(fd)
        self.handle = ffi.new("struct map *")
        check(lib.map_attach(self.handle, self._base, self._size))
        self.ops, self.ctl = self.handle.ops, self.handle.ctl
        self.key_size, self.value_bytes = self.handle.key_size, lib.map_value_bytes(self.handle)

    def memory(self) -> ffi.buffer:
        """The whole segment."""
        return ffi.buffer(self._base, self._size)

    def lookup(self, key: bytes, flags: int = 0) -> bytes:
        value = ffi.new("uint8_t[]", self.value_bytes)
        check(lib.map_lookup_elem(self.handle, self.me, ffi.from_buffer(key), value, flags))
        return bytes(value)

    def lookup_and_delete(self, key: bytes, flags: int = 0) -> bytes:
        value = ffi.new("uint8_t[]", self.value_bytes)
        check(lib.map_lookup_and_delete_elem(self.handle, self.me, ffi.from_buffer(key), value, flags))
        return bytes(value)

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        check(lib.map_update_elem(self.handle, self.me, ffi.from_buffer(key), ffi.from_buffer(value), flags))

    def delete(self, key: bytes) -> None:
        check(lib.map_delete_elem(self.handle, self.me, ffi.from_buffer(key)))

    def next_key(self, key: bytes | None) -> bytes:
        following = ffi.new("uint8_t[]", self.key_size)
        check(lib.map_get_next_key(self.handle, self.me, ffi.NULL if key is None else ffi.from_buffer(key), following))
        return bytes(following)

    def keys(self) -> Iterator[bytes]:
        key = None
        while True:
            try:
                key = self.next_key(key)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            yield key

    def contents(self) -> dict[bytes, bytes]:
        found = {}
        for key in self.keys():
            try:
                found[key] = self.lookup(key)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        return found

    def freeze(self) -> None:
        check(lib.map_freeze(self.handle, self.me))

    def add(self, key: bytes, delta: int, *, cpu: int = 0, offset: int = 0, width: int = 8) -> int:
        result = ffi.new("uint64_t *")
        check(lib.map_add_value(self.handle, self.me, ffi.from_buffer(key), cpu, offset, width, delta % 2**64, result))
        return result[0]

    def lookup_batch(self, count: int, position: int | None = None, *, delete: bool = False, elem_flags: int = 0) -> tuple[int, list[tuple[bytes, bytes]], int]:
        """Returns (errno or 0, elements delivered, position for the next call)."""
        keys, values = ffi.new("uint8_t[]", max(count * self.key_size, 1)), ffi.new("uint8_t[]", max(count * self.value_bytes, 1))
        at, done = ffi.new("uint64_t *", position or 0), ffi.new("uint32_t *", count)
        number = -lib.map_lookup_batch(self.handle, self.me, position is None, at, keys, values, done, elem_flags, delete)
        got = done[0] if number in (0, errno.ENOENT, errno.ENOSPC) else 0
        k, v = bytes(keys), bytes(values)
        return number, [(k[i * self.key_size : (i + 1) * self.key_size], v[i * self.value_bytes : (i + 1) * self.value_bytes]) for i in range(got)], at[0]

    def update_batch(self, elements: list[tuple[bytes, bytes]], *, elem_flags: int = 0, count: int | None = None) -> tuple[int, int]:
        """Returns (errno or 0, count as C left it). `count`: the elements are that many, joined already."""
        count = ffi.new("uint32_t *", len(elements) if count is None else count)
        keys, values = b"".join(k for k, _ in elements), b"".join(v for _, v in elements)
        number = lib.map_update_batch(self.handle, self.me, ffi.from_buffer(keys), ffi.from_buffer(values), count, elem_flags)
        return -number, count[0]

    def delete_batch(self, keys: list[bytes], *, count: int | None = None) -> tuple[int, int]:
        """Returns (errno or 0, count as C left it). `count`: the keys are that many, joined already."""
        count = ffi.new("uint32_t *", len(keys) if count is None else count)
        number = lib.map_delete_batch(self.handle, self.me, ffi.from_buffer(b"".join(keys)), count)
        return -number, count[0]

    # what programs do: errors are returned, not raised

    def program_update(self, key: bytes, value: bytes, flags: int = 0) -> int:
        return self.ops.update(self.handle, self.me, ffi.from_buffer(key), ffi.from_buffer(value), flags)

    def program_lookup(self, key: bytes) -> ffi.buffer | None:
        value = self.ops.lookup(self.handle, self.me, ffi.from_buffer(key))
        return None if value == ffi.NULL else ffi.buffer(value, self.handle.value_size)

    def check(self) -> None:
        """Fails the test when the structure is not sound."""
        why = ffi.new("char[]", 200)
        result = lib.map_check(self.handle, self.me, why, 200)
        assert result == 0, ffi.string(why).decode()

    def recover(self) -> int:
        return check(lib.map_recover(self.handle, self.me))

    def close(self) -> None:
        lib.map_detach(self.handle)
        lib.shm_unmap(self._base, self._size)
        os.close(self.fd)

    def __enter__(self) -> RawMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
