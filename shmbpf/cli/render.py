"""Documents as bpftool prints them: its JSON writer's layout, its hex columns.

A document is made of dicts, lists, strings, numbers, booleans and None; `Raw` is text that appears as it is, without quotes (`0x1f` in plain dumps of
bit fields). Layout: Linux v6.1 tools/bpf/bpftool/json_writer.c, main.c (fprint_hex(), print_hex_data_json()).
"""

from __future__ import annotations

import json
import math

import click


class Raw(str):
    """Text that is printed as it is."""


class Pairs(list):
    """An object whose names may repeat: (name, value) pairs. BTF's anonymous members are all called ""."""


def to_json(document: object, pretty: bool) -> str:
    """One JSON document, without a newline at its end."""
    out: list[str] = []
    _write(out, document, pretty, 0)
    return "".join(out)


def _write(out: list[str], item: object, pretty: bool, depth: int) -> None:
    if isinstance(item, (dict, Pairs)):
        _write_object(out, list(item.items()) if isinstance(item, dict) else item, pretty, depth)
    elif isinstance(item, (list, tuple)):
        out.append("[")
        for index, entry in enumerate(item):
            out.append("," if index else "")
            _write(out, entry, pretty, depth + 1)
        out.append(_newline(pretty, depth) if item else "")
        out.append("]")
    else:
        out.append(item if isinstance(item, Raw) else _scalar(item))


def _write_object(out: list[str], item: list[tuple[str, object]], pretty: bool, depth: int) -> None:
    out.append("{")
    for index, (name, entry) in enumerate(item):
        out.append("," if index else "")
        out.append(_newline(pretty, depth + 1))
        out.append(f"{json.dumps(name)}: " if pretty else f"{json.dumps(name)}:")
        _write(out, entry, pretty, depth + 1)
    out.append(_newline(pretty, depth) if item else "")
    out.append("}")


def _newline(pretty: bool, depth: int) -> str:
    return "\n" + "    " * depth if pretty else ""


def _scalar(item: object) -> str:
    if isinstance(item, float) and not math.isfinite(item):
        item = str(item)  # JSON has no word for it
    if isinstance(item, str):
        return json.dumps(item, ensure_ascii=not item.isprintable())  # bytes that are no text stay printable
    return json.dumps(item)


def emit(settings, document: object) -> None:
    """Prints a document in the form that was asked for (-j, -p)."""
    click.echo(to_json(document, settings.pretty))


def emit_done(settings) -> None:
    """What a command says that did its work and has nothing to show: nothing, or `null`."""
    if settings.json:
        emit(settings, None)


def hex_list(data: bytes) -> list[str]:
    """Bytes as bpftool's JSON has them."""
    return [f"0x{byte:02x}" for byte in data]


def hex_columns(data: bytes) -> str:
    """Bytes as plain dumps have them: 16 on a line, a wider gap after 8."""
    rows = [data[at : at + 16] for at in range(0, len(data), 16)]
    return "\n".join("  ".join(part for part in (row[:8].hex(" "), row[8:].hex(" ")) if part) for row in rows)
