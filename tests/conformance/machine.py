"""Programs with a hook on a CPU of their own, without a namespace and so without maps: what the instruction tests need."""

from __future__ import annotations

import os
from dataclasses import dataclass

from shmbpf._ffi import ffi, lib
from shmbpf.errors import LoadError

SOCKET_FILTER, SCHED_CLS, SCHED_ACT, XDP = 1, 3, 4, 6


@dataclass(frozen=True)
class Run:
    """What one test run gave; `fault` is the name of the fault code, None for a clean exit."""

    retval: int
    data: bytes
    ctx: bytes
    fault: str | None
    detail: str
    insn: int


class HookedProgram:
    """A program of a type that has a hook here. Raises LoadError when it is refused."""

    def __init__(self, type: int, insns: bytes, *, gpl: bool = True, budget: int | None = None):
        self._code = ffi.new("uint8_t[]", insns)
        self._ctl = ffi.new("struct shm_prog *", {"gpl": gpl})
        self._cpu = ffi.NULL
        fields = {"ctl": self._ctl, "insns": ffi.cast("struct bpf_insn *", self._code), "insn_cnt": len(insns) // 8, "type": type}
        error = ffi.new("struct vm_error *")
        self._prog = lib.vm_prog_new(ffi.NULL, ffi.new("struct prog_image *", fields), error)
        if self._prog == ffi.NULL:
            raise LoadError(f"instruction {error.insn}: {ffi.string(error.text).decode()}")
        self._cpu = lib.vm_cpu_new(ffi.NULL, ffi.NULL, 0)
        if budget is not None:
            self._cpu.budget_limit = budget

    def run(self, data: bytes, *, ctx: bytes | None = None, ctx_out: int = 0, data_out: int = 1 << 16, repeat: int = 1) -> Run:
        """BPF_PROG_TEST_RUN. Raises OSError as bpf(2) would."""
        run = ffi.new("struct vm_test_run *")
        data_in, room, ctx_room = ffi.from_buffer(data or b"\0"), ffi.new("uint8_t[]", max(data_out, 1)), ffi.new("uint8_t[]", max(ctx_out, 1))
        ctx_in = ffi.from_buffer(ctx or b"\0")
        run.data_in, run.data_in_bytes, run.repeat = data_in, len(data), repeat
        run.data_out, run.data_out_bytes = room, data_out
        run.ctx_in, run.ctx_in_bytes = (ctx_in if ctx is not None else ffi.NULL), len(ctx or b"")
        run.ctx_out, run.ctx_out_bytes = (ctx_room if ctx_out else ffi.NULL), ctx_out
        error = lib.vm_test_run(self._cpu, self._prog, run)
        if error:
            raise OSError(-error, os.strerror(-error))
        fault = ffi.string(ffi.cast("enum vm_fault_code", run.fault)) if run.fault else None
        detail = ffi.string(self._cpu.fault.detail).decode() if run.fault else ""
        return Run(run.retval, bytes(ffi.buffer(room, run.data_out_bytes)), bytes(ffi.buffer(ctx_room, run.ctx_out_bytes if ctx_out else 0)),
                   fault, detail, self._cpu.fault.insn)  # fmt: skip

    def close(self) -> None:
        lib.vm_cpu_free(self._cpu)
        lib.vm_prog_free(self._prog)
        self._cpu = self._prog = ffi.NULL

    def __enter__(self) -> HookedProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
