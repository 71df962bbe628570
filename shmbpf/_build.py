"""Builds `shmbpf._abi`: the C library with its cffi face (API mode).

The cdef is not written by hand: it is cbits/include/shmbpf/abi.h after the C preprocessor, so Python and C cannot disagree (a struct that drifts is an
error of cffi's at first use). `SHMBPF_POINTS=1` in the environment builds `shmbpf._abi_points` instead: the same library with named kill points
compiled in, for crash tests.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
CBITS = Path("cbits")  # relative: setuptools wants source paths below the project
HEADER = "shmbpf/abi.h"
ROOMS = ("shm", "rings", "maps", "cpu", "helpers", "vm", "net", "bench")
FLAGS = ["-O2", "-std=gnu11", "-fno-strict-aliasing", "-fwrapv", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]


def preprocess() -> str:
    """The ABI header as cffi can read it: no includes, no line markers."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, "-E", "-P", "-DSHMBPF_CDEF", "-I", str(ROOT / CBITS / "include"), str(ROOT / CBITS / "include" / HEADER)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sources() -> list[str]:
    """Every C file of every room."""
    return [str(path.relative_to(ROOT)) for room in ROOMS for path in sorted((ROOT / CBITS / room).glob("*.c"))]


def headers() -> list[str]:
    """What a source may include: a change of any of these rebuilds."""
    return [str(path.relative_to(ROOT)) for pattern in ("*.h", "*.def") for path in sorted((ROOT / CBITS).rglob(pattern))]


def make_builder() -> FFI:
    """The cffi builder that setup.py and the kill-point build share."""
    points = os.environ.get("SHMBPF_POINTS") == "1"
    builder = FFI()
    builder.cdef(preprocess())
    builder.set_source(
        "shmbpf._abi_points" if points else "shmbpf._abi",
        f'#include "{HEADER}"',
        sources=sources(),
        depends=headers(),
        include_dirs=[str(CBITS / "include"), str(CBITS)],
        define_macros=[("SHMBPF_POINTS", "1")] if points else [],
        extra_compile_args=FLAGS,
    )
    return builder


ffibuilder = make_builder()
