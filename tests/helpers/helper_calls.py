"""Sequences of helper calls that run twice: here by calling the C functions, and in Linux as a program made of the same calls.

A call is a helper's name and its arguments: CTX, an integer, bytes (a buffer on the program's stack; its size is an argument of its own), Text (a
constant string) or Words (an array of u64). What comes back is everything a program could see: each result, each buffer after its call, the packet, and
the fields of the context.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from dataclasses import dataclass, field
from typing import Final, Sequence

from support import bpf_syscall
from support.kernel import KernelMap, KernelProgram

from shmbpf._ffi import ffi, lib

CTX: Final = "ctx"
SOCKET_FILTER, SCHED_CLS, SCHED_ACT, XDP = 1, 3, 4, 6
_HOOKS: Final = {SOCKET_FILTER: lib.VM_HOOK_SOCKET, SCHED_CLS: lib.VM_HOOK_TC, SCHED_ACT: lib.VM_HOOK_ACT, XDP: lib.VM_HOOK_XDP}
_ETH_HLEN: Final = 14
_U64: Final = (1 << 64) - 1
_SKB_FIELDS: Final = ("len", "pkt_type", "protocol", "vlan_present", "vlan_tci", "vlan_proto", "hash")
_RESULT_BYTES: Final = 1024
_STACK_BYTES: Final = 512
_TEST_SKB_CHECKSUM_COMPLETE: Final = 4  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE


@dataclass(frozen=True)
class Text:
    """A NUL-terminated string in read-only memory."""

    text: bytes


@dataclass(frozen=True)
class Words:
    """An array of u64 on the stack; a word given as bytes is a pointer to such a buffer."""

    words: tuple[int | bytes, ...]


@dataclass(frozen=True)
class Call:
    """One helper call."""

    name: str
    args: tuple = ()

    @property
    def id(self) -> int:
        return HELPER_IDS[self.name]


@dataclass(frozen=True)
class Outcome:
    """What a sequence did. `results` are signed; `buffers` belongs to the bytes arguments, in order."""

    results: tuple[int, ...]
    buffers: tuple[bytes, ...]
    packet: bytes
    context: dict[str, int] = field(compare=True)


def _helper_ids() -> dict[str, int]:
    ids, index = {}, 0
    while (row := lib.vm_helper_at(index)) != ffi.NULL:
        ids[ffi.string(row.name).decode()] = row.id
        index += 1
    return ids


HELPER_IDS: Final = _helper_ids()


def call(name: str, *args: object) -> Call:
    """`call("skb_load_bytes", CTX, 0, bytes(4), 4)`: a name the table does not know is a mistake of the test."""
    if name not in HELPER_IDS:
        raise KeyError(f"Linux has no helper bpf_{name}")
    return Call(name, args)


def signed(value: int) -> int:
    """A 64-bit register as helpers mean it."""
    value &= _U64
    return value - (1 << 64) if value >> 63 else value


class Cpu:
    """A simulated CPU holding one packet; freed when the `with` ends."""

    def __init__(self, prog_type: int, packet: bytes):
        self.type = prog_type
        self.cpu = lib.vm_cpu_new(ffi.NULL, ffi.NULL, 0)
        if self.cpu == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self._stack_used = 0
        self._texts: list[object] = []
        if error := lib.vm_packet_load(self.cpu, _HOOKS[prog_type], packet, len(packet), prog_type != SOCKET_FILTER):
            raise OSError(-error, os.strerror(-error))

    def __enter__(self) -> Cpu:
        return self

    def __exit__(self, *_: object) -> None:
        lib.vm_cpu_free(self.cpu)

    def on_stack(self, data: bytes) -> object:
        """A copy of `data` where programs may read and write: the running frame, which is at the top of the stack memory."""
        self._stack_used += _round8(len(data))
        if self._stack_used > _STACK_BYTES:
            raise ValueError(f"a program has {_STACK_BYTES} bytes of stack, {self._stack_used} are asked for")
        at = self.cpu.stack + lib.VM_MAX_FRAMES * lib.VM_STACK_BYTES - self._stack_used
        ffi.memmove(at, data, len(data))
        return at

    def place(self, arg: object) -> object:
        """The argument as a helper takes it: an integer, or memory that lives as long as this CPU."""
        if isinstance(arg, bytes):
            return self.on_stack(arg)
        if isinstance(arg, Words):
            words = [int(ffi.cast("uintptr_t", self.on_stack(w))) if isinstance(w, bytes) else w & _U64 for w in arg.words]
            return self.on_stack(struct.pack(f"<{len(words)}Q", *words))
        if isinstance(arg, Text):
            self._texts.append(ffi.new("char[]", arg.text))
            return self._texts[-1]
        if arg is CTX:
            return ffi.addressof(self.cpu.xdp if self.type == XDP else self.cpu.skb)
        return arg

    def run(self, name: str, *args: object) -> int:
        """Call one helper; pointers are cdata."""
        values = [int(ffi.cast("uintptr_t", a)) if isinstance(a, ffi.CData) else a & _U64 for a in args]
        values += [0] * (5 - len(values))
        return signed(lib.vm_helper_of(HELPER_IDS[name]).fn(self.cpu, *values))

    def context(self) -> dict[str, int]:
        """The fields every run is compared by."""
        packet = self.cpu.packet
        if self.type == XDP:
            return {"data_end - data": packet.tail - packet.data, "data - data_meta": packet.data - packet.meta}
        return {name: getattr(self.cpu.skb, name) for name in _SKB_FIELDS}

    def packet(self) -> bytes:
        """Metadata and packet, as a test run gives them back."""
        packet = self.cpu.packet
        start = packet.meta if self.type == XDP else packet.data
        return bytes(ffi.buffer(start, packet.tail - start))


def run_here(prog_type: int, calls: Sequence[Call], packet: bytes, *, checksum_complete: bool = False) -> Outcome:
    """Run the calls by our C functions. `checksum_complete`: as if the network card had summed up the packet."""
    results, buffers = [], []
    with Cpu(prog_type, packet) as cpu:
        if checksum_complete:
            cpu.cpu.packet.csum_complete, cpu.cpu.packet.csum = 1, _sum_of(packet[_ETH_HLEN:])
        for one in calls:
            cpu._stack_used = 0
            placed = [cpu.place(arg) for arg in one.args]
            results.append(cpu.run(one.name, *placed))
            buffers += [bytes(ffi.buffer(p, len(a))) for p, a in zip(placed, one.args) if isinstance(a, bytes)]
        return Outcome(tuple(results), tuple(buffers), cpu.packet(), cpu.context())


def _sum_of(data: bytes) -> int:
    """Ones' complement sum of 16-bit words as they lie in memory, in 32 bits."""
    total = sum(struct.unpack(f"<{len(data) // 2 + len(data) % 2}H", data + b"\0" * (len(data) % 2)))
    return (total & 0xFFFFFFFF) + (total >> 32)


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhI", code, dst | src << 4, off, imm & 0xFFFFFFFF)


def _ld_imm64(dst: int, value: int) -> bytes:
    return _insn(0x18, dst, 0, 0, value) + _insn(0, imm=value >> 32)


def _ld_map_value(dst: int, fd: int) -> bytes:
    return _insn(0x18, dst, 2, 0, fd) + _insn(0)


def _round8(count: int) -> int:
    return -(-count // 8) * 8


class _Assembler:
    """Writes the program: r6 = context, r7 = the map value that takes what is to be compared."""

    def __init__(self, results_fd: int, owned: contextlib.ExitStack):
        self.code = _insn(0xBF, 6, 1) + _ld_map_value(7, results_fd)
        self.used = 0
        self._below = 0  # bytes of stack in use
        self._owned = owned  # maps of constant strings

    def _room(self, count: int) -> int:
        at, self.used = self.used, self.used + _round8(count)
        if self.used > _RESULT_BYTES:
            raise ValueError(f"results need more than {_RESULT_BYTES} bytes")
        return at

    def _on_stack(self, data: bytes) -> int:
        """Writes the bytes below all others; returns how far below the frame pointer they begin."""
        padded = data.ljust(_round8(len(data)), b"\0")
        self._below += len(padded)
        words = struct.unpack(f"<{len(padded) // 4}I", padded)
        self.code += b"".join(_insn(0x62, 10, 0, 4 * i - self._below, word) for i, word in enumerate(words))
        return self._below

    def _words(self, array: Words) -> int:
        pointers = {i: self._on_stack(word) for i, word in enumerate(array.words) if isinstance(word, bytes)}
        below = self._on_stack(b"".join(struct.pack("<Q", 0 if isinstance(w, bytes) else w & _U64) for w in array.words))
        for i, target in pointers.items():
            self.code += _insn(0xBF, 1, 10) + _insn(0x07, 1, 0, 0, -target) + _insn(0x7B, 10, 1, 8 * i - below)
        return below

    def _text(self, text: bytes) -> int:
        made = self._owned.enter_context(KernelMap(2, 4, len(text) + 1, 1, lib.BPF_F_RDONLY_PROG))
        made.update(bytes(4), text + b"\0")
        made.freeze()
        return made.fd

    def add_call(self, one: Call) -> tuple[int, list[tuple[int, int]]]:
        """Returns where the result and the buffers are going to be."""
        setup, buffers, self._below = b"", [], 0
        for register, arg in enumerate(one.args, 1):
            if arg is CTX:
                setup += _insn(0xBF, register, 6)
            elif isinstance(arg, Text):
                setup += _ld_map_value(register, self._text(arg.text))
            elif isinstance(arg, (bytes, Words)):
                below = self._on_stack(arg) if isinstance(arg, bytes) else self._words(arg)
                setup += _insn(0xBF, register, 10) + _insn(0x07, register, 0, 0, -below)
                buffers += [(below, len(arg))] if isinstance(arg, bytes) else []
            else:
                setup += _ld_imm64(register, arg & _U64)
        result = self._room(8)
        self.code += setup + _insn(0x85, imm=one.id) + _insn(0x7B, 7, 0, result)
        return result, [(self._copy_out(below, count), count) for below, count in buffers]

    def _copy_out(self, below: int, count: int) -> int:
        place = self._room(count)
        for i in range(0, _round8(count), 4):
            self.code += _insn(0x61, 1, 10, i - below) + _insn(0x63, 7, 1, place + i)
        return place

    def add_context(self, prog_type: int) -> dict[str, int]:
        """Stores the context's fields; returns name -> place."""
        places = {}
        if prog_type == XDP:
            for name, minuend, subtrahend in (("data_end - data", 4, 0), ("data - data_meta", 0, 8)):
                places[name] = self._room(8)
                self.code += _insn(0x61, 1, 6, minuend) + _insn(0x61, 2, 6, subtrahend) + _insn(0x1F, 1, 2) + _insn(0x7B, 7, 1, places[name])
            return places
        for name in _SKB_FIELDS:
            places[name] = self._room(8)
            self.code += _insn(0x61, 1, 6, ffi.offsetof("struct __sk_buff", name)) + _insn(0x7B, 7, 1, places[name])
        return places

    def finish(self) -> bytes:
        return self.code + _insn(0xB7, 0, 0, 0, 0) + _insn(0x95)


def _test_run(fd: int, packet: bytes, checksum_complete: bool) -> bytes:
    """The packet afterwards; nothing when the program left a checksum that is wrong, for which Linux keeps it back."""
    try:
        flags = _TEST_SKB_CHECKSUM_COMPLETE if checksum_complete else 0
        return bpf_syscall.prog_test_run(fd, packet, out_bytes=1 << 17, repeat=1, flags=flags)[1]
    except OSError as error:
        if error.errno != errno.EBADMSG:
            raise
        return b""


def run_in_kernel(prog_type: int, calls: Sequence[Call], packet: bytes, *, checksum_complete: bool = False) -> Outcome:
    """Run the same calls as one program under BPF_PROG_TEST_RUN."""
    with contextlib.ExitStack() as owned:
        map_of_results = owned.enter_context(KernelMap(2, 4, _RESULT_BYTES, 1))
        assembler = _Assembler(map_of_results.fd, owned)
        places = [assembler.add_call(one) for one in calls]
        fields = assembler.add_context(prog_type)
        program = owned.enter_context(KernelProgram.from_insns(prog_type, assembler.finish()))
        data = _test_run(program.fd, packet, checksum_complete)
        memory = map_of_results.lookup(bytes(4))
    results = tuple(struct.unpack_from("<q", memory, at)[0] for at, _ in places)
    buffers = tuple(memory[at : at + count] for _, them in places for at, count in them)
    if prog_type == SOCKET_FILTER:
        data = data[_ETH_HLEN:]  # the filter saw the network layer; the test run puts 14 zeros in front again
    return Outcome(results, buffers, data, {name: struct.unpack_from("<Q", memory, at)[0] for name, at in fields.items()})
