"""The C readers of tests/support/readers: programs that know the public protocols and nothing of this project."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

READERS = Path(__file__).parent / "readers"


def compile_reader(word: str, directory: Path) -> Path:
    """`perf` or `ringbuf` as a program in the directory. Skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the foreign readers: install gcc")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", directory / word, READERS / f"{word}_reader.c"], check=True)
    return directory / word
