"""Compiling BPF C in tests: once per source and flags, shared by all xdist workers through a cache of content hashes."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@functools.lru_cache(maxsize=None)
def bpf_compiler() -> tuple[str, ...] | None:
    """The command that compiles C to BPF here, or None."""
    for name in ("clang-19", "clang"):
        if path := shutil.which(name):
            return (path, "-target", "bpf")
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding")
    return None


def compile_bpf(source: str, *, cpu: str = "v3", debug: bool = True, cache: Path | None = None, flags: tuple[str, ...] = ()) -> Path:
    """The object file of `source` (C text that may include "bpf_api.h"). Skips the test where no BPF compiler is installed.

    The file is named after the hash of everything that determines it, so equal calls share one file and nothing is ever rewritten.
    """
    compiler = bpf_compiler()
    if compiler is None:
        pytest.skip("no compiler for BPF: install clang, or pip install ziglang")
    command = [*compiler, f"-mcpu={cpu}", "-O2", "-Wall", "-Wno-unused", "-Wno-missing-declarations", "-I", str(HERE), *(["-g"] if debug else []), *flags]
    digest = hashlib.sha256(repr((command, source, (HERE / "bpf_api.h").read_text())).encode()).hexdigest()[:20]
    directory = cache or _cache_directory()
    target = directory / f"{digest}.o"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            (Path(scratch) / "prog.c").write_text(source)
            run = subprocess.run([*command, "-c", "prog.c", "-o", "prog.o"], cwd=scratch, capture_output=True, text=True)
            if run.returncode:
                raise AssertionError(f"{' '.join(command)}: {run.stderr}")
            os.replace(Path(scratch) / "prog.o", target)
    return target


@functools.lru_cache(maxsize=None)
def _cache_directory() -> Path:
    """A private directory that outlives the session: compiling is the slow part of these tests."""
    directory = Path(tempfile.gettempdir()) / f"shmbpf-tests-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="shmbpf-tests-"))
    return directory
