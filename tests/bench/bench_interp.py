"""Nanoseconds per instruction of the interpreter on compute loops, all checks on. Run: python tests/bench/bench_interp.py [--rounds N]

The loops are those of `shmbpf bench compute`, the object as shipped. The interpreter counts no instructions, so the model of the conformance tests does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from shmbpf._ffi import ffi, lib
from shmbpf.bench.loops import MEMORY, read_loops
from shmbpf.engine.bare import BareProgram

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.conformance.model import count_instructions  # noqa: E402  (the checkout is the path)


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
    for name, code in read_loops().items():
        insns, nanoseconds = count_instructions(code, MEMORY), time_program(code, options.rounds)
        results[name] = {"insns": insns, "ns": nanoseconds, "ns_per_insn": nanoseconds / insns}
    if options.json:
        print(json.dumps(results))
        return
    for name, row in results.items():
        print(f"{name:10} {row['insns']:>8} insns {row['ns']:>12.0f} ns  {row['ns_per_insn']:.2f} ns/insn")


if __name__ == "__main__":
    main()
