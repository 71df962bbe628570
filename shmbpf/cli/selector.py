"""Which map, which program: `id N`, `name NAME`, `tag T`, `pinned PATH`. A table of words per kind of object; a new way to name one is a new row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from shmbpf.cli.words import Words
from shmbpf.engine.program import Program
from shmbpf.errors import LoadError, ShmbpfError
from shmbpf.maps import find_maps
from shmbpf.maps.map import Map
from shmbpf.maps.pin import open_pinned
from shmbpf.shm.namespace import Namespace, namespace_exists, namespace_names
from shmbpf.shm.pins import PinTree

MAP_SYNTAX = "id N | name NAME | pinned PATH"
PROG_SYNTAX = "id N | name NAME | tag TAG | pinned PATH"


def open_namespace(settings, role: str) -> Namespace:
    """The namespace of --ns, which must exist. Close it."""
    if not namespace_exists(settings.ns):
        raise ShmbpfError(_no_namespace(settings.ns))
    return Namespace(settings.ns, role=role)


def say_no_namespace(settings) -> None:
    """What `show` says of a namespace that does not exist: an empty list, as bpftool on an idle kernel, and a note for the person."""
    if settings.json:
        click.echo("[]")
    elif not settings.quiet:
        click.echo(f"note: {_no_namespace(settings.ns)}", err=True)


def _no_namespace(name: str) -> str:
    known = ", ".join(namespace_names()) or "none"
    return f"namespace {name!r} does not exist (there are: {known}); it begins with shmbpf run or shmbpf map create"


# -- maps --


def _maps_by_id(namespace: Namespace, words: Words) -> list[Map]:
    return [Map.open(namespace, _take_id(words))]


def _maps_by_name(namespace: Namespace, words: Words) -> list[Map]:
    name = words.take("NAME")
    found = find_maps(namespace, name) or find_maps(namespace, name.encode()[:15].decode(errors="ignore"))
    if not found:
        raise ShmbpfError(f"no map of namespace {namespace.name!r} is called {name!r} (shmbpf map show lists them)")
    return found


def _maps_by_pin(namespace: Namespace, words: Words) -> list[Map]:
    return [open_pinned(namespace, words.take("PATH"))]


MAP_WORDS: dict[str, Callable[[Namespace, Words], list[Map]]] = {"id": _maps_by_id, "name": _maps_by_name, "pinned": _maps_by_pin}


def take_maps(namespace: Namespace, words: Words) -> list[Map]:
    """All maps that the next words name. The caller closes them."""
    return MAP_WORDS[words.choose(list(MAP_WORDS), f"MAP ({MAP_SYNTAX})")](namespace, words)


def take_map(namespace: Namespace, words: Words, bare: bool = False) -> Map:
    """The one map that the next words name; with `bare`, `NAME` and `N` do without a keyword."""
    if bare and words.peek() not in MAP_WORDS:
        words.insert("id" if words.peek().isdigit() else "name")
    found = take_maps(namespace, words)
    return _only(found, "several maps match this handle", "map")


@contextmanager
def opened_map(settings, words: Words, role: str, bare: bool = False) -> Iterator[Map]:
    """The one map that the next words name, for the length of a `with`."""
    with open_namespace(settings, role) as namespace, take_map(namespace, words, bare) as map_:
        yield map_


# -- programs --


def find_programs(namespace: Namespace, accepts: Callable[[Program], bool] = lambda _: True) -> list[Program]:
    """The namespace's programs that `accepts` takes, opened, in the order of their ids. The caller closes them."""
    found = []
    for number in namespace.ids("prog"):
        try:
            program = Program.open(namespace, number)
        except LoadError:
            continue  # gone since it was listed, or damaged
        if accepts(program):
            found.append(program)
        else:
            program.close()
    return found


def _programs_by_id(namespace: Namespace, words: Words) -> list[Program]:
    return [Program.open(namespace, _take_id(words))]


def _programs_by_name(namespace: Namespace, words: Words) -> list[Program]:
    name = words.take("NAME")
    found = find_programs(namespace, lambda program: program.name == name or program.name == name.encode()[:15].decode(errors="ignore"))
    if not found:
        raise ShmbpfError(f"no program of namespace {namespace.name!r} is called {name!r} (shmbpf prog show lists them)")
    return found


def _programs_by_tag(namespace: Namespace, words: Words) -> list[Program]:
    tag = words.take("TAG").lower()
    if len(tag) != 16 or not all(digit in "0123456789abcdef" for digit in tag):
        raise ShmbpfError(f"can't parse tag {tag!r}: expected 16 hexadecimal digits")
    found = find_programs(namespace, lambda program: program.tag == tag)
    if not found:
        raise ShmbpfError(f"no program of namespace {namespace.name!r} has the tag {tag}")
    return found


def _programs_by_pin(namespace: Namespace, words: Words) -> list[Program]:
    return [Program(namespace, PinTree(namespace).open(words.take("PATH"), "prog"))]


PROG_WORDS: dict[str, Callable[[Namespace, Words], list[Program]]] = {
    "id": _programs_by_id, "tag": _programs_by_tag, "name": _programs_by_name, "pinned": _programs_by_pin,
}  # fmt: skip


def take_programs(namespace: Namespace, words: Words) -> list[Program]:
    """All programs that the next words name. The caller closes them."""
    return PROG_WORDS[words.choose(list(PROG_WORDS), f"PROG ({PROG_SYNTAX})")](namespace, words)


def take_program(namespace: Namespace, words: Words) -> Program:
    """The one program that the next words name."""
    return _only(take_programs(namespace, words), "several programs match this handle", "prog")


# -- both --


def _take_id(words: Words) -> int:
    word = words.take("N")
    if not word.isdigit():
        raise click.UsageError(f"can't parse {word} as ID")
    return int(word)


def _only(found: list, several: str, kind: str):
    if len(found) == 1:
        return found[0]
    ids = ", ".join(str(item.id) for item in found)
    for item in found:
        item.close()
    raise ShmbpfError(f"{several}: use {kind} id N ({ids})")
