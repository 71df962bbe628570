"""Running the command line inside the test process, and bpftool beside it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
from dataclasses import dataclass

import pytest

needs_bpftool = pytest.mark.skipif(not shutil.which("bpftool"), reason="compares with bpftool, which is not installed")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> object:
        """The JSON document on stdout."""
        return json.loads(self.out)


class CommandLine:
    """`shmbpf --ns NAME ...`, called like a function with words; without --ns for None."""

    def __init__(self, namespace: str | None):
        self.namespace = namespace

    def __call__(self, *words: object) -> Outcome:
        from shmbpf.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            main([*(() if self.namespace is None else ("--ns", self.namespace)), *map(str, words)])
        return Outcome(exit_.value.code or 0, out.getvalue(), err.getvalue())

    def ok(self, *words: object) -> str:
        """Stdout of a command that must succeed and have nothing to complain about."""
        outcome = self(*words)
        assert (outcome.code, outcome.err) == (0, ""), outcome
        return outcome.out


def bpftool(*words: object) -> Outcome:
    """The real one."""
    run = subprocess.run(["bpftool", *map(str, words)], capture_output=True, text=True)
    return Outcome(run.returncode, run.stdout, run.stderr)
