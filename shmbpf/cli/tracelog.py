"""`shmbpf prog tracelog`: follows trace_printk of the namespace's runtime (bpftool's command: Linux v6.1 tools/bpf/bpftool/tracelog.c)."""

from __future__ import annotations

import os
import select

import click

from shmbpf.cli.followers import Sink, ended_by_signals
from shmbpf.cli.groups import Settings, WordCommand, words_argument
from shmbpf.cli.render import to_json
from shmbpf.cli.words import Words
from shmbpf.runtime.trace import TraceFollower
from shmbpf.shm.namespace import Namespace

_RETRY_S = 0.1


@click.command("tracelog", cls=WordCommand, epilog="""\b
Examples:
  shmbpf prog tracelog                       what the programs of this namespace print
  shmbpf -j prog tracelog | jq -r '.[]'      ... as a JSON array of lines
""")
@words_argument("")
@click.pass_obj
def tracelog(settings: Settings, words: tuple[str, ...]) -> None:
    """Print the lines of bpf_trace_printk as they come, in the format of the kernel's trace_pipe, until Ctrl-C.

    Any number of these may run: each gets every line from when it was started. One that is too slow is told how many lines it has lost. It waits for a
    runtime if none is up, and for the next one when that ends. Lines of `prog run` without a runtime appear there, on stderr.
    """
    Words(words).finish()
    stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with Namespace(settings.ns, role="tracelog") as namespace, ended_by_signals(lambda: os.eventfd_write(stop_fd, 1)):
            printer = _Printer(settings)
            while not _is_readable(stop_fd, 0):
                try:
                    follower = TraceFollower(namespace.run_dir)
                except OSError:  # no runtime, or one that is just starting or ending
                    printer.say_waiting(namespace.name)
                    _is_readable(stop_fd, _RETRY_S)
                    continue
                _follow(follower, stop_fd, printer)
            printer.finish()
    finally:
        os.close(stop_fd)


def _follow(follower: TraceFollower, stop_fd: int, printer: _Printer) -> None:
    """Until the runtime or the user ends it."""
    poll = select.poll()
    poll.register(follower, select.POLLIN)
    poll.register(stop_fd, select.POLLIN)
    try:
        while stop_fd not in dict(poll.poll()):
            lines = follower.read(0)
            if lines is None:
                return
            printer.print(lines)
    finally:
        follower.close()


def _is_readable(fd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class _Printer:
    """Lines as they are, or as one JSON array of strings, as bpftool has it."""

    def __init__(self, settings: Settings):
        self._settings, self._sink, self._any, self._waits = settings, Sink(None), False, False
        if settings.json:
            self._sink.text("[")
            self._sink.flush()

    def print(self, lines: list[str]) -> None:
        self._waits = True  # when this runtime ends, the next one need not be announced
        for line in lines:
            self._sink.text(("," if self._any else "") + to_json(line + "\n", False) if self._settings.json else line + "\n")
            self._any = True
        self._sink.flush()

    def say_waiting(self, name: str) -> None:
        if not self._waits and not self._settings.quiet:
            click.echo(f"no runtime is up in namespace {name!r}: waiting for one (Ctrl-C ends)", err=True)
        self._waits = True

    def finish(self) -> None:
        if self._settings.json:
            self._sink.text("\n]\n" if self._settings.pretty and self._any else "]\n")
