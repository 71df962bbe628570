"""What commands that follow something have in common: they end on a signal, after the last line, and write line by line into a pipe that may close."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals(stop: Callable[[], object], numbers: Sequence[int] = ENDING) -> Iterator[list[int]]:
    """Calls `stop` when one of these signals comes, and gives the list of those that came; afterwards all is as before.

    A hang-up that is ignored stays so (nohup). An interrupt does not: shells ignore it for what they start in the background, where `kill -INT` is still how one ends a
    follower, as with bpftool.
    """
    came: list[int] = []

    def handle(number: int, _frame: object) -> None:
        came.append(number)
        stop()

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
        before = {number: handler for number, handler in before.items() if number != signal.SIGHUP or handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Sink:
    """Standard output or a file, for text and bytes. A closed pipe raises BrokenPipeError, which ends the command quietly."""

    def __init__(self, path: str | None):
        self._file: IO[bytes] | None = open(path, "wb") if path else None  # noqa: SIM115 (closed by close())

    def text(self, text: str) -> None:
        """Writes text, at once."""
        if self._file is not None:
            self._file.write(text.encode(errors="surrogateescape"))
        else:
            sys.stdout.write(text)

    def data(self, data: bytes) -> None:
        """Writes bytes as they are."""
        (self._file or sys.stdout.buffer).write(data)

    def flush(self) -> None:
        """Whoever reads sees everything written so far."""
        (self._file or sys.stdout).flush()

    def close(self) -> None:
        """Closes the file, if it is one."""
        if self._file is not None:
            self._file.close()
