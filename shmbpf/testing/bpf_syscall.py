"""bpf(2) through ctypes: one function per command, plain integers and bytes in, plain integers and bytes out.

Everything the kernel refuses is an OSError with the kernel's errno, so that a test can compare it with ours. Layouts are those of
`union bpf_attr` (Linux v6.12 include/uapi/linux/bpf.h); fields behind the ones packed here are zero.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

_NR_BPF: Final = {"x86_64": 321, "aarch64": 280}.get(platform.machine())
_ATTR_BYTES: Final = 152

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY, PROG_LOAD = range(6)
PROG_TEST_RUN: Final = 10
OBJ_PIN: Final = 6
OBJ_GET: Final = 7
OBJ_GET_INFO_BY_FD: Final = 15
BTF_LOAD: Final = 18
MAP_LOOKUP_AND_DELETE, MAP_FREEZE = 21, 22
LOOKUP_BATCH, LOOKUP_AND_DELETE_BATCH, UPDATE_BATCH, DELETE_BATCH = 24, 25, 26, 27

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class VerifierError(OSError):
    """PROG_LOAD or BTF_LOAD said no; the text ends with the kernel's log."""

    def __init__(self, number: int, what: str, log: str):
        super().__init__(number, f"{what}: {os.strerror(number)}\n{log}")
        self.log = log


def bpf(cmd: int, attr: bytes) -> tuple[int, bytes]:
    """Run one command. Returns the result and the attr as the kernel left it; raises OSError, whose `attr` is the same."""
    if _NR_BPF is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {platform.machine()}")
    block = ctypes.create_string_buffer(attr.ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)
    result = _libc.syscall(_NR_BPF, cmd, block, _ATTR_BYTES)
    if result < 0:
        number = ctypes.get_errno()
        error = OSError(number, os.strerror(number))
        error.attr = block.raw
        raise error
    return result, block.raw


def _memory(data: bytes | None) -> ctypes.Array | None:
    return None if data is None else ctypes.create_string_buffer(data, max(len(data), 1))


def _address(memory: ctypes.Array | None) -> int:
    return 0 if memory is None else ctypes.addressof(memory)


def map_create(
    type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int = 0,
    *,
    inner_fd: int = 0,
    name: str = "",
    map_extra: int = 0,
    btf: tuple[int, int, int] = (0, 0, 0),
) -> int:
    """Make a map, return its fd. `btf` is (BTF fd, key type id, value type id)."""
    sizes = struct.pack("=7I", type, key_size, value_size, max_entries, flags, inner_fd, 0)
    # behind the name: map_ifindex, the three BTF words, btf_vmlinux_value_type_id
    return bpf(MAP_CREATE, sizes + struct.pack("=16s5IQ", object_name(name), 0, *btf, 0, map_extra))[0]


def object_name(name: str) -> bytes:
    """What the kernel accepts as a name: at most 15 of [A-Za-z0-9_.] (kernel/bpf/syscall.c, bpf_obj_name_cpy())."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)[:15].encode()


def element(cmd: int, fd: int, key: bytes | None, value: bytes | None = None, flags: int = 0, out_bytes: int = 0) -> bytes:
    """One of the element commands; `out_bytes` makes room for a value or key that comes back."""
    key_memory = _memory(key)
    value_memory = _memory(bytes(out_bytes)) if out_bytes else _memory(value)
    bpf(cmd, struct.pack("=2I3Q", fd, 0, _address(key_memory), _address(value_memory), flags))
    return value_memory.raw[:out_bytes] if out_bytes else b""


def batch(
    cmd: int,
    fd: int,
    count: int,
    keys: bytes | int,
    values: bytes | int = 0,
    *,
    in_batch: bytes | None = None,
    out_batch_bytes: int = 0,
    elem_flags: int = 0,
) -> tuple[int, int, bytes, bytes, bytes]:
    """One batch command. `keys`/`values` are bytes for input, a size for output.

    Returns (errno or 0, count as the kernel left it, keys, values, out_batch): a batch that ends early still delivers, so an error is a
    result here and not an exception.
    """
    key_memory = _memory(bytes(keys) if isinstance(keys, int) else keys)
    value_memory = _memory(bytes(values) if isinstance(values, int) else values)
    in_memory, out_memory = _memory(in_batch), _memory(bytes(out_batch_bytes)) if out_batch_bytes else None
    pointers = [_address(m) for m in (in_memory, out_memory, key_memory, value_memory)]
    number = 0
    try:
        attr = bpf(cmd, struct.pack("=4Q2I2Q", *pointers, count, fd, elem_flags, 0))[1]
    except OSError as error:
        number, attr = error.errno, error.attr
    done = struct.unpack_from("=I", attr, 32)[0]
    return number, done, key_memory.raw, value_memory.raw, out_memory.raw if out_memory else b""


def map_freeze(fd: int) -> None:
    """No bpf(2) writes from now on."""
    bpf(MAP_FREEZE, struct.pack("=I", fd))


def _retry_with_log(cmd: int, what: str, pack: object) -> int:
    """Load quietly; when that fails, load again with a log, for the message (a log costs time and can overflow)."""
    try:
        return bpf(cmd, pack(0, 0, 0))[0]
    except OSError as error:
        log = ctypes.create_string_buffer(1 << 20)
        try:
            return bpf(cmd, pack(1, len(log), ctypes.addressof(log)))[0]
        except OSError:
            raise VerifierError(error.errno, what, log.value.decode(errors="replace")) from None


def btf_load(data: bytes) -> int:
    """Load type information, return its fd."""
    memory = _memory(data)
    return _retry_with_log(
        BTF_LOAD, "BTF", lambda level, size, log: struct.pack("=2Q4I", _address(memory), log, len(data), size, level, 0)
    )


def prog_load(
    type: int,
    insns: bytes,
    *,
    license: str = "GPL",
    name: str = "",
    expected_attach_type: int = 0,
    flags: int = 0,
    btf_fd: int = 0,
    func_info: bytes = b"",
) -> int:
    """Load `insns` (struct bpf_insn[]), return the fd. `func_info` is struct bpf_func_info[] and needs `btf_fd`."""
    code, terms, funcs = _memory(insns), _memory(license.encode() + b"\0"), _memory(func_info)

    def pack(level: int, size: int, log: int) -> bytes:
        head = struct.pack("=2I2Q2IQ2I", type, len(insns) // 8, _address(code), _address(terms), level, size, log, 0, flags)
        name_and_hook = struct.pack("=16s3I", object_name(name), 0, expected_attach_type, btf_fd)
        return head + name_and_hook + struct.pack("=IQI", 8 if func_info else 0, _address(funcs), len(func_info) // 8)

    return _retry_with_log(PROG_LOAD, f"program {name or '(no name)'}", pack)


def prog_test_run(
    fd: int, data: bytes, *, ctx: bytes = b"", ctx_out_bytes: int = 0, out_bytes: int | None = None, repeat: int = 0, flags: int = 0
) -> tuple[int, bytes, bytes, int]:
    """Run a program in the calling thread. Returns (retval, packet, context, ns per run).

    Raises OSError; ENOSPC when `out_bytes` is less than what came out.
    """
    room = max(4096, 2 * len(data)) if out_bytes is None else out_bytes
    inputs, output = _memory(data) if data else None, ctypes.create_string_buffer(room) if room else None
    ctx_in, ctx_out = _memory(ctx) if ctx else None, ctypes.create_string_buffer(ctx_out_bytes) if ctx_out_bytes else None
    attr = struct.pack("=4I2Q4I2Q3I", fd, 0, len(data), room, _address(inputs), _address(output), repeat, 0, len(ctx), ctx_out_bytes,
                       _address(ctx_in), _address(ctx_out), flags, 0, 0)  # fmt: skip
    attr = bpf(PROG_TEST_RUN, attr)[1]
    retval, _, size_out = struct.unpack_from("=3I", attr, 4)
    duration, _, ctx_size = struct.unpack_from("=3I", attr, 36)
    return retval, output.raw[:size_out] if output else b"", ctx_out.raw[:ctx_size] if ctx_out else b"", duration


def info_by_fd(fd: int, out_bytes: int = 256) -> bytes:
    """struct bpf_map_info or bpf_prog_info, as long as this kernel has it."""
    memory = ctypes.create_string_buffer(out_bytes)
    attr = bpf(OBJ_GET_INFO_BY_FD, struct.pack("=2IQ", fd, out_bytes, ctypes.addressof(memory)))[1]
    return memory.raw[: struct.unpack_from("=I", attr, 4)[0]]


def obj_pin(fd: int, path: str) -> None:
    """BPF_OBJ_PIN."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(OBJ_PIN, struct.pack("=QIIi", ctypes.addressof(name), fd, 0, 0))


def obj_get(path: str, flags: int = 0) -> int:
    """BPF_OBJ_GET: a descriptor, which the caller closes."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(OBJ_GET, struct.pack("=QIIi", ctypes.addressof(name), 0, flags, 0))[0]
