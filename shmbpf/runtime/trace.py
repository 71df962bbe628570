"""Lines of trace_printk, from the CPUs of a runtime to everybody who follows them.

    workers --pipe--> TraceHub (in the supervisor) --+--> its own last lines (`shmbpf run --trace`)
                                                     +--> <namespace>.run/trace.sock: any number of TraceFollowers

Each follower gets every line from when it attached; on Linux readers of one trace_pipe take the lines from each other. Nobody is waited for: a follower whose socket is
full loses lines and is told how many, in the words of the kernel's trace_pipe (`CPU:2 [LOST 17 EVENTS]`, kernel/trace/trace.c, print_trace_line()). A message
on the socket is one or more whole lines.
"""

from __future__ import annotations

import os
import re
import select
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from shmbpf.engine.trace import LOGGER, lost_line
from shmbpf.runtime.control import _CREDENTIALS

MAX_FOLLOWERS = 64
_KEPT_BYTES = 1 << 20
_MESSAGE_BYTES = 1 << 15
_CPU = re.compile(rb"\[(\d{3,})\]")


class TraceHub:
    """Hands on what the CPUs write into `pipe_fd`. `lost` gives the lines lost before that, by CPU, ever. Runs in the selector of the supervisor."""

    def __init__(self, directory: Path, selector: selectors.BaseSelector, pipe_fd: int, lost: Callable[[], Counter[int]]):
        self._selector, self._pipe_fd, self._lost = selector, pipe_fd, lost
        self._told: Counter[int] = Counter()
        self._half = b""
        self._kept = bytearray()
        self._followers: dict[socket.socket, Counter[int]] = {}  #: lines that a follower has lost and was not told of
        self.path = directory / "trace.sock"
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(self.path))
        self._socket.listen(16)
        self._socket.setblocking(False)
        selector.register(self._socket, selectors.EVENT_READ, lambda _listener: self._accept_all())
        selector.register(pipe_fd, selectors.EVENT_READ, lambda _fd: self.pump())

    def _accept_all(self) -> None:
        while True:
            try:
                follower, _ = self._socket.accept()
            except OSError:
                return
            self._admit(follower)

    def _admit(self, follower: socket.socket) -> None:
        _, uid, _ = _CREDENTIALS.unpack(follower.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.getuid() or len(self._followers) >= MAX_FOLLOWERS:
            follower.close()
            return
        follower.setblocking(False)
        self._followers[follower] = Counter()
        self._selector.register(follower, selectors.EVENT_READ, self._drop)  # it has nothing to say: readable means gone

    def _drop(self, follower: socket.socket) -> None:
        if self._followers.pop(follower, None) is not None:
            self._selector.unregister(follower)
            follower.close()

    def pump(self) -> None:
        """Moves lines from the pipe to the followers. Whoever has connected by now gets them too, though nobody has accepted him yet."""
        self._accept_all()
        while data := self._read_lines():
            for at in _message_ends(data):
                self._broadcast(data[at])
        for cpu, count in (self._lost() - self._told).items():
            self._told[cpu] += count
            self._broadcast(lost_line(cpu, count))
        for follower, untold in list(self._followers.items()):
            if untold:
                self._send(follower, untold, b"")

    def _read_lines(self) -> bytes:
        try:
            data = self._half + os.read(self._pipe_fd, 1 << 16)
        except BlockingIOError:
            return b""
        end = data.rfind(b"\n") + 1
        self._half = data[end:]
        return data[:end]

    def _broadcast(self, lines: bytes) -> None:
        self._kept += lines
        if len(self._kept) > _KEPT_BYTES:
            del self._kept[: self._kept.index(b"\n", len(self._kept) - _KEPT_BYTES) + 1]
        for follower, untold in list(self._followers.items()):
            self._send(follower, untold, lines)

    def _send(self, follower: socket.socket, untold: Counter[int], lines: bytes) -> None:
        notes = b"".join(lost_line(cpu, count) for cpu, count in sorted(untold.items()))
        try:
            follower.send(notes + lines)
            untold.clear()
        except BlockingIOError:
            for line in lines.split(b"\n")[:-1]:
                found = _CPU.search(line)
                untold[int(found.group(1)) if found else 0] += 1
        except OSError:
            self._drop(follower)

    def take_kept(self) -> bytes:
        """Lines that have come since the last call (the last MiB of them): for the process that runs the hub."""
        self.pump()
        kept, self._kept = bytes(self._kept), bytearray()
        return kept

    def close(self) -> None:
        """Hands on what is left and lets the followers go; the pipe stays its maker's."""
        self.pump()
        for follower in list(self._followers):
            self._drop(follower)
        for fileobj in (self._socket, self._pipe_fd):
            self._selector.unregister(fileobj)
        self._socket.close()
        self.path.unlink(missing_ok=True)


def _message_ends(data: bytes):
    """Slices of whole lines, each of at most _MESSAGE_BYTES (a line is shorter than 2,048 bytes)."""
    start = 0
    while start < len(data):
        end = len(data) if len(data) - start <= _MESSAGE_BYTES else data.rindex(b"\n", start, start + _MESSAGE_BYTES) + 1
        yield slice(start, end)
        start = end


class TraceFollower:
    """The trace of the runtime whose directory this is, from now on. Raises FileNotFoundError or ConnectionError when no runtime is up."""

    def __init__(self, directory: Path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(str(directory / "trace.sock"))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For poll(): readable when there are lines, or the runtime has ended."""
        return self._socket.fileno()

    def read(self, timeout: float | None = None) -> list[str] | None:
        """Lines, without their newlines; [] when none came in time (None: waits for ever), None when the runtime has ended."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            return []
        try:
            data = self._socket.recv(1 << 18)
        except ConnectionError:
            data = b""
        return data.decode(errors="replace").split("\n")[:-1] if data else None

    def stop(self) -> None:
        """Ends following: whoever waits in read() gets None."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def close(self) -> None:
        """Lets go of it. Idempotent."""
        self._socket.close()


class TraceThread:
    """Gives a runtime's lines to the logger `shmbpf.trace` until the runtime ends."""

    def __init__(self, directory: Path, patience: float = 5.0):
        self._follower = _connect(directory, patience)
        self._thread = threading.Thread(target=self._follow, name="shmbpf-trace", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while (lines := self._follower.read()) is not None:
            for line in lines:
                LOGGER.info("%s", line)

    @property
    def is_alive(self) -> bool:
        """False once the runtime has ended."""
        return self._thread.is_alive()

    def join(self, timeout: float = 5.0) -> None:
        """After the runtime was told to end: returns when its last line is logged."""
        self._thread.join(timeout)
        self.close()

    def close(self) -> None:
        """Stops logging. Idempotent."""
        self._follower.stop()
        self._thread.join(1.0)
        self._follower.close()


def _connect(directory: Path, patience: float) -> TraceFollower:
    deadline = time.monotonic() + patience
    while True:
        try:
            return TraceFollower(directory)
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)
