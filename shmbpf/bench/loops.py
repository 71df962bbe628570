"""Compute loops: ns per instruction of the interpreter, all checks on, beside the kernel's JIT. Both run the same instructions and must agree."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from shmbpf._ffi import ffi, lib
from shmbpf.asm import assemble
from shmbpf.bench.figures import Effort, Figure, Session, best_of
from shmbpf.elf import load_object
from shmbpf.engine.bare import BareProgram
from shmbpf.errors import ShmbpfError
from shmbpf.testing.kernel import KernelProgram
from shmbpf.uapi import ProgType

OBJECT = Path(__file__).with_name("compute.o")
MEMORY = bytes((i * 37 + (i >> 3) * 11) % 251 for i in range(1500))
#: instructions that one run over MEMORY executes (a test compares them with the model of the conformance suite)
INSTRUCTIONS = {"fnv1a": 10505, "mix64": 2519, "branchy": 25827, "primes": 61603, "xorshift": 240003, "sort": 8019}
_TARGET = 1.5


def read_loops() -> dict[str, bytes]:
    """The instructions of each loop, by name."""
    programs = load_object(OBJECT).programs
    return {name: programs[name].insns for name in INSTRUCTIONS}


def measure_loops(session: Session) -> list[Figure]:
    """One figure per loop, in ns per instruction of the byte code."""
    figures = []
    for name, code in read_loops().items():
        session.progress(f"compute loop {name}")
        with contextlib.ExitStack() as stack:
            ours = _OurLoop(stack.enter_context(BareProgram(code)), session.effort)
            theirs = _kernel_loop(stack, session, name, code)
            found = best_of(session.effort.rounds, [ours.run, theirs and theirs.run])
            if theirs and ours.result != theirs.result:
                raise ShmbpfError(f"bench: loop {name}: the interpreter computed {ours.result:#x}, the kernel {theirs.result:#x}: this is a bug of shmbpf")
        per_insn = [value and value / INSTRUCTIONS[name] for value in found]
        figures.append(Figure(name, "ns/insn", per_insn[0], per_insn[1], _TARGET))
    return figures


def _kernel_loop(stack: contextlib.ExitStack, session: Session, name: str, code: bytes) -> _KernelLoop | None:
    if not session.kernel:
        return None
    try:
        program = KernelProgram.from_insns(ProgType.SCHED_CLS, _prologue() + code)
    except OSError as error:
        session.notes.append(f"compute loop {name}: this kernel refuses it ({os.strerror(error.errno)})")
        return None
    return _KernelLoop(stack.enter_context(program), session.effort)


class _OurLoop:
    def __init__(self, program: BareProgram, effort: Effort):
        self._program, self._memory = program, ffi.new("uint8_t[]", MEMORY)
        self._slice_ns, self._count, self.result = effort.slice_ns, 1, 0

    def run(self) -> float:
        """ns per run; the number of runs follows from the last result."""
        ret, spent = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        if lib.bench_run_bare(self._program._cpu, self._program._prog, self._memory, len(MEMORY), self._count, ret, spent):
            raise ShmbpfError("bench: a compute loop faulted: this is a bug of shmbpf")
        nanoseconds, self.result = spent[0] / self._count, ret[0] & 0xFFFFFFFF
        self._count = max(1, int(self._slice_ns / nanoseconds))
        return nanoseconds


class _KernelLoop:
    def __init__(self, program: KernelProgram, effort: Effort):
        self._program, self._slice_ns, self._count, self.result = program, effort.slice_ns, 1, 0

    def run(self) -> float:
        """ns per run, as BPF_PROG_TEST_RUN says."""
        done = self._program.run(MEMORY, repeat=self._count)
        self.result = done.retval
        self._count = max(1, int(self._slice_ns / max(done.duration_ns, 1)))
        return float(max(done.duration_ns, 1))


def _prologue() -> bytes:
    """Makes of a bare program one that the kernel can check: r1 = packet, r2 = its length, once that is known to be there."""
    data, end = ffi.offsetof("struct __sk_buff", "data"), ffi.offsetof("struct __sk_buff", "data_end")
    return assemble(f"""
        r2 = *(u32 *)(r1 +{end})
        r1 = *(u32 *)(r1 +{data})
        r3 = r1
        r3 += {len(MEMORY)}
        if r3 <= r2 goto ready
        r0 = 0
        exit
    ready:
        r2 = {len(MEMORY)}
    """)
