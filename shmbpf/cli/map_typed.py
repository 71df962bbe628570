"""`shmbpf map get|set|add|del|keys|items`: typed access for shell scripts. One plain line each; exit 1 when the key is missing."""

from __future__ import annotations

import click

from shmbpf._ffi import lib
from shmbpf.cli.groups import Settings, WordCommand, words_argument
from shmbpf.cli.render import emit, emit_done
from shmbpf.cli.selector import find_programs, opened_map
from shmbpf.cli.words import Words
from shmbpf.errors import ShmbpfError
from shmbpf.maps.codec import WORDS, BytesCodec, Codec, codec_of_word, plain_codec
from shmbpf.maps.layout import Array, Text
from shmbpf.maps.map import Map
from shmbpf.maps.text import Word, interpret, parse_number, parse_tree
from shmbpf.maps.typed import TypedMap
from shmbpf.uapi import ANY, EXIST, NOEXIST

_TYPES = ", ".join(WORDS)
_GRAMMAR = """\b
MAP is a name (or `name NAME`, `id N`).
KEY, VALUE := number | 10.0.0.1 | fe80::1 | 02:00:00:00:00:01 | text
              | {field: value, ...} | [value, ...]
"""


def _typed_command(name: str, metavar: str, examples: str, *, value: bool = True):
    """A command with `--key T`, `--value T` and words."""

    def decorate(function):
        function = words_argument(metavar)(function)
        if value:
            function = click.option("--value", "value_word", metavar="T", help="Type of the values, if BTF does not know it or you know better.")(function)
        function = click.option("--key", "key_word", metavar="T", help=f"Type of the keys: {_TYPES}.")(function)
        return click.command(name, cls=WordCommand, epilog=f"{_GRAMMAR}\n\b\nExamples:\n{examples}")(function)

    return decorate


def typed_map(map_: Map, key_word: str | None = None, value_word: str | None = None) -> TypedMap:
    """The map with the types that were asked for, that BTF knows, or that its sizes suggest."""
    typed = TypedMap(map_)
    key = codec_of_word(key_word, map_.key_size, "key") if key_word else _or_plain(typed.key_codec)
    value = codec_of_word(value_word, map_.value_size, "value") if value_word else _or_plain(typed.value_codec)
    return TypedMap(map_, key=key, value=value)


def _or_plain(codec: Codec) -> Codec:
    return plain_codec(codec.size) if isinstance(codec, BytesCodec) else codec


# -- text --


def format_value(typed: TypedMap, data: bytes) -> str:
    """A value as one line; of a per-CPU map as `[cpu 0's, cpu 1's, ...]`."""
    if not typed.raw.is_percpu:
        return typed.value_codec.format(data)
    return "[" + ", ".join(typed.value_codec.format(part) for part in typed.cpu_values(data)) + "]"


def parse_value(typed: TypedMap, text: str) -> bytes:
    """The bytes to store for one line: for a per-CPU map `[a, b]` is one value per CPU, anything else is for all of them."""
    if typed.raw.handle.ops.caps & lib.MAP_CAP_HOLDS_PROGS:
        return _program_id(typed.raw, text).to_bytes(4, "little")
    if not typed.raw.is_percpu:
        return typed.value_codec.parse(text, "value")
    cpus = typed.raw.value_bytes // (-(-typed.raw.value_size // 8) * 8)
    node = typed.value_codec.node
    is_list = text.startswith("[[") if isinstance(node, Array) else text.startswith("[") and not isinstance(node, Text)
    if not is_list:
        return typed.encode_value([typed.value_codec.parse(text, "value")] * cpus)
    items = parse_tree(text)
    if not isinstance(items, list) or len(items) != cpus:
        raise ShmbpfError(f"value: expected {cpus} values, one for each possible CPU (or one for all, without brackets), got {len(items)}")
    return typed.encode_value([_cpu_value(typed.value_codec, item, f"value (CPU {cpu})") for cpu, item in enumerate(items)])


def _cpu_value(codec: Codec, item: object, path: str) -> object:
    if codec.node is not None:
        return interpret(codec.node, item, path)
    if not isinstance(item, (Word, str)):
        raise ShmbpfError(f"{path}: expected a single value, got {item!r}")
    return codec.parse(item, path)


def _program_id(map_: Map, text: str) -> int:
    if text.isdigit():
        return int(text)
    found = find_programs(map_.namespace, lambda program: program.name == text)
    for program in found:
        program.close()
    if len(found) != 1:
        raise ShmbpfError(f"value: {len(found) or 'no'} programs are called {text!r}: use an id (shmbpf prog show)")
    return found[0].id


def jsonable(value: object) -> object:
    """A decoded value as JSON has it: bytes become hex."""
    if isinstance(value, dict):
        return {name: jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _take_key(typed: TypedMap, words: Words) -> bytes:
    return typed.key_codec.parse(words.take_text("KEY"), "key")


# -- commands --


@_typed_command("get", "MAP KEY", """\
  shmbpf map get flows 10.0.0.1
  shmbpf map get flows '{addr: 10.0.0.1, port: 53}'
  if n=$(shmbpf map get --key ipv4 --value u64 hits 10.0.0.1); then echo $n; fi
""")
@click.option("--field", metavar="PATH", help="Only this part of the value: stats.bytes, counts[3].")
@click.option("--cpu", type=int, metavar="N", help="Only this CPU's value of a per-CPU map.")
@click.pass_obj
def get(settings: Settings, words: tuple[str, ...], key_word: str, value_word: str, field: str | None, cpu: int | None) -> None:
    """Print a key's value. Exit 1 when the key is missing."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map get", bare=True) as map_:
        typed = typed_map(map_, key_word, value_word)
        key = _take_key(typed, wanted)
        wanted.finish()
        parts = _chosen_parts(typed, map_.lookup(key), cpu)
        codec, shown = _chosen_field(typed.value_codec, parts, field)
        is_list = map_.is_percpu and cpu is None
        if settings.json:
            values = [jsonable(codec.decode(part)) for part in shown]
            emit(settings, {"key": jsonable(typed.key_codec.decode(key)), "value": values if is_list else values[0]})
        else:
            texts = [codec.format(part) for part in shown]
            click.echo("[" + ", ".join(texts) + "]" if is_list else texts[0])


def _chosen_parts(typed: TypedMap, data: bytes, cpu: int | None) -> list[bytes]:
    """The value; of a per-CPU map all of them, or that of one CPU."""
    if not typed.raw.is_percpu:
        if cpu is not None:
            raise ShmbpfError(f"map {typed.name!r} is not per-CPU: leave --cpu out")
        return [data]
    parts = typed.cpu_values(data)
    if cpu is None:
        return parts
    if not 0 <= cpu < len(parts):
        raise ShmbpfError(f"--cpu {cpu}: expected 0 to {len(parts) - 1}")
    return [parts[cpu]]


def _chosen_field(codec: Codec, parts: list[bytes], field: str | None) -> tuple[Codec, list[bytes]]:
    from shmbpf.maps.codec import NodeCodec
    from shmbpf.maps.layout import find_part

    if field is None:
        return codec, parts
    if codec.node is None:
        raise ShmbpfError("--field needs BTF: the type of the values is not known")
    at, node = find_part(codec.node, field)
    return NodeCodec(node), [part[at : at + node.size] for part in parts]


@_typed_command("set", "MAP KEY VALUE", """\
  shmbpf map set cfg 0 1
  shmbpf map set flows 10.0.0.1 '{packets: 0, state: SEEN}'
  shmbpf map set --exist cfg 3 0x10
""")
@click.option("--noexist", "flag", flag_value="noexist", help="Only if the key is new.")
@click.option("--exist", "flag", flag_value="exist", help="Only if the key is there.")
@click.pass_obj
def set_(settings: Settings, words: tuple[str, ...], key_word: str, value_word: str, flag: str | None) -> None:
    """Store a value. Fields that are not given are 0. A per-CPU map gets it on every CPU, or `[a, b, ...]` one by one."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map set", bare=True) as map_:
        typed = typed_map(map_, key_word, value_word)
        key, value = _take_key(typed, wanted), wanted.take_text("VALUE")
        wanted.finish()
        map_.update(key, parse_value(typed, value), {None: ANY, "noexist": NOEXIST, "exist": EXIST}[flag])
    emit_done(settings)


@_typed_command("add", "MAP KEY N", """\
  shmbpf map add hits 3 1
  shmbpf map add hits 3 -1
  shmbpf map add --field bytes flows 10.0.0.1 1500
""")
@click.option("--field", metavar="PATH", help="The number to add to, inside a struct: stats.bytes, counts[3].")
@click.option("--cpu", type=int, metavar="N", help="Which CPU's value of a per-CPU map.")
@click.pass_obj
def add(settings: Settings, words: tuple[str, ...], key_word: str, value_word: str, field: str | None, cpu: int | None) -> None:
    """Add to a number and print the new one. It is one atomic instruction: exact among programs and processes."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map add", bare=True) as map_:
        typed = typed_map(map_, key_word, value_word)
        key, delta = _take_key(typed, wanted), parse_number(wanted.take("N"), "N")
        wanted.finish()
        if map_.is_percpu and cpu is None:
            raise ShmbpfError(f"map {map_.name!r} is per-CPU: say which CPU's value to add to (--cpu N)")
        if cpu is not None:
            _chosen_parts(typed, bytes(map_.value_bytes), cpu)
        total = typed.add(key, delta, field, cpu)
    emit(settings, {"value": total}) if settings.json else click.echo(total)


@_typed_command("del", "MAP KEY", """\
  shmbpf map del flows 10.0.0.1
""", value=False)  # fmt: skip
@click.pass_obj
def delete(settings: Settings, words: tuple[str, ...], key_word: str) -> None:
    """Remove a key. Exit 1 when it is missing."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map del", bare=True) as map_:
        key = _take_key(typed_map(map_, key_word), wanted)
        wanted.finish()
        map_.delete(key)
    emit_done(settings)


@_typed_command("keys", "MAP", """\
  shmbpf map keys flows
  shmbpf map keys --key ipv4 flows | wc -l
""", value=False)  # fmt: skip
@click.pass_obj
def keys(settings: Settings, words: tuple[str, ...], key_word: str) -> None:
    """Print every key, one a line."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map keys", bare=True) as map_:
        wanted.finish()
        codec = typed_map(map_, key_word).key_codec
        if settings.json:
            emit(settings, [jsonable(codec.decode(key)) for key in map_.keys()])
            return
        for key in map_.keys():
            click.echo(codec.format(key))


@_typed_command("items", "MAP", """\
  shmbpf map items flows
  shmbpf map items flows | while IFS=$'\\t' read -r key value; do
      echo "$key has $value"
  done
""")
@click.pass_obj
def items(settings: Settings, words: tuple[str, ...], key_word: str, value_word: str) -> None:
    """Print every key and its value. One pair a line, with a tab between them."""
    wanted = Words(words)
    with opened_map(settings, wanted, "map items", bare=True) as map_:
        wanted.finish()
        typed = typed_map(map_, key_word, value_word)
        if settings.json:
            decode = typed.key_codec.decode
            emit(settings, [{"key": jsonable(decode(key)), "value": jsonable(typed.decode_value(value))} for key, value in map_.items()])
            return
        for key, value in map_.items():
            click.echo(f"{typed.key_codec.format(key)}\t{format_value(typed, value)}")


COMMANDS = (get, set_, add, delete, keys, items)
