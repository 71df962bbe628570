"""Programs without a namespace, a hook or maps: bytes in, r0 out. For instruction-set tests and for trying an instruction."""

from __future__ import annotations

from dataclasses import dataclass

from shmbpf._ffi import ffi, lib
from shmbpf.asm import disassemble
from shmbpf.errors import LoadError, ProgramFault


@dataclass(frozen=True)
class BareResult:
    """r0 at the exit, and the memory as the program left it."""

    r0: int
    memory: bytes


class BareProgram:
    """A checked and decoded program, with a CPU of its own to run it on."""

    def __init__(self, insns: bytes):
        if not insns or len(insns) % 8:
            raise LoadError(f"a program is a positive number of 8-byte instructions, got {len(insns)} bytes")
        self._code = ffi.new("uint8_t[]", insns)  # the decoder copies it, the image only points to it
        self._ctl = ffi.new("struct shm_prog *")
        self._cpu = self._prog = ffi.NULL
        image = ffi.new("struct prog_image *", {"ctl": self._ctl, "insns": ffi.cast("struct bpf_insn *", self._code), "insn_cnt": len(insns) // 8})
        error = ffi.new("struct vm_error *")
        self._prog = lib.vm_prog_new(ffi.NULL, image, error)
        if self._prog == ffi.NULL:
            raise LoadError(f"instruction {error.insn}: {ffi.string(error.text).decode()}")
        self._cpu = lib.vm_cpu_new(ffi.NULL, ffi.NULL, 0)
        if self._cpu == ffi.NULL:
            raise MemoryError("no room for a CPU's stack and packet memory")

    def run(self, memory: bytes = b"", *, budget: int | None = None) -> BareResult:
        """Runs with r1 = address of a copy of `memory`, r2 = its length. Raises ProgramFault."""
        room = ffi.new("uint8_t[]", memory or b"\0")
        ret = ffi.new("uint64_t *")
        if budget is not None:
            self._cpu.budget_limit = budget
        if lib.vm_run_bare(self._cpu, self._prog, room, len(memory), ret):
            raise ProgramFault(self._describe())
        return BareResult(ret[0], bytes(ffi.buffer(room, len(memory))))

    def _describe(self) -> str:
        fault = self._cpu.fault
        text = disassemble(bytes(ffi.buffer(self._code, len(self._code))), start=fault.insn, count=1)[0]
        return f"instruction {fault.insn} [{text}]: {ffi.string(fault.detail).decode(errors='replace')}"

    def close(self) -> None:
        """Gives the CPU and the program back. Idempotent."""
        lib.vm_cpu_free(self._cpu)
        lib.vm_prog_free(self._prog)
        self._cpu = self._prog = ffi.NULL

    def __enter__(self) -> BareProgram:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
