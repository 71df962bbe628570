"""`shmbpf prog load|loadall` and `shmbpf prog run`: bpftool's words."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from shmbpf._ffi import ffi
from shmbpf.cli.render import emit
from shmbpf.cli.run import PROGRAM_TYPES
from shmbpf.cli.selector import open_namespace, take_program
from shmbpf.cli.words import Words
from shmbpf.elf import load_object
from shmbpf.engine.loaded import LoadedObject, load_spec
from shmbpf.engine.local import RunResult
from shmbpf.engine.trace import LOGGER
from shmbpf.errors import ShmbpfError
from shmbpf.maps.pin import pin_maps, pin_name
from shmbpf.runtime.remote import run_anywhere
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import PinTree
from shmbpf.uapi import ProgType

_USAGE_RUN = "prog run PROG data_in FILE [data_out FILE] [ctx_in FILE] [ctx_out FILE] [repeat N] [cpu N]"
_RUN_WORDS = ("data_in", "data_out", "ctx_in", "ctx_out", "repeat", "cpu")


def load(settings, words: list[str], *, everything: bool) -> None:
    """Body of `prog load OBJ PATH [type T] [pinmaps DIR]` (pins the first program at PATH) and `loadall` (each by name in directory PATH)."""
    if len(words) < 2:
        raise click.UsageError(f"prog {'loadall' if everything else 'load'} OBJ PATH [type TYPE] [pinmaps DIR]")
    options = _pairs(words[2:], ("type", "pinmaps"), "prog load OBJ PATH [type TYPE] [pinmaps DIR]")
    kind = options.get("type")
    if kind is not None and kind not in PROGRAM_TYPES:
        raise ShmbpfError(f"program type {kind!r}: expected one of {', '.join(sorted(PROGRAM_TYPES))}")
    spec = load_object(words[0])
    with Namespace(settings.ns, role="prog load") as namespace, load_spec(namespace, spec, program_type=PROGRAM_TYPES.get(kind) if kind else None) as loaded:
        _pin(namespace, loaded, words[1], everything)
        if "pinmaps" in options:
            pin_maps(namespace, loaded.maps, options["pinmaps"])
    if settings.json:
        click.echo("null")


def _pin(namespace: Namespace, loaded: LoadedObject, path: str, everything: bool) -> None:
    programs = dict(loaded.programs) if everything else dict(list(loaded.programs.items())[:1])
    for name, program in programs.items():
        PinTree(namespace).pin("prog", program.id, f"{path}/{pin_name(name)}" if everything else path, parents=True)


def run(settings, words: list[str]) -> None:
    """Body of `prog run PROG data_in FILE ...`: BPF_PROG_TEST_RUN. A fault is an error (exit 1)."""
    with ExitStack() as stack:
        namespace = stack.enter_context(open_namespace(settings, "prog run"))
        left = Words(words)
        program = stack.enter_context(take_program(namespace, left))
        options = _pairs(left.rest(), _RUN_WORDS, _USAGE_RUN)
        if "data_in" not in options:
            raise click.UsageError(f"data_in is missing: {_USAGE_RUN}")
        ctx = _read(options["ctx_in"]) if "ctx_in" in options else None
        if ctx is None and "ctx_out" in options and program.type != ProgType.XDP:
            ctx = bytes(ffi.sizeof("struct __sk_buff"))  # an empty one in, so that there is one to come out
        cpu = _number(options, "cpu") if "cpu" in options else None
        repeat = _number(options, "repeat") if "repeat" in options else 1
        if not settings.quiet:
            stack.enter_context(_trace_on_stderr())
        result = run_anywhere(namespace, program.id, _read(options["data_in"]), cpu=cpu, ctx=ctx, repeat=repeat)
    if result.fault:
        raise ShmbpfError(result.fault)
    _show(settings, result, options, repeat)


@contextmanager
def _trace_on_stderr() -> Iterator[None]:
    """Lines of trace_printk of a program that runs in this process (without a runtime) are shown meanwhile; those of a runtime go to `prog tracelog`."""
    handler, level = logging.StreamHandler(sys.stderr), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)


def _show(settings, result: RunResult, options: dict[str, str], repeat: int) -> None:
    document: dict[str, object] = {}
    for word, content in (("data_out", result.data), ("ctx_out", result.ctx)):
        if options.get(word) == "-" and settings.json:
            document[word] = list(content)  # numbers here, unlike everywhere else: Linux v6.1 tools/bpf/bpftool/prog.c, print_hex_data_json()
        elif options.get(word) == "-":
            click.echo(_hexdump(content), nl=False)
        elif word in options:
            Path(options[word]).write_bytes(content)
    if settings.json:
        emit(settings, document | {"retval": result.retval, "duration": result.duration_ns})
    else:
        click.echo(f"Return value: {result.retval}, duration{' (average)' if repeat > 1 else ''}: {result.duration_ns}ns")


def _hexdump(content: bytes) -> str:
    """As bpftool prints it: offset, 16 bytes in pairs, printable characters."""
    rows = []
    for at in range(0, len(content), 16):
        row = content[at:at + 16]
        pairs = " ".join(row[i:i + 2].hex() for i in range(0, len(row), 2))
        rows.append(f"{at:07x}\t{pairs:<39} | {''.join(chr(byte) if 32 <= byte < 127 else '.' for byte in row)}\n")
    return "".join(rows)


def _read(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(os.fspath(name)).read_bytes()


def _pairs(words: list[str], known: tuple[str, ...], usage: str) -> dict[str, str]:
    if len(words) % 2:
        raise click.UsageError(f"{words[-1]!r} lacks its value: {usage}")
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    for word in pairs:
        if word not in known:
            raise click.UsageError(f"unknown word {word!r}: {usage}")
    return pairs


def _number(options: dict[str, str], word: str) -> int:
    try:
        return int(options[word], 0)
    except ValueError:
        raise click.UsageError(f"{word} {options[word]!r}: expected a number") from None
