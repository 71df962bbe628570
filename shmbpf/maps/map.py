"""A live map, as Python sees it: bytes in, bytes out, with bpf(2)'s errors. `shmbpf.maps.typed.TypedMap` puts BTF types on top."""

from __future__ import annotations

import errno
import mmap
import weakref
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache, partial

from shmbpf._ffi import ffi, lib
from shmbpf.elf.btf import Btf, Kind
from shmbpf.errors import BtfError, ClosedError, MapError, map_error
from shmbpf.shm.live import Handle, owned, take_away
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import Segment
from shmbpf.spec import MapSpec
from shmbpf.uapi import ANY, MapType, map_type_word

#: bytes of the types that a map of events keeps; those of larger objects (half a kernel) come from the file: --type OBJ.o:STRUCT
MAX_KEPT_BTF = 1 << 20
_KEPT_KINDS = (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.TYPEDEF)


#: Linux v6.12 kernel/bpf/syscall.c, bpf_obj_name_cpy()
_NAME = re.compile(r"[A-Za-z0-9_.]*")


class Map:
    """One map of a namespace. Keys and values are `bytes`; a per-CPU value is round_up(value_size, 8) bytes for each possible CPU, CPU 0 first.

    The object keeps the map alive until `close()`; used afterwards it raises ClosedError, whichever thread closed it. Every failure is a `MapError` with
    bpf(2)'s errno (`MapKeyError` for ENOENT, `MapFullError` for E2BIG).
    """

    handle = Handle()

    def __init__(self, namespace: Namespace, segment: Segment):
        self.namespace = namespace
        self._segment = segment
        handle = ffi.new("struct map *")
        err = lib.map_attach(handle, segment.base, segment.bytes)
        if err:
            segment.close()
            raise map_error(-err, f"{segment.name}: sizes and layout disagree, the segment is damaged")
        self.handle = owned(handle, partial(lib.map_detach, handle), segment.close)
        attr = self.handle.ctl.attr
        self.id: int = self.handle.id
        self.type = MapType(self.handle.type)
        self.name: str = ffi.string(attr.name, 16).decode(errors="replace")
        self.key_size, self.value_size, self.max_entries = self.handle.key_size, self.handle.value_size, self.handle.max_entries
        self.flags, self.map_extra = self.handle.flags, attr.map_extra
        self.btf_id, self.btf_key_type_id, self.btf_value_type_id = attr.btf_id, attr.btf_key_type_id, attr.btf_value_type_id
        self._value_bytes = lib.map_value_bytes(self.handle)
        self._btf: Btf | None = None
        self._rings: weakref.WeakSet = weakref.WeakSet()
        self._ring_slots: dict[int, int] = {}  #: slots filled through this object, which go with it, as with the kernel's open file

    # -- making and opening --

    @classmethod
    def create(cls, namespace: Namespace, spec: MapSpec, *, btf_id: int = 0) -> Map:
        """A new, empty map as BPF_MAP_CREATE makes it (sizes in bytes). Fixes the namespace's CPU count if nothing has. SpaceError: no room.

        `btf_id` is that of its object, whose maps and programs share it (0: one of its own).
        """
        with namespace.creating():  # nobody may change the number of CPUs in between
            return cls(namespace, cls._create_segment(namespace, spec, btf_id))

    @staticmethod
    def _create_segment(namespace: Namespace, spec: MapSpec, btf_id: int) -> Segment:
        if not _NAME.fullmatch(spec.name[:15]):
            raise map_error(errno.EINVAL, f"map {spec.name!r}: a map's name is made of letters, digits, '_' and '.'")
        for what, number, bits in (("type", spec.type, 32), ("key size", spec.key_size, 32), ("value size", spec.value_size, 32),
                                   ("max_entries", spec.max_entries, 32), ("flags", spec.flags, 32), ("map_extra", spec.map_extra, 64)):  # fmt: skip
            if not 0 <= number < 1 << bits:
                raise map_error(errno.EINVAL, f"map {spec.name!r}: {what} {number}")
        namespace.fix_cpus(namespace.possible_cpus or None)
        attr, blob = _attributes(namespace, spec, btf_id)
        layout = ffi.new("struct map_layout *")
        err = lib.map_plan(attr, layout)
        if err:
            raise map_error(-err, _refusal(spec, -err))

        def fill(segment: Segment, number: int) -> None:
            made = lib.map_format(segment.base, attr, number, blob)
            if made:
                raise map_error(-made, f"map {spec.name!r}: cannot be initialised")

        return namespace.create_segment("map", layout.total, fill)[0]

    @classmethod
    def open(cls, namespace: Namespace, number: int) -> Map:
        """The map with this id. Raises MapKeyError when there is none."""
        try:
            return cls(namespace, namespace.open_segment("map", number))
        except FileNotFoundError:
            raise map_error(errno.ENOENT, f"namespace {namespace.name!r} has no map with id {number} (shmbpf map show lists them)") from None

    # -- facts --

    @property
    def is_percpu(self) -> bool:
        """True when each CPU has a value of its own."""
        return bool(self.handle.ops.caps & lib.MAP_CAP_PERCPU)

    @property
    def _holds_programs(self) -> bool:
        return bool(self.handle.ops.caps & lib.MAP_CAP_HOLDS_PROGS)

    @property
    def _holds_rings(self) -> bool:
        return bool(self.handle.ops.caps & lib.MAP_CAP_HOLDS_RINGS)

    @property
    def is_frozen(self) -> bool:
        """True after freeze(): no more changes from this side."""
        return bool(self.handle.ctl.frozen)

    @property
    def value_bytes(self) -> int:
        """Length of a value as lookup() returns it."""
        return self._value_bytes

    @property
    def memory_bytes(self) -> int:
        """Bytes of shared memory the map takes."""
        return self._segment.bytes

    @property
    def btf(self) -> Btf | None:
        """Type information kept with the map, or None."""
        handle = self.handle
        size = handle.ctl.attr.btf_bytes
        if self._btf is None and size:
            start = handle.layout.btf_off
            self._btf = Btf.from_bytes(bytes(ffi.buffer(self._segment.base + start, size)))
        return self._btf

    # -- elements: bpf(2) --

    def lookup(self, key: bytes, flags: int = 0) -> bytes:
        """A copy of the key's value."""
        if flags:
            self.check_number(flags, "flags")
        value = ffi.new("uint8_t[]", max(self._value_bytes, 1))
        self._call("lookup", lib.map_lookup_elem(self.handle, self.namespace.client, self._key(key), value, flags), key)
        return bytes(ffi.buffer(value, self._value_bytes))

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Stores a value; flags: ANY, NOEXIST, EXIST, with F_LOCK."""
        if flags:
            self.check_number(flags, "flags")
        if len(value) != self._value_bytes:
            raise map_error(errno.EINVAL, f"map {self.name!r}: value expected {self._value_bytes} bytes, got {len(value)}")
        with self.namespace.mutex:
            if self._holds_rings:
                result = self._store_ring(self._key(key), value, flags)
            elif self._holds_programs:
                result = self._store_program(int.from_bytes(self._key(key), "little"), int.from_bytes(value, "little"), flags)
            else:
                result = lib.map_update_elem(self.handle, self.namespace.client, self._key(key), value, flags)
            self._call("update", result, key)

    def delete(self, key: bytes) -> None:
        """Removes a key."""
        slot = self._slot_changing(int.from_bytes(self._key(key), "little")) if self._holds_programs else nullcontext()
        with self.namespace.mutex, slot:
            self._call("delete", lib.map_delete_elem(self.handle, self.namespace.client, self._key(key)), key)

    def lookup_and_delete(self, key: bytes, flags: int = 0) -> bytes:
        """Removes a key and returns its value."""
        self.check_number(flags, "flags")
        value = ffi.new("uint8_t[]", max(self._value_bytes, 1))
        with self.namespace.mutex:
            err = lib.map_lookup_and_delete_elem(self.handle, self.namespace.client, self._key(key), value, flags)
        self._call("lookup_and_delete", err, key)
        return bytes(ffi.buffer(value, self._value_bytes))

    def next_key(self, key: bytes | None = None) -> bytes:
        """The key after `key` (the first one for None, or for a hash key that is gone). MapKeyError after the last."""
        following = ffi.new("uint8_t[]", max(self.key_size, 1))
        start = ffi.NULL if key is None else self._key(key)
        self._call("get_next_key", lib.map_get_next_key(self.handle, self.namespace.client, start, following), key)
        return bytes(ffi.buffer(following, self.key_size))

    def keys(self) -> Iterator[bytes]:
        """All keys, in the map's order. A walk during changes may miss or repeat keys, as with bpf(2), but ends."""
        key = None
        for _ in range(2 * self.max_entries + 2):
            try:
                key = self.next_key(key)
            except MapError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs; keys that vanish during the walk are left out."""
        for key in self.keys():
            try:
                yield key, self.lookup(key)
            except MapError as error:
                if error.errno != errno.ENOENT:
                    raise

    def add(self, key: bytes, delta: int, *, offset: int = 0, width: int | None = None, cpu: int = 0) -> int:
        """Adds to an integer of a value with one atomic instruction, exact among all processes; returns the new value (unsigned)."""
        for what, number in (("cpu", cpu), ("offset", offset), ("width", width or 0)):
            self.check_number(number, what, 32)
        result = ffi.new("uint64_t *")
        size = self.value_size if width is None else width
        err = lib.map_add_value(self.handle, self.namespace.client, self._key(key), cpu, offset, size, delta & 0xFFFFFFFFFFFFFFFF, result)
        self._call("add", err, key)
        return result[0]

    def freeze(self) -> None:
        """No more changes from outside; programs may still write."""
        self._call("freeze", lib.map_freeze(self.handle, self.namespace.client), None)

    def view(self) -> memoryview:
        """The values of an array as Linux's mmap shows them: writable, zero-copy, elements round_up(value_size, 8) apart. EINVAL for other types."""
        if self.type != MapType.ARRAY:
            raise map_error(errno.EINVAL, f"map {self.name!r}: only arrays can be viewed, this is of type {map_type_word(self.type)}")
        handle = self.handle
        size = handle.value_stride * self.max_entries
        access = mmap.ACCESS_READ if self.is_frozen else mmap.ACCESS_WRITE
        return memoryview(mmap.mmap(self._segment.fd, handle.layout.bytes[0], access=access))[:size]  # a mapping of its own: it may outlive this object

    # -- health --

    def check(self) -> None:
        """Looks at every link of the structure. Raises MapError(EUCLEAN) saying what is wrong."""
        why = ffi.new("char[256]")
        err = lib.map_check(self.handle, self.namespace.client, why, 256)
        if err:
            raise map_error(-err, f"map {self.name!r} (id {self.id}): {ffi.string(why).decode(errors='replace')}")

    def recover(self) -> int:
        """Puts back what dead processes left behind; returns the number of repairs."""
        return max(lib.map_recover(self.handle, self.namespace.client), 0)

    def close(self) -> None:
        """Lets go of the map. Idempotent."""
        for opened in list(self._rings):
            opened.close()
        for index, ring in list(self._ring_slots.items()):
            self.withdraw_ring(index, ring)
        take_away(self, "handle")

    def closed_text(self) -> str:
        """What using it after its end is answered with."""
        return f"map {self.name!r} is closed (it, its object or its runtime): open it again to use it"

    def __enter__(self) -> Map:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{map_type_word(self.type)} map {self.name!r} id {self.id}>"

    @contextmanager
    def _slot_changing(self, index: int) -> Iterator[None]:
        """Around a change of a program array's slot: afterwards the array holds the programs in its slots and no others, as the kernel's does."""
        with self.namespace.creating():
            before = lib.prog_array_slot(self.handle, index)
            try:
                yield
            finally:
                if before or not lib.prog_array_slot(self.handle, index):
                    stored = {lib.prog_array_slot(self.handle, slot) for slot in range(self.max_entries)} - {0}
                    self.namespace.release(f"map.{self.id}", {f"prog.{number}" for number in stored})

    def _store_program(self, index: int, number: int, flags: int) -> int:
        """Puts a program into a slot and holds it. EBADF for an id that is no program's, EINVAL for a program of another type than those before."""
        try:
            segment = self.namespace.open_segment("prog", number)
        except FileNotFoundError:
            raise map_error(errno.EBADF, f"map {self.name!r}: no program has id {number} (shmbpf prog show lists them)") from None
        with segment, self._slot_changing(index):
            ctl = lib.prog_ctl_of(segment.base, segment.bytes)
            self.namespace.hold(f"map.{self.id}", f"prog.{number}")
            return lib.prog_array_store(self.handle, index, number, ctl.head.type, ctl.attach_type, flags)

    def add_ring(self, ring: object) -> None:
        """A ring that ends with this object: it is closed first."""
        self._rings.add(ring)

    def withdraw_ring(self, index: int, ring: int) -> None:
        """Empties a slot of a perf event array if it still holds this ring, put there through this process."""
        if self._ring_slots.get(index) == ring:
            del self._ring_slots[index]
        with suppress(ClosedError):  # map or namespace went first, and the slot with them
            lib.perf_array_withdraw(self.handle, self.namespace.client, index, ring)

    def _store_ring(self, key: bytes, value: bytes, flags: int) -> int:
        """Puts a perf ring into a slot. EBADF for an id that is no ring's."""
        index, ring = int.from_bytes(key, "little"), int.from_bytes(value, "little")
        try:
            self.namespace.open_segment("ring", ring).close()
        except FileNotFoundError:
            raise map_error(errno.EBADF, f"map {self.name!r}: there is no perf ring {ring}: its consumer makes one (PerfRing.open)") from None
        result = lib.map_update_elem(self.handle, self.namespace.client, key, value, flags)
        if result == 0 and not self.flags & lib.BPF_F_PRESERVE_ELEMS:
            self._ring_slots[index] = ring
        return result

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise map_error(errno.EINVAL, f"map {self.name!r}: key expected {self.key_size} bytes, got {len(key)}")
        return key

    def check_number(self, number: int, what: str, bits: int = 64) -> None:
        """Numbers that C cannot take are refused as bpf(2) refuses those it does not know."""
        if not 0 <= number < 1 << bits:
            raise map_error(errno.EINVAL, f"map {self.name!r}: {what} {number}")

    def _call(self, operation: str, result: int, key: bytes | None) -> None:
        if result < 0:
            raise map_error(-result, f"map {self.name!r}: {operation}{'' if key is None else ' key ' + key.hex(' ')}{_hint(self, -result)}")


def _hint(map_: Map, number: int) -> str:
    if number == errno.ENOENT:
        return ": no such key" if map_.handle.ops.caps & lib.MAP_CAP_INDEXED == 0 else ": nothing there"
    if number == errno.E2BIG and not map_.handle.ops.caps & lib.MAP_CAP_INDEXED:
        return f" (all max_entries={map_.max_entries} are in use: raise max_entries or delete some)"
    if number == errno.E2BIG:
        return f" (indexes are 0 to {map_.max_entries - 1})"
    if number == errno.EPERM and map_.is_frozen:
        return " (the map is frozen)"
    return ""


def _attributes(namespace: Namespace, spec: MapSpec, btf_id: int):
    """`struct map_attr` of a spec, and its BTF blob or NULL."""
    blob, key_id, value_id = _types_to_keep(spec)
    attr = ffi.new("struct map_attr *")
    attr.type, attr.key_size, attr.value_size, attr.max_entries = spec.type, spec.key_size, spec.value_size, spec.max_entries
    attr.flags, attr.map_extra, attr.ncpu = spec.flags, spec.map_extra, namespace.possible_cpus
    attr.spin_lock_off = _spin_lock_offset(spec)
    attr.name = spec.name.encode()[:15]
    if blob is not ffi.NULL:
        attr.btf_key_type_id, attr.btf_value_type_id, attr.btf_bytes = key_id, value_id, len(blob)
    if key_id or value_id:
        attr.btf_id = btf_id or new_btf_id(namespace)
    return attr, blob


def _types_to_keep(spec: MapSpec):
    """BTF blob (or NULL) and the ids of the key's and value's types in it.

    Maps that events come out of have neither (libbpf gives the kernel none: tools/lib/bpf/libbpf.c, bpf_object__create_map()); they keep all types of their object
    that have a name, so that consumers in other processes can decode records.
    """
    if spec.btf is None:
        return ffi.NULL, 0, 0
    if spec.type in (MapType.PERF_EVENT_ARRAY, MapType.RINGBUF):
        blob = _named_types(spec.btf)
        return (blob if 0 < len(blob) <= MAX_KEPT_BTF else ffi.NULL), 0, 0
    if not spec.btf_key_type_id and not spec.btf_value_type_id:
        return ffi.NULL, 0, 0
    subset, ids = spec.btf.subset([spec.btf_key_type_id, spec.btf_value_type_id])
    return subset.to_bytes(), ids.get(spec.btf_key_type_id, 0), ids.get(spec.btf_value_type_id, 0)


@lru_cache(maxsize=8)
def _named_types(btf: Btf) -> bytes:
    try:
        return btf.subset(entry.id for entry in btf if entry.name and entry.kind in _KEPT_KINDS)[0].to_bytes()
    except BtfError:
        return b""  # types that do not hold together: the records' bytes can still be seen


def new_btf_id(namespace: Namespace) -> int:
    """A number for an object's type information."""
    return lib.shm_new_id(ffi.addressof(namespace.ctl, "next_btf_id"))


def _spin_lock_offset(spec: MapSpec) -> int:
    """Byte offset of the value's `struct bpf_spin_lock`, by its BTF, as the kernel finds it."""
    if spec.btf is None or not spec.btf_value_type_id:
        return lib.MAP_NO_SPIN_LOCK
    value = spec.btf.resolve(spec.btf_value_type_id)
    for member in getattr(value, "members", None) or ():
        if spec.btf.resolve(member.type).name == "bpf_spin_lock":
            return member.bit_offset // 8
    return lib.MAP_NO_SPIN_LOCK


def _refusal(spec: MapSpec, number: int) -> str:
    where = f" in section {spec.section!r}" if spec.section else ""
    what = f"map {spec.name!r}{where} ({map_type_word(spec.type)}, key {spec.key_size}, value {spec.value_size}, max_entries {spec.max_entries}, flags {spec.flags:#x})"
    if number == errno.EOPNOTSUPP:
        return f"{what}: map type {map_type_word(spec.type)} ({spec.type}) does not exist here (shmbpf feature lists those that do)"
    return f"{what} is refused"
