"""A map as a Python mapping: keys and values typed by BTF where it is known, bytes where it is not.

    flows[{"addr": 1, "port": 53}] = {"packets": 1}      flows["..."] by any codec; bytes are always taken as they are
    counters[0]  ->  [7, 0, 0, 12]                        per-CPU: one value for each possible CPU
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from importlib import import_module
from weakref import WeakSet

from shmbpf._ffi import ffi, lib
from shmbpf.errors import MapError, ShmbpfError, map_error
from shmbpf.maps.codec import BytesCodec, Codec, codec_of_type, plain_codec
from shmbpf.maps.layout import Array, Bits, Node, Number, Real, Record, Text, ValueRefused, find_part
from shmbpf.maps.map import Map
from shmbpf.shm.pins import PinTree
from shmbpf.uapi import ANY, map_type_word

_BATCH = 256


class FrozenRecord(dict):
    """A struct used as a key: a dict that cannot change, and so can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def _refuse(self, *_: object, **__: object) -> None:
        raise TypeError("a map's key cannot be changed: make a new dict of it")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse  # type: ignore[assignment]


def hashable(value: object) -> object:
    """The same value, usable as a dict's key: dicts become FrozenRecords, lists tuples."""
    if isinstance(value, dict):
        return FrozenRecord({name: hashable(item) for name, item in value.items()})
    if isinstance(value, list):
        return tuple(hashable(item) for item in value)
    return value


class TypedMap(MutableMapping):
    """A `Map` behind codecs. `raw` is the Map itself, for bytes and facts (`raw.type`, `raw.max_entries`, `raw.freeze()`).

    A per-CPU value is a list with one value for each possible CPU. An array's keys are numbers, whether BTF says so or not. A program array's values are
    program ids; a loaded program may be stored as it is (`jmp[2] = obj.programs["parse_tcp"]`). Errors are the Map's
    (`MapKeyError`, which is a KeyError; `MapFullError`; ...) and ValueRefused for values the type cannot hold.
    """

    def __init__(self, map_: Map, *, key: Codec | None = None, value: Codec | None = None, owns_namespace: bool = False):
        self.raw = map_
        self.key_codec = key or _key_codec(map_)
        self.value_codec = value or _value_codec(map_)
        self._owns_namespace = owns_namespace
        self._stride = -(-map_.value_size // 8) * 8
        self._streams: WeakSet = WeakSet()  #: of records(): they end with the map

    # -- facts --

    @property
    def id(self) -> int:
        """The map's id in its namespace."""
        return self.raw.id

    @property
    def name(self) -> str:
        """The map's name (at most 15 bytes, need not be unique)."""
        return self.raw.name

    # -- coding --

    def encode_key(self, key: object) -> bytes:
        """The bytes of a key."""
        return self.key_codec.encode(key, f"map {self.name!r} key")

    def encode_value(self, value: object) -> bytes:
        """The bytes of a value as bpf(2) takes it: of all possible CPUs for a per-CPU map."""
        where = f"map {self.name!r} value"
        if self.raw.handle.ops.caps & lib.MAP_CAP_HOLDS_PROGS:
            value = self._program_id(value)
        if not self.raw.is_percpu:
            return self.value_codec.encode(value, where)
        if isinstance(value, (bytes, bytearray, memoryview)) and len(value) == self.raw.value_bytes:
            return bytes(value)
        count = self.raw.value_bytes // self._stride
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise ValueRefused(f"{where}: expected a list of {count} values, one for each possible CPU, got {value!r:.80}")
        return b"".join(self.value_codec.encode(item, f"{where} (CPU {cpu})").ljust(self._stride, b"\0") for cpu, item in enumerate(value))

    def _program_id(self, value: object) -> object:
        """The id of a loaded program, which knows its namespace; anything else as it is."""
        program = getattr(value, "program", value)
        namespace = getattr(program, "namespace", None)
        if namespace is None:
            return value
        if namespace.name != self.raw.namespace.name:
            raise ShmbpfError(f"map {self.name!r} of namespace {self.raw.namespace.name!r} cannot hold {program!r} of namespace {namespace.name!r}")
        return program.id

    def decode_key(self, data: bytes) -> object:
        """The Python value of a key's bytes; hashable."""
        return hashable(self.key_codec.decode(data))

    def decode_value(self, data: bytes) -> object:
        """The Python value of a value's bytes; a list for a per-CPU map."""
        if not self.raw.is_percpu:
            return self.value_codec.decode(data)
        return [self.value_codec.decode(part) for part in self.cpu_values(data)]

    def cpu_values(self, data: bytes) -> list[bytes]:
        """The per-CPU parts of a value's bytes, without their padding."""
        return [data[at : at + self.raw.value_size] for at in range(0, len(data), self._stride)]

    # -- the mapping --

    def lookup(self, key: object, flags: int = 0) -> object:
        """A copy of the key's value; flags: F_LOCK. Raises MapKeyError."""
        return self.decode_value(self.raw.lookup(self.encode_key(key), flags))

    def update(self, *args: object, flags: int = ANY) -> None:  # type: ignore[override]
        """bpf(2)'s update: `update(key, value, flags=0)`. With a mapping or an iterable of pairs alone, all of them are stored, as dict.update() does."""
        if len(args) == 1:
            super().update(args[0])
            return
        key, value, *rest = args
        self.raw.update(self.encode_key(key), self.encode_value(value), *(rest or [flags]))

    def __getitem__(self, key: object) -> object:
        return self.lookup(key)

    def __setitem__(self, key: object, value: object) -> None:
        self.raw.update(self.encode_key(key), self.encode_value(value), ANY)

    def __delitem__(self, key: object) -> None:
        self.raw.delete(self.encode_key(key))

    def __iter__(self) -> Iterator[object]:
        return (self.decode_key(key) for key in self.raw.keys())

    def __len__(self) -> int:
        """Number of keys, found by walking them."""
        return sum(1 for _ in self.raw.keys())

    def __contains__(self, key: object) -> bool:
        try:
            self.raw.lookup(self.encode_key(key))
        except MapError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def items(self) -> Iterator[tuple[object, object]]:  # type: ignore[override]
        """All pairs, read one by one; keys without a value (empty slots) and keys that vanish meanwhile are left out."""
        return ((self.decode_key(key), self.decode_value(value)) for key, value in self.raw.items())

    def values(self) -> Iterator[object]:  # type: ignore[override]
        """All values, in the order of items()."""
        return (self.decode_value(value) for _, value in self.raw.items())

    def pop(self, key: object, *default: object) -> object:
        """Removes a key and returns its value, in one step where the map type can."""
        try:
            return self.decode_value(self.raw.lookup_and_delete(self.encode_key(key)))
        except KeyError:
            if default:
                return default[0]
            raise

    # -- more than a mapping --

    @property
    def batch(self) -> MapBatch:
        """Many elements in one call."""
        return MapBatch(self)

    def add(self, key: object, n: int, field: str | None = None, cpu: int | None = None) -> int:
        """Adds `n` to a number of the key's value with one atomic instruction, exact among all processes; returns the new number.

        `field` names it inside a struct (`stats.bytes`, `counts[3]`); `cpu` says which CPU's copy of a per-CPU map. Raises MapKeyError.
        """
        offset, node = self._number_at(field)
        if self.raw.is_percpu and cpu is None:
            raise ShmbpfError(f"map {self.name!r} is per-CPU: say which CPU's value to add to (cpu=N)")
        total = self.raw.add(self.encode_key(key), n, offset=offset, width=node.size, cpu=cpu or 0)
        return total - (1 << 8 * node.size) if node.signed and total > node.high else total

    def _number_at(self, field: str | None) -> tuple[int, Number]:
        node = self.value_codec.node or plain_codec(self.raw.value_size).node
        offset = 0
        if node is not None and field:
            offset, node = find_part(node, field)
        if not isinstance(node, Number) or node.size not in (1, 2, 4, 8):
            known = f" (fields: {', '.join(node.by_name)})" if isinstance(node, Record) else ""
            raise ShmbpfError(f"map {self.name!r}: {field or 'its value'} is no whole number to add to: name a field{known}")
        return offset, node

    def view(self) -> memoryview:
        """An array's values as Linux's mmap shows them: zero-copy, writable, elements round_up(value_size, 8) bytes apart."""
        return self.raw.view()

    def array(self):
        """The same memory as a NumPy array of `max_entries` elements, structured as BTF says. Needs NumPy."""
        import numpy

        node = self.value_codec.node or plain_codec(self.raw.value_size).node
        inner = f"V{self.raw.value_size}" if node is None else dtype_of(node)
        dtype = numpy.dtype({"names": ["value"], "formats": [inner], "offsets": [0], "itemsize": self._stride})
        return numpy.frombuffer(self.view(), dtype=dtype)["value"]

    # -- events --

    def records(self, timeout: float | None = None, *, type: str | None = None, pages: int = 16, cpus: Sequence[int] | None = None):
        """The events that programs send through a perf event array or a ring buffer from now on: for `for` and `async for`, across CPUs in order of time.

        Gives Records, and a Lost where records were lost; with `type` (the name of a struct in the object's BTF, or `OBJ.o:STRUCT`) DecodedRecords, which have a `value`. Ends
        after `timeout` seconds without an event (None: never), or with stop(). A perf event array gets a ring of `pages` data pages for each CPU (of `cpus`), in the
        slot of its number; they leave with the iterator, or with its close(). Raises ShmbpfError for other maps and unknown types.
        """
        stream = _events_above().follow_map(self.raw, timeout=timeout, type=type, pages=pages, cpus=cpus)
        self._streams.add(stream)
        return stream

    def open_ring(self, cpu: int, pages: int = 16, slot: int | None = None, **options):
        """A perf ring of one CPU in a slot (default: the CPU's number) of a perf event array, to be read by hand; the options are PerfRing.open()'s. Close it."""
        return _events_above().PerfRing.open(self.raw, cpu, pages, slot, **options)

    def pin(self, path: str) -> None:
        """Pins the map at a path of the namespace's pin tree (directories are made): it outlives every process until the pin is removed. PinError as bpffs."""
        PinTree(self.raw.namespace).pin("map", self.raw.id, path, parents=True)

    def end_streams(self) -> None:
        """Ends what records() has given, in whichever thread it is used."""
        for stream in list(self._streams):
            stream.close()

    def close(self) -> None:
        """Lets go of the map, and of what follows it. Idempotent."""
        self.end_streams()
        self.raw.close()
        if self._owns_namespace:
            self.raw.namespace.close()

    def __enter__(self) -> TypedMap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{map_type_word(self.raw.type)} map {self.name!r} id {self.id}>"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _events_above():
    """shmbpf.events.stream, by name: maps are below events and know nothing of them but this door."""
    return import_module("shmbpf.events.stream")


def _key_codec(map_: Map) -> Codec:
    if not map_.btf_key_type_id and map_.handle.ops.caps & lib.MAP_CAP_INDEXED:
        return plain_codec(map_.key_size)
    return codec_of_type(map_.btf, map_.btf_key_type_id, map_.key_size)


def _value_codec(map_: Map) -> Codec:
    if map_.handle.ops.caps & lib.MAP_CAP_HOLDS_PROGS:
        return plain_codec(map_.value_size)
    return codec_of_type(map_.btf, map_.btf_value_type_id, map_.value_size)


class MapBatch:
    """bpf(2)'s batch commands over a TypedMap. A refusal raises MapError; `done` then says how many elements were handled before it."""

    def __init__(self, typed: TypedMap):
        self._typed = typed
        self._map = typed.raw

    def lookup(self, *, delete: bool = False, flags: int = 0) -> Iterator[tuple[object, object]]:
        """All pairs, a few hundred per call; with `delete`, each is removed as it is read."""
        self._map.check_number(flags, "flags")
        position, start, room = ffi.new("uint64_t *"), 1, _BATCH
        while True:
            keys, values = ffi.new("uint8_t[]", room * self._map.key_size), ffi.new("uint8_t[]", max(room * self._map.value_bytes, 1))
            count = ffi.new("uint32_t *", room)
            err = lib.map_lookup_batch(self._map.handle, self._map.namespace.client, start, position, keys, values, count, flags, delete)
            if err not in (0, -errno.ENOENT, -errno.ENOSPC):
                raise self._error("lookup_batch", -err, 0)
            yield from self._pairs(keys, values, count[0])
            if err == -errno.ENOENT:
                return
            if err == -errno.ENOSPC and count[0] == 0:
                room *= 2  # one bucket holds more than fits
            start = 0 if count[0] else start

    def update(self, items: Iterable[tuple[object, object]] | MutableMapping, flags: int = 0) -> int:
        """Stores all pairs; returns how many."""
        self._map.check_number(flags, "flags")
        pairs = items.items() if hasattr(items, "items") else items
        coded = [(self._typed.encode_key(key), self._typed.encode_value(value)) for key, value in pairs]
        keys, values = b"".join(key for key, _ in coded), b"".join(value for _, value in coded)
        count = ffi.new("uint32_t *", len(coded))
        err = lib.map_update_batch(self._map.handle, self._map.namespace.client, keys, values, count, flags)
        if err:
            raise self._error("update_batch", -err, count[0])
        return count[0]

    def delete(self, keys: Iterable[object]) -> int:
        """Removes all keys; returns how many. Stops at the first that is missing."""
        coded = [self._typed.encode_key(key) for key in keys]
        count = ffi.new("uint32_t *", len(coded))
        err = lib.map_delete_batch(self._map.handle, self._map.namespace.client, b"".join(coded), count)
        if err:
            raise self._error("delete_batch", -err, count[0])
        return count[0]

    def _pairs(self, keys, values, count: int) -> Iterator[tuple[object, object]]:
        key_size, value_bytes = self._map.key_size, self._map.value_bytes
        all_keys, all_values = bytes(ffi.buffer(keys, count * key_size)), bytes(ffi.buffer(values, count * value_bytes))
        for index in range(count):
            key = all_keys[index * key_size : (index + 1) * key_size]
            yield self._typed.decode_key(key), self._typed.decode_value(all_values[index * value_bytes : (index + 1) * value_bytes])

    def _error(self, operation: str, number: int, done: int) -> MapError:
        error = map_error(number, f"map {self._map.name!r}: {operation} after {done} elements")
        error.done = done
        return error


def dtype_of(node: Node) -> object:
    """What numpy.dtype() makes of a type. Bit fields show as the raw bytes they lie in."""
    if isinstance(node, Bits):
        return f"V{node.size}"
    if isinstance(node, Number):
        return f"<{'i' if node.signed else 'u'}{node.size}" if node.size in (1, 2, 4, 8) else f"V{node.size}"
    if isinstance(node, Real):
        return f"<f{node.size}"
    if isinstance(node, Text):
        return f"S{node.size}"
    if isinstance(node, Array):
        return (dtype_of(node.element), (node.count,))
    if isinstance(node, Record):
        names = [field.name for field in node.fields]
        return {"names": names, "formats": [dtype_of(field.node) for field in node.fields], "offsets": [field.at for field in node.fields],
                "itemsize": node.size}  # fmt: skip
    return f"V{node.size}"


__all__ = ["BytesCodec", "FrozenRecord", "MapBatch", "TypedMap", "dtype_of", "hashable"]
