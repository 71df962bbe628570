"""The descriptor that polls readable when events have come: a named pipe beside the segment, written to only when somebody said that they sleep.

    while not ring.arm():          # "I am going to sleep": True when something is there already
        select([ring], ...)        # poll, epoll, asyncio's add_reader
    ring.read()

cbits/rings/wake.c has the protocol.
"""

from __future__ import annotations

import os
import stat

from shmbpf._ffi import lib
from shmbpf.errors import SegmentError
from shmbpf.shm.garbage import wake_dir
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import own_directory


class Waiter:
    """The consumer's end for one segment (`kind_word` "ring" or "map", and its id). `wake` is its `struct shm_wake *`. Close it before the segment."""

    def __init__(self, namespace: Namespace, kind_word: str, number: int, wake):
        self._wake = wake
        with namespace.creating():  # no collector takes the directory away in between
            path = own_directory(wake_dir(namespace.prefix)) / f"{kind_word}.{number}"
            try:
                os.mkfifo(path, 0o600)
            except FileExistsError:
                pass
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.getuid():
            os.close(self._fd)
            raise SegmentError(f"{path} is not ours: remove it, or choose another namespace (--ns NAME)")

    def fileno(self) -> int:
        """For poll(): readable after a wake-up, until clear()."""
        return self._fd

    def arm(self) -> None:
        """Tells producers that somebody sleeps. Look for records once more afterwards, and sleep only if there are none."""
        lib.wake_arm(self._wake, lib.WAKE_FD)

    def clear(self) -> None:
        """Takes the wake-up note."""
        try:
            while len(os.read(self._fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Closes the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
