"""`shmbpf pin`, `unpin`, `ls`: the pin tree. It is an ordinary directory: ls, mv, rm, mkdir and ln work there as well."""

from __future__ import annotations

import os
from pathlib import Path

import click

from shmbpf.cli.groups import Settings, WordCommand, words_argument
from shmbpf.cli.render import emit, emit_done
from shmbpf.cli.selector import MAP_SYNTAX, PROG_SYNTAX, open_namespace, take_map, take_program
from shmbpf.cli.words import Words
from shmbpf.engine.program import Program
from shmbpf.errors import LoadError, MapError
from shmbpf.maps.map import Map
from shmbpf.shm.holders import find_holders
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import Pin, PinTree
from shmbpf.uapi import map_type_word, prog_type_word

_TAKERS = {"map": take_map, "prog": take_program}


def pin_object(settings: Settings, kind: str, words: Words) -> None:
    """Body of `map pin MAP PATH` and `prog pin PROG PATH`."""
    with open_namespace(settings, f"{kind} pin") as namespace, _TAKERS[kind](namespace, words) as found:
        path = words.take("PATH")
        words.finish()
        PinTree(namespace).pin(kind, found.id, path, parents=True)
    emit_done(settings)


@click.command("pin", cls=WordCommand, epilog=f"""\b
MAP  := {MAP_SYNTAX}
PROG := {PROG_SYNTAX}

\b
Examples:
  shmbpf pin map name flows tc/globals/flows
  shmbpf pin prog name xdp_main progs/filter
  ls -l /dev/shm/shmbpf.$(id -u).default.fs/tc/globals
""")
@words_argument("map MAP | prog PROG PATH")
@click.pass_obj
def pin(settings: Settings, words: tuple[str, ...]) -> None:
    """Give a map or a program a name in the pin tree.

    What is pinned outlives every process, with all its entries, until its last pin is removed. A path under /sys/fs/bpf means the same path in the tree, which is the directory
    /dev/shm/shmbpf.UID.NS.fs; missing directories are made. As in a bpf file system, names have no dots.
    """
    left = Words(words)
    pin_object(settings, left.choose(list(_TAKERS), "map or prog"), left)


@click.command("unpin", cls=WordCommand, epilog="""\b
Examples:
  shmbpf unpin tc/globals/flows
  rm /dev/shm/shmbpf.$(id -u).default.fs/tc/globals/flows      the same
""")
@words_argument("PATH...")
@click.pass_obj
def unpin(settings: Settings, words: tuple[str, ...]) -> None:
    """Remove pins. An object lives on while a process, another pin or a program keeps it."""
    if not words:
        raise click.UsageError("PATH is missing")
    with open_namespace(settings, "unpin") as namespace:
        tree = PinTree(namespace)
        for path in words:
            tree.unpin(path)
    emit_done(settings)


@click.command("ls", cls=WordCommand, epilog="""\b
Examples:
  shmbpf ls
  shmbpf ls tc/globals
  shmbpf -j ls | jq -r '.[].path'
""")
@words_argument("[PATH]")
@click.pass_obj
def ls(settings: Settings, words: tuple[str, ...]) -> None:
    """List the pins in the tree, or in a directory of it: path, kind, id, type, name."""
    left = Words(words)
    path = left.take("PATH") if left else ""
    left.finish()
    with open_namespace(settings, "ls") as namespace:
        tree = PinTree(namespace)
        found = [tree.get(path)] if path and not tree.place(path).is_dir() else list(tree.walk(path))
        rows = [document for pinned in found if (document := _document(namespace, tree.root, pinned))]
    if settings.json:
        emit(settings, rows)
        return
    widths = [max((len(str(row[field])) for row in rows), default=0) for field in ("path", "kind", "id", "type")]
    for row in rows:
        cells = [str(row[field]).ljust(width) for field, width in zip(("path", "kind", "id", "type"), widths, strict=True)]
        click.echo("  ".join([*cells, str(row["name"])]).rstrip())


def _document(namespace: Namespace, root: Path, pinned: Pin) -> dict[str, object] | None:
    facts: dict[str, object] = {"path": os.fspath(pinned.path.relative_to(root)), "kind": pinned.kind, "id": pinned.id, "type": "", "name": ""}
    try:
        if pinned.kind == "map":
            with Map.open(namespace, pinned.id) as map_:
                facts |= {"type": map_type_word(map_.type), "name": map_.name}
        elif pinned.kind == "prog":
            with Program.open(namespace, pinned.id) as program:
                facts |= {"type": prog_type_word(program.type), "name": program.name}
    except (MapError, LoadError):
        return None  # unpinned since it was listed
    return facts


class Whereabouts:
    """Where objects are pinned (asked for with -f) and which processes have them open, as `show` tells it."""

    def __init__(self, settings: Settings, namespace: Namespace):
        self._show_pins = settings.bpffs
        self._pins = PinTree(namespace).paths() if settings.bpffs else {}
        self._holders = find_holders(namespace)

    def document(self, name: str) -> dict[str, object]:
        """bpftool's `pinned` and `pids` of `map.7`."""
        pins = {"pinned": [os.fspath(path) for path in self._pins.get(name, [])]} if self._show_pins else {}
        holders = [{"pid": holder.pid, "comm": holder.comm} for holder in self._holders.get(name, [])]
        return pins | ({"pids": holders} if holders else {})

    def text(self, name: str) -> str:
        """The same as lines, each behind a line's end and a tab."""
        lines = [f"pinned {path}" for path in self._pins.get(name, [])]
        if name in self._holders:
            lines.append("pids " + ", ".join(f"{holder.comm}({holder.pid})" for holder in self._holders[name]))
        return "".join(f"\n\t{line}" for line in lines)
