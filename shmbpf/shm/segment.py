"""Segments: named POSIX shared-memory objects, mapped, and kept alive by a shared flock (docs/shm-layout.md).

    create:  shm_open(O_CREX, 0600) -> flock(LOCK_SH) -> posix_fallocate (a full /dev/shm is an error now, not a SIGBUS later) -> map -> fill -> publish
    open:    open(O_NOFOLLOW) -> flock(LOCK_SH) -> still linked? ours? -> map -> check the head

The kernel drops the lock with the last descriptor or mapping of the description, SIGKILL included; a segment whose lock nobody holds and which has no other
name is garbage. Who creates must hold the namespace's create lock, so that a segment is never collected before its first flock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import posix_ipc

from shmbpf._ffi import ffi, lib
from shmbpf.errors import SegmentError, SpaceError

SHM_DIR = Path("/dev/shm")
_ADVICE = "free some (shmbpf ns gc), choose smaller sizes, or enlarge it (docker run --shm-size, mount -o remount,size=)"


class Segment:
    """A mapped segment. `base` is its first byte (`uint8_t *`), `bytes` its size; the mapping and the flock last until `close()`."""

    def __init__(self, name: str, fd: int, base, size: int):
        self.name = name
        self.fd = fd
        self.base = base
        self.bytes = size

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """A new zeroed, unpublished segment of `size` bytes. Raises SpaceError when /dev/shm (or memory) has no room for it."""
        require_space(size, name)
        try:
            shared = posix_ipc.SharedMemory("/" + name, posix_ipc.O_CREX, mode=0o600)
        except (posix_ipc.PermissionsError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise _no_permission(name) from None
        try:
            fcntl.flock(shared.fd, fcntl.LOCK_SH)
            _allocate(shared.fd, size, name)
            return cls(name, shared.fd, _map(shared.fd, size, name), size)
        except BaseException:
            os.close(shared.fd)
            unlink(name)
            raise

    @classmethod
    def open(cls, name: str, kind: int) -> Segment:
        """An existing, published segment. Raises FileNotFoundError when there is none, SegmentError when it is foreign, damaged or of another build."""
        base, size = ffi.new("uint8_t **"), ffi.new("uint64_t *")
        fd = lib.shm_open_segment(name.encode(), kind, base, size)
        if fd >= 0:
            return cls(name, fd, base[0], size[0])
        raise _open_error(name, -fd)

    def unlink(self) -> None:
        """Removes the name; whoever has the segment open keeps it."""
        unlink(self.name)

    def close(self) -> None:
        """Unmaps and drops the lock. Idempotent."""
        if self.fd < 0:
            return
        lib.shm_unmap(self.base, self.bytes)
        os.close(self.fd)
        self.fd, self.base = -1, ffi.NULL

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def _no_permission(name: str) -> SegmentError:
    return SegmentError(f"{SHM_DIR} ({_owner_of(SHM_DIR)}) does not let uid {os.geteuid()} create {name}: have its owner allow it (chmod 1777 {SHM_DIR}), "
                        "or run where it is writable")  # fmt: skip


def unlink(name: str) -> None:
    """Removes a segment's name, if it is there."""
    try:
        os.unlink(SHM_DIR / name)
    except FileNotFoundError:
        pass


def own_directory(path: Path) -> Path:
    """A directory of ours below /dev/shm, made (0700) if missing. SegmentError when somebody else's thing is in its place."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SegmentError(f"{path} is not ours ({_owner_of(path)}): choose another namespace (--ns NAME), or have its owner remove it")
    return path


def require_space(size: int, what: str) -> None:
    """Raises SpaceError, with the bytes needed and free, when `size` bytes cannot be had in /dev/shm."""
    free = min(_free_bytes(), _available_memory())
    if size > free:
        raise SpaceError(f"/dev/shm: {what} needs {size} bytes, {free} are free: {_ADVICE}")


def _free_bytes() -> int:
    state = os.statvfs(SHM_DIR)
    return state.f_bavail * state.f_frsize


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _allocate(fd: int, size: int, name: str) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
            raise
        raise SpaceError(f"/dev/shm: {name} needs {size} bytes, {_free_bytes()} are free: {_ADVICE}") from error


def _map(fd: int, size: int, name: str):
    base = ffi.new("uint8_t **")
    err = lib.shm_map_fd(fd, size, 1, base)
    if err:
        raise SegmentError(f"{name}: mapping {size} bytes failed: {os.strerror(-err)}")
    return base[0]


def _open_error(name: str, number: int) -> Exception:
    path = SHM_DIR / name
    if number in (errno.ENOENT, errno.EAGAIN):  # EAGAIN: being made, or its maker died before it was published
        return FileNotFoundError(number, f"{name}: no such object")
    if number == errno.EPROTO:
        return SegmentError(f"{path} was made by another build of shmbpf (this one's layout is {lib.shm_abi_fingerprint():016x}): use that build, or remove it")
    if number in (errno.EACCES, errno.EPERM, errno.ELOOP):
        return SegmentError(f"{path} is not ours ({_owner_of(path)}): choose another namespace (--ns NAME), or have its owner remove it")
    return SegmentError(f"{path} is damaged ({os.strerror(number)}): remove it")


def _owner_of(path: Path) -> str:
    try:
        return f"owner uid {path.lstat().st_uid}, mode {path.lstat().st_mode & 0o7777:04o}"
    except OSError as error:
        return str(error.strerror)
