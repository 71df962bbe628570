"""`shmbpf map`: bpftool's commands. The typed ones for scripts are in map_typed.py."""

from __future__ import annotations

from contextlib import ExitStack

import click

from shmbpf._ffi import lib
from shmbpf.cli import map_dump, map_typed
from shmbpf.cli.event_pipe import event_pipe
from shmbpf.cli.groups import PrefixGroup, Settings, WordCommand, words_argument
from shmbpf.cli.map_dump import dump_text
from shmbpf.cli.pins import Whereabouts, pin_object
from shmbpf.cli.render import emit, emit_done, hex_columns, hex_list, to_json
from shmbpf.cli.selector import MAP_SYNTAX, open_namespace, opened_map, say_no_namespace, take_maps, take_program
from shmbpf.cli.words import Words
from shmbpf.errors import MapKeyError, ShmbpfError
from shmbpf.maps import find_maps
from shmbpf.maps.codec import Codec
from shmbpf.maps.layout import Choice
from shmbpf.maps.map import Map
from shmbpf.maps.text import parse_address
from shmbpf.maps.typed import TypedMap
from shmbpf.shm.namespace import Namespace, namespace_exists
from shmbpf.shm.pins import PinTree
from shmbpf.uapi import ANY, EXIST, NOEXIST, MapType, map_type_of, map_type_word

GRAMMAR = f"""\b
MAP  := {MAP_SYNTAX}
DATA := BYTE... (decimal, 0x..) | hex BYTE... | {{field: value}} | an address
"""
_FLAGS = {"any": ANY, "noexist": NOEXIST, "exist": EXIST}


@click.group("map", cls=PrefixGroup, epilog=GRAMMAR + """
\b
Examples:
  shmbpf map show                                           all maps
  shmbpf map dump name flows                                everything in one
  shmbpf map lookup name flows key 10 0 0 1                 by bytes
  shmbpf map update name flows key 10 0 0 1 value hex 01 00 00 00 00 00 00 00
  shmbpf map get flows 10.0.0.1                             by types, one line: for scripts
""")
def map_group() -> None:
    """Show and change maps, in bpftool's words."""


# -- show, dump --


@map_group.command("show", cls=WordCommand, epilog="""\b
Examples:
  shmbpf map show
  shmbpf map show name flows
  shmbpf -j map show | jq '.[].id'
""")
@words_argument("[MAP]")
@click.pass_obj
def show(settings: Settings, words: tuple[str, ...]) -> None:
    """Show all maps, or one.

    Id, type, name, flags, and sizes in bytes; `memlock` is the shared memory it takes. (Also: list)"""
    wanted = Words(words)
    if not wanted and not namespace_exists(settings.ns):
        say_no_namespace(settings)
        return
    with open_namespace(settings, "map show") as namespace, ExitStack() as stack:
        is_one = bool(wanted)
        maps = take_maps(namespace, wanted) if wanted else find_maps(namespace)
        for map_ in maps:
            stack.callback(map_.close)
        wanted.finish()
        where = Whereabouts(settings, namespace)
        if settings.json:
            documents = [map_dump.map_document(map_) | where.document(f"map.{map_.id}") for map_ in maps]
            emit(settings, documents[0] if is_one and len(maps) == 1 else documents)
        else:
            for map_ in maps:
                click.echo(map_dump.map_text(map_) + where.text(f"map.{map_.id}"))


map_group.alias("list", "show")


@map_group.command("dump", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf map dump name flows
  shmbpf map dump id 3
  shmbpf -p map dump name flows
""")
@words_argument("MAP")
@click.pass_obj
def dump(settings: Settings, words: tuple[str, ...]) -> None:
    """Print every key and value. By type where BTF knows it, else in hex. Several maps of one name are all printed."""
    wanted = Words(words)
    with open_namespace(settings, "map dump") as namespace, ExitStack() as stack:
        maps = take_maps(namespace, wanted)
        for map_ in maps:
            stack.callback(map_.close)
        wanted.finish()
        if settings.json:
            documents = [map_dump.dump_document(map_) for map_ in maps]
            emit(settings, documents[0] if len(maps) == 1 else _with_headers(maps, documents))
        elif len(maps) == 1:
            _print_dump(maps[0])
        else:
            _print_dumps(maps)


def _with_headers(maps: list[Map], dumps: list[list]) -> list[dict]:
    return [map_dump.header_document(map_) | {"elements": elements} for map_, elements in zip(maps, dumps, strict=True)]


def _print_dump(map_: Map) -> None:
    if map_dump.has_types(map_):
        click.echo(dump_text(map_))
        return
    for line in map_dump.dump_lines(map_):
        click.echo(line)


def _print_dumps(maps: list[Map]) -> None:
    if all(map_dump.has_types(map_) for map_ in maps):
        click.echo(to_json(_with_headers(maps, [map_dump.typed_dump_document(map_) for map_ in maps]), True))
        return
    for index, map_ in enumerate(maps):
        click.echo(("\n" if index else "") + map_dump.header_text(map_))
        for line in map_dump.dump_lines(map_):
            click.echo(line)


# -- one element --


def take_data(words: Words, codec: Codec, what: str) -> bytes:
    """A key or value: bytes as bpftool has them, or one typed word (`{field: value}`, an address, an enum's name)."""
    word = words.peek()
    is_name = isinstance(codec.node, Choice) and word in codec.node.names
    if word[:1] in ("{", "[", '"') or is_name:
        return codec.parse(words.take_text(what), what)
    if parse_address(word, codec.size) is not None:
        return codec.parse(words.take(what), what) if codec.node else parse_address(words.take(what), codec.size)
    return words.take_bytes(codec.size, what)


def _take_key(map_: Map, words: Words, optional: bool = False) -> bytes | None:
    if optional and not words:
        return None
    if not words.accept("key"):
        raise click.UsageError(f"expected key, got: {words.peek()}" if words else "did not find key")
    key = take_data(words, TypedMap(map_).key_codec, "key")
    words.finish()
    return key


@map_group.command("update", cls=WordCommand, epilog=GRAMMAR.rstrip() + """
PROG := id N | name NAME | tag TAG (values of program arrays)

\b
Examples:
  shmbpf map update name cfg key 0 0 0 0 value 1 0 0 0
  shmbpf map update name cfg key hex 00 00 00 00 value hex 0a 00 00 00 exist
  shmbpf map update name flows key 10.0.0.1 value {packets: 0, bytes: 0}
  shmbpf map update name jmp key 2 0 0 0 value name parse_tcp
""")
@words_argument("MAP [key DATA] [value DATA|PROG] [any|exist|noexist]")
@click.pass_obj
def update(settings: Settings, words: tuple[str, ...]) -> None:
    """Store a value. A per-CPU map gets it on every possible CPU. `noexist`: only if the key is new; `exist`: only if it is there."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map update") as map_:
        key, value, flags = _take_element(map_, wanted)
        if map_.is_percpu:
            value = value.ljust(-(-len(value) // 8) * 8, b"\0") * map_.namespace.possible_cpus
        map_.update(key, value, flags)
    emit_done(settings)


def _take_element(map_: Map, words: Words) -> tuple[bytes, bytes, int]:
    """Key, value and flag, in any order."""
    typed, key, value, flags = TypedMap(map_), None, None, None
    while words:
        if key is None and words.accept("key"):
            key = take_data(words, typed.key_codec, "key")
        elif value is None and words.accept("value"):
            value = _take_value(map_, words, typed.value_codec)
        elif flags is None and any(words.is_next(word) for word in _FLAGS):
            flags = _FLAGS[words.choose(list(_FLAGS), "flag")]
        else:
            raise click.UsageError(f"expected key, value, any, exist or noexist, got: {words.peek()}")
    if key is None or value is None:
        raise click.UsageError("did not find key" if key is None else "did not find value")
    return key, value, flags or ANY


def _take_value(map_: Map, words: Words, codec: Codec) -> bytes:
    if map_.handle.ops.caps & lib.MAP_CAP_HOLDS_PROGS:
        with take_program(map_.namespace, words) as program:
            return program.id.to_bytes(4, "little")
    return take_data(words, codec, "value")


@map_group.command("lookup", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf map lookup name flows key 10 0 0 1
  shmbpf -j map lookup id 3 key hex 0a 00 00 01
""")
@words_argument("MAP [key DATA]")
@click.pass_obj
@click.pass_context
def lookup(context: click.Context, settings: Settings, words: tuple[str, ...]) -> None:
    """Print one element. Exit 1 when the key is not there."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map lookup") as map_:
        key = _take_key(map_, wanted)
        try:
            value = map_.lookup(key)
        except MapKeyError:
            emit(settings, None) if settings.json else click.echo(map_dump.missing_text(key))
            context.exit(1)
        if settings.json:
            emit(settings, map_dump.element_document(map_, key, value))
        else:
            click.echo(map_dump.lookup_text(map_, key, value))


@map_group.command("getnext", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf map getnext name flows                     the first key
  shmbpf map getnext name flows key 10 0 0 1        the one behind it
""")
@words_argument("MAP [key DATA]")
@click.pass_obj
def getnext(settings: Settings, words: tuple[str, ...]) -> None:
    """Print the key after a key. The order is the map's own. Exit 1 after the last."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map getnext") as map_:
        key = _take_key(map_, wanted, optional=True)
        following = map_.next_key(key)
        if settings.json:
            emit(settings, {"key": None if key is None else hex_list(key), "next_key": hex_list(following)})
        else:
            click.echo("key: None" if key is None else f"key:\n{hex_columns(key)}")
            click.echo(f"next key:\n{hex_columns(following)}")


@map_group.command("delete", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf map delete name flows key 10 0 0 1
  shmbpf map delete name flows key hex 0a 00 00 01
""")
@words_argument("MAP key DATA")
@click.pass_obj
def delete(settings: Settings, words: tuple[str, ...]) -> None:
    """Remove a key."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map delete") as map_:
        map_.delete(_take_key(map_, wanted))
    emit_done(settings)


# -- the whole map --


@map_group.command("create", cls=WordCommand, epilog="""\b
Examples:
  shmbpf map create flows type hash key 4 value 8 entries 1024 name flows
  shmbpf map create tc/globals/hits type percpu_array key 4 value 8 entries 256 name hits
""")
@words_argument("PATH type T key BYTES value BYTES entries N name NAME [flags F]")
@click.pass_obj
def create(settings: Settings, words: tuple[str, ...]) -> None:
    """Make an empty map.

    It lives at PATH in the namespace's pin tree, /dev/shm/shmbpf.UID.NS.fs, until that file is removed. T is a map type of `shmbpf feature`. A NAME longer than 15 bytes is cut.
    """
    from shmbpf.spec import MapSpec

    wanted = Words(words)
    path, fields = wanted.take("PATH"), _take_fields(wanted)
    spec = MapSpec(
        name=_short_name(settings, fields["name"]), type=fields["type"], key_size=fields["key"], value_size=fields["value"],
        max_entries=fields["entries"], flags=fields.get("flags", 0),
    )  # fmt: skip
    with Namespace(settings.ns, role="map create") as namespace, Map.create(namespace, spec) as map_:
        PinTree(namespace).pin("map", map_.id, path, parents=True)
    emit_done(settings)


def _take_fields(words: Words) -> dict:
    """type, key, value, entries, name and flags, in any order."""
    fields: dict[str, object] = {}
    while words:
        word = words.choose(["type", "name", "key", "value", "entries", "flags"], "type, name, key, value, entries or flags")
        if word in fields:
            raise click.UsageError(f"{word} is given twice")
        fields[word] = _take_type(words) if word == "type" else words.take("NAME") if word == "name" else words.take_number(word)
    for word, what in (("type", "type"), ("key", "key size"), ("value", "value size"), ("entries", "number of entries"), ("name", "name")):
        if word not in fields:
            raise click.UsageError(f"map {what} not specified ({word} ...)")
    _check_numbers(fields)
    return fields


def _check_numbers(fields: dict) -> None:
    for word, number in fields.items():
        if isinstance(number, int) and not 0 <= number <= 0xFFFFFFFF:
            raise ShmbpfError(f"{word} {number}: expected 0 to 4294967295")


def _take_type(words: Words) -> MapType:
    word = words.take("type")
    number = map_type_of(word)
    if number is None:
        known = ", ".join(map_type_word(kind) for kind in MapType if lib.map_ops_of(kind))
        raise ShmbpfError(f"unrecognized map type {word!r}: expected one of {known}")
    return number


def _short_name(settings: Settings, name: str) -> str:
    short = name.encode()[:15].decode(errors="ignore")
    if short != name and not settings.quiet and not settings.json:
        click.echo(f"warning: map name {name!r} is cut to its first 15 bytes: {short!r}", err=True)
    return short


@map_group.command("pin", cls=WordCommand, epilog="""\b
Examples:
  shmbpf map pin name flows tc/globals/flows
  shmbpf map dump pinned tc/globals/flows
""")
@words_argument("MAP PATH")
@click.pass_obj
def pin(settings: Settings, words: tuple[str, ...]) -> None:
    """Pin a map at PATH of the pin tree (see `shmbpf pin`): it then outlives every process."""
    pin_object(settings, "map", Words(words))


@map_group.command("freeze", cls=WordCommand, epilog="""\b
Examples:
  shmbpf map freeze name cfg
""")
@words_argument("MAP")
@click.pass_obj
def freeze(settings: Settings, words: tuple[str, ...]) -> None:
    """Make a map read-only, but for programs. There is no way back."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map freeze") as map_:
        wanted.finish()
        map_.freeze()
    emit_done(settings)


map_group.add_command(event_pipe)
for typed_command in map_typed.COMMANDS:
    map_group.add_command(typed_command)
