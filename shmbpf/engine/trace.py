"""Lines of trace_printk of programs that run in this process: they go to the logger `shmbpf.trace`, one record each, in the format of the kernel's trace_pipe."""

from __future__ import annotations

import fcntl
import logging
import os

from shmbpf._ffi import ffi, lib

LOGGER = logging.getLogger("shmbpf.trace")
_PIPE_BYTES = 1 << 20


def trace_pipe() -> tuple[int, int]:
    """Read and write end of a pipe for lines, neither of which ever blocks; larger than usual where that is allowed."""
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass  # more than this user may have: it stays as it is
    return ends


def lost_line(cpu: int, count: int) -> bytes:
    """How the kernel's trace_pipe tells of lines that were overwritten (Linux v6.12 kernel/trace/trace.c, print_trace_line())."""
    return b"CPU:%d [LOST %d EVENTS]\n" % (cpu, count)


class LocalTrace:
    """The lines of one `struct vm_cpu` of this process, until close(), which comes after the last run."""

    def __init__(self, cpu, number: int):
        self._number = number
        self._told = 0
        self._read_fd, self._write_fd = trace_pipe()
        self._state = ffi.new("struct net_trace *")
        self._state.fd, self._state.pid = self._write_fd, os.getpid()
        lib.net_trace_follow(cpu, self._state)

    def log(self) -> None:
        """Logs what has been printed since the last call: after each run."""
        if not self._state.lines:
            return
        data = bytearray()
        try:
            while part := os.read(self._read_fd, 1 << 16):
                data += part
        except BlockingIOError:
            pass
        if self._state.lost != self._told:
            data += lost_line(self._number, self._state.lost - self._told)
            self._told = self._state.lost
        for line in data.decode(errors="replace").split("\n")[:-1]:
            LOGGER.info("%s", line)

    def close(self) -> None:
        """Closes the pipe."""
        os.close(self._read_fd)
        os.close(self._write_fd)
