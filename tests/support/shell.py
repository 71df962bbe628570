"""The command line as a process of its own, in one namespace."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.support.paths import ROOT


class Shell:
    """Runs `shmbpf` in one namespace."""

    def __init__(self, ns: str):
        self.ns = ns
        self.started: list[subprocess.Popen] = []
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "SHMBPF_NS": ns, "COLUMNS": "160"}

    def command(self, *words) -> list[str]:
        """The command line as a list."""
        return [sys.executable, "-m", "shmbpf", *map(str, words)]

    def __call__(self, *words, stdin=None, timeout=60):
        return subprocess.run(self.command(*words), env=self.environment, input=stdin, capture_output=True, timeout=timeout)

    def ok(self, *words, **keywords) -> str:
        """stdout of a command that must succeed."""
        done = self(*words, **keywords)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def refused(self, *words, **keywords) -> str:
        """stderr of a command that must fail with 1 and one line."""
        done = self(*words, **keywords)
        text = done.stderr.decode()
        assert done.returncode == 1, (done.returncode, text)
        assert "Traceback" not in text and text.startswith("Error: ") and text.count("\n") == 1, text
        return text

    def start(self, *words) -> subprocess.Popen:
        """A command that goes on; the fixture ends it if the test does not."""
        self.started.append(subprocess.Popen(self.command(*words), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return self.started[-1]


def until(condition, seconds=20):
    """The first true value of a condition; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
