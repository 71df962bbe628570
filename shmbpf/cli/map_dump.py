"""Maps and their elements as bpftool shows them (Linux v6.1 tools/bpf/bpftool/map.c), plain and as documents."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from shmbpf.cli.btf_dump import BtfDump
from shmbpf.cli.render import hex_columns, hex_list, to_json
from shmbpf.errors import BtfError, MapError, errno_text
from shmbpf.maps.map import Map
from shmbpf.uapi import map_type_word, prog_type_word

_LINE_BYTES = 24  # key and value on one line
_ROW_BYTES = 16


# -- the map itself --


def header_document(map_: Map) -> dict[str, object]:
    """id, type, name and flags: what stands above each of several dumps."""
    found: dict[str, object] = {"id": map_.id, "type": map_type_word(map_.type), "name": map_.name, "flags": int(map_.flags)}
    return found if map_.name else {name: value for name, value in found.items() if name != "name"}


def map_document(map_: Map) -> dict[str, object]:
    """`map show -j`."""
    sizes = {"bytes_key": map_.key_size, "bytes_value": map_.value_size, "max_entries": map_.max_entries, "bytes_memlock": map_.memory_bytes}
    owner = _owner_type(map_)
    owned = {"owner_prog_type": owner, "owner_jited": False} if owner else {}
    document = header_document(map_) | sizes | owned | {"frozen": int(map_.is_frozen)}
    return document | ({"btf_id": map_.btf_id} if map_.btf_id else {})


def _owner_type(map_: Map) -> str | None:
    """The type of the programs that a program array takes: that of the first one stored."""
    owner = map_.handle.ctl.owner_prog_type
    return prog_type_word(owner - 1) if owner else None


def header_text(map_: Map) -> str:
    """`7: hash  name flows  flags 0x0`."""
    name = f"name {map_.name}  " if map_.name else ""
    return f"{map_.id}: {map_type_word(map_.type)}  {name}flags 0x{int(map_.flags):x}"


def map_text(map_: Map) -> str:
    """`map show`."""
    lines = [header_text(map_), f"\tkey {map_.key_size}B  value {map_.value_size}B  max_entries {map_.max_entries}  memlock {map_.memory_bytes}B"]
    if _owner_type(map_):
        lines.append(f"\towner_prog_type {_owner_type(map_)}  owner not jited")
    facts = [f"btf_id {map_.btf_id}"] if map_.btf_id else []
    facts += ["frozen"] if map_.is_frozen else []
    return "\n".join(lines + (["\t" + "  ".join(facts)] if facts else []))


# -- elements --


def has_types(map_: Map) -> bool:
    """True when BTF describes the map's values."""
    return map_.btf is not None and bool(map_.btf_value_type_id)


def walk(map_: Map) -> Iterator[tuple[bytes, bytes | MapError]]:
    """Every key with its value, or with why there is none. Empty slots of arrays of programs are left out."""
    from shmbpf._ffi import lib

    for key in map_.keys():
        try:
            yield key, map_.lookup(key)
        except MapError as error:
            if error.errno != errno.ENOENT or not map_.handle.ops.caps & lib.MAP_CAP_HOLDS_PROGS:
                yield key, error


def cpu_values(map_: Map, value: bytes) -> list[bytes]:
    """The copies of a per-CPU value, without padding."""
    stride = -(-map_.value_size // 8) * 8
    return [value[at : at + map_.value_size] for at in range(0, len(value), stride)]


def typed_document(map_: Map, key: bytes, value: bytes, plain: bool) -> dict[str, object]:
    """An element by its BTF types. Raises BtfError when they do not describe it."""
    dump = BtfDump(map_.btf, plain)
    document: dict[str, object] = {}
    if map_.btf_key_type_id:
        document["key"] = dump.document(map_.btf_key_type_id, key)
    if map_.is_percpu:
        copies = enumerate(cpu_values(map_, value))
        document["values"] = [{"cpu": cpu, "value": dump.document(map_.btf_value_type_id, copy)} for cpu, copy in copies]
    else:
        document["value"] = dump.document(map_.btf_value_type_id, value)
    return document


def element_document(map_: Map, key: bytes, value: bytes | MapError) -> dict[str, object]:
    """An element of `map dump -j` and `map lookup -j`."""
    document: dict[str, object] = {"key": hex_list(key)}
    if isinstance(value, MapError):
        return document | {"value": {"error": errno_text(value.errno)}}
    if map_.is_percpu:
        document["values"] = [{"cpu": cpu, "value": hex_list(copy)} for cpu, copy in enumerate(cpu_values(map_, value))]
    else:
        document["value"] = hex_list(value)
    if has_types(map_):
        try:
            document["formatted"] = typed_document(map_, key, value, plain=False)
        except BtfError:
            pass  # its bytes are there
    return document


def element_text(map_: Map, key: bytes, value: bytes | MapError) -> str:
    """An element of a plain dump without types."""
    if isinstance(value, MapError):
        missing = "<no entry>" if value.errno == errno.ENOENT else errno_text(value.errno)
        return _pair_text(key, missing, len(missing))
    if map_.is_percpu:
        copies = (_titled(f"value (CPU {cpu:02d}):", copy) for cpu, copy in enumerate(cpu_values(map_, value)))
        return "\n".join(["key:", hex_columns(key), *copies])
    return _pair_text(key, hex_columns(value), len(value))


def _pair_text(key: bytes, value: str, value_bytes: int) -> str:
    if len(key) > _ROW_BYTES or value_bytes > _ROW_BYTES:
        return f"key:\n{hex_columns(key)}\nvalue:\n{value}"
    between = "  " if len(key) + value_bytes <= _LINE_BYTES else "\n"
    return f"key: {hex_columns(key)}{between}value: {value}"


def _titled(title: str, data: bytes) -> str:
    return f"{title}{chr(10) if len(data) > _ROW_BYTES else ' '}{hex_columns(data)}"


def lookup_text(map_: Map, key: bytes, value: bytes) -> str:
    """`map lookup`: by types when there are any."""
    if has_types(map_):
        try:
            return to_json(typed_document(map_, key, value, plain=True), True)
        except BtfError:
            pass
    return element_text(map_, key, value)


def missing_text(key: bytes) -> str:
    """`map lookup` of a key that is not there."""
    return f"key:\n{hex_columns(key)}\n\nNot found"


# -- dumps --


def dump_document(map_: Map) -> list[dict[str, object]]:
    """`map dump -j`."""
    return [element_document(map_, key, value) for key, value in walk(map_)]


def typed_dump_document(map_: Map) -> list[object]:
    """The plain dump of a map with types, which looks like JSON."""
    return [typed_document(map_, key, value, plain=True) for key, value in walk(map_) if isinstance(value, bytes)]


def dump_lines(map_: Map) -> Iterator[str]:
    """The plain dump of a map without types, piece by piece."""
    count = 0
    for key, value in walk(map_):
        count += isinstance(value, bytes)
        yield element_text(map_, key, value)
    yield f"Found {count} element{'' if count == 1 else 's'}"


def dump_text(map_: Map) -> str:
    """`map dump`, plain."""
    if has_types(map_):
        try:
            return to_json(typed_dump_document(map_), True)
        except BtfError:
            pass
    return "\n".join(dump_lines(map_))
