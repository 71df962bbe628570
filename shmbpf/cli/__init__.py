"""The command line. This file is all that `shmbpf --help` loads: command modules are imported when they are called.

Errors end here and nowhere else: a ShmbpfError is one line on stderr (with -j only `{"error": ...}` on stdout, as with bpftool) and exit 1, wrong usage exit 2, an
interrupt 130, SIGTERM 143, SIGHUP 129, SIGQUIT 131. There is a traceback only with --debug.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import NoReturn

import click

from shmbpf import __version__
from shmbpf.cli.groups import PrefixGroup, Settings


def _show_version(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    click.echo(f"shmbpf {__version__}")
    context.exit()


@click.group(
    cls=PrefixGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="""\b
Examples:
  shmbpf run prog.o --cpus 4 --pcap web.pcap      run an object over a capture
  shmbpf map show                                 the maps of the namespace
  shmbpf map dump name flows                      everything in one
  shmbpf map get flows 10.0.0.1                   one value, for a script
  shmbpf events                                   what programs send, as it comes
  shmbpf -j prog show | jq '.[].name'             the same documents as bpftool's
  shmbpf --ns lab ns show                         another namespace

Words may be shortened: `shmbpf m s` is `shmbpf map show`.
""",
)
@click.option("--ns", "ns", metavar="NAME", help="Namespace to work in (or $SHMBPF_NS).  [default: default]")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-p", "--pretty", is_flag=True, help="Print indented JSON.")
@click.option("-f", "--bpffs", "bpffs", is_flag=True, help="Show where maps and programs are pinned.")
@click.option("-q", "--quiet", is_flag=True, help="Print no notes.")
@click.option("-v", "--verbose", is_flag=True, help="Print more notes.")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.option("-V", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Print the version.")
@click.pass_context
def cli(context: click.Context, ns: str | None, as_json: bool, pretty: bool, bpffs: bool, quiet: bool, verbose: bool, debug: bool) -> None:
    """Linux eBPF as ordinary processes: unmodified objects, maps in shared memory, one process per CPU."""
    if ns == "":
        raise click.ClickException("namespace '': expected 1 to 64 letters, digits, '_' or '-' (without --ns it is $SHMBPF_NS, or 'default')")
    context.obj = Settings(
        ns=ns or os.environ.get("SHMBPF_NS") or "default", ns_given=ns is not None, json=as_json or pretty, pretty=pretty, quiet=quiet, verbose=verbose, debug=debug,
        bpffs=bpffs,
    )  # fmt: skip


# The order decides which command a prefix means.
cli.announce("run", "shmbpf.cli.run:run", "Run an object over packets, on N CPUs.")
cli.announce("inject", "shmbpf.cli.inject:inject", "Feed packets into a running instance.")
cli.announce("map", "shmbpf.cli.map:map_group", "Show and change maps.")
cli.announce("prog", "shmbpf.cli.prog:prog_group", "Show, load and test programs.")
cli.announce("events", "shmbpf.cli.events:events", "Follow what programs send: perf event arrays and ring buffers.")
cli.announce("pin", "shmbpf.cli.pins:pin", "Pin a map or a program: it then outlives every process.")
cli.announce("unpin", "shmbpf.cli.pins:unpin", "Remove pins.")
cli.announce("ls", "shmbpf.cli.pins:ls", "List the pins.")
cli.announce("ns", "shmbpf.cli.ns:ns_group", "Show, check and clean namespaces.")
cli.announce("feature", "shmbpf.cli.feature:feature", "List the program types, map types and helpers that exist here.")
cli.announce("bench", "shmbpf.cli.bench:bench", "Measure this machine.")


_FLAG = re.compile(r"-[jpqvf]+|--(json|pretty|quiet|verbose|debug|bpffs)|--ns=.*")


def hoist_options(words: list[str]) -> list[str]:
    """Global options may stand anywhere before `--`, as with bpftool: `shmbpf map show -j`."""
    end = words.index("--") if "--" in words else len(words)
    front, rest, at = [], [], 0
    while at < end:
        if words[at] == "--ns" and at + 1 < end:
            front += words[at:at + 2]
            at += 1
        else:
            (front if _FLAG.fullmatch(words[at]) else rest).append(words[at])
        at += 1
    return front + rest + words[end:]


def take_signals(handler: Callable[[int, object], object], numbers: Iterable[int]) -> None:
    """Has `handler` called for these signals: whatever ends a command, it clears up first. What is ignored (nohup) stays ignored."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a command line and exits with its code."""
    words = hoist_options(list(sys.argv[1:] if arguments is None else arguments))
    if threading.current_thread() is threading.main_thread():
        take_signals(lambda number, _frame: sys.exit(128 + number), (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
    try:
        code = _invoke(words)
        sys.stdout.flush()
    except BrokenPipeError:  # `shmbpf map dump ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 128 + signal.SIGPIPE
    except (KeyboardInterrupt, click.Abort):
        code = 128 + signal.SIGINT
    except Exception as error:  # the one place where every error becomes a line and a code
        if "--debug" in words:
            raise
        code = report(error, words)
    sys.exit(code)


def _invoke(words: list[str]) -> int:
    """Runs the command; errors are the caller's. (click's own main() would turn a closed pipe into exit 1.)"""
    if "_SHMBPF_COMPLETE" in os.environ:
        cli.main(args=list(words), prog_name="shmbpf")  # a shell asks for completions: prints them and exits
    try:
        with cli.make_context("shmbpf", list(words)) as context:
            cli.invoke(context)
    except click.exceptions.Exit as error:
        return error.exit_code
    return 0


def report(error: Exception, words: list[str]) -> int:
    """Says what went wrong; returns the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2
    if _wants_json(words):
        from shmbpf.cli.render import to_json

        text = error.format_message() if isinstance(error, click.ClickException) else _line_of(error)
        click.echo(to_json({"error": text}, any(word in ("-p", "--pretty") for word in words)))
    elif isinstance(error, click.UsageError):
        error.show()
    else:
        click.echo(f"Error: {_line_of(error)}", err=True)
    return getattr(error, "exit_code", 1) if isinstance(error, click.ClickException) else 1


def _wants_json(words: list[str]) -> bool:
    return any(word in ("-j", "--json", "-p", "--pretty") or (word[:1] == "-" and word[1:].isalpha() and set("jp") & set(word[1:])) for word in words)


def _line_of(error: Exception) -> str:
    from shmbpf.errors import ShmbpfError

    if isinstance(error, (ShmbpfError, click.ClickException)):
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    elif isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    elif isinstance(error, MemoryError):
        text = f"out of memory{': ' + str(error) if str(error) else ''}"
    else:
        text = f"{type(error).__name__}: {error} (this is a bug of shmbpf; --debug shows where)"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or type(error).__name__


__all__ = ["Settings", "cli", "main"]
