"""Nanoseconds per instruction of the interpreter on compute loops, all checks on. Run: python tests/bench/bench_interp.py [--rounds N]

Programs are compute.bpf.c through clang (-mcpu=v3). The interpreter counts no instructions, so the model of the conformance tests does.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

from shmbpf._ffi import ffi, lib
from shmbpf.engine.bare import BareProgram

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.conformance.model import count_instructions  # noqa: E402  (the checkout is the path)

MEMORY = bytes((i * 37 + (i >> 3) * 11) % 251 for i in range(1500))


def compile_programs() -> dict[str, bytes]:
    """Section name -> instructions."""
    clang = next((found for name in ("clang-19", "clang") if (found := shutil.which(name))), None)
    if clang is None:
        raise SystemExit("bench_interp: clang is needed to compile compute.bpf.c")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "compute.o"
        subprocess.run([clang, "-target", "bpf", "-mcpu=v3", "-O2", "-c", HERE / "compute.bpf.c", "-o", out], check=True)
        elf = ELFFile(io.BytesIO(out.read_bytes()))
        names = ("fnv1a", "mix64", "branchy", "primes", "xorshift", "sort")
        return {name: elf.get_section_by_name("prog_" + name).data() for name in names}


def time_program(code: bytes, rounds: int) -> float:
    """Best nanoseconds per run."""
    with BareProgram(code) as bare:
        room, ret, best = ffi.new("uint8_t[]", MEMORY), ffi.new("uint64_t *"), float("inf")
        for _ in range(rounds):
            start = lib.shm_clock_ns(1)
            for _ in range(8):
                if lib.vm_run_bare(bare._cpu, bare._prog, room, len(MEMORY), ret):
                    raise SystemExit("bench_interp: a program faulted")
            best = min(best, (lib.shm_clock_ns(1) - start) / 8)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for name, code in compile_programs().items():
        insns, nanoseconds = count_instructions(code, MEMORY), time_program(code, options.rounds)
        results[name] = {"insns": insns, "ns": nanoseconds, "ns_per_insn": nanoseconds / insns}
    if options.json:
        print(json.dumps(results))
        return
    for name, row in results.items():
        print(f"{name:10} {row['insns']:>8} insns {row['ns']:>12.0f} ns  {row['ns_per_insn']:.2f} ns/insn")


if __name__ == "__main__":
    main()
