"""The README works as it stands: every command and the Python program, pasted at the root of the checkout."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from shmbpf.shm.namespace import Namespace
from tests.support.paths import ROOT

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.removeprefix("    $ ").partition("  #")[0].strip() for line in TEXT.splitlines() if line.startswith("    $ ")]
PROGRAMS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
LOOPING = [command for command in COMMANDS if command.endswith("--loop")]


@pytest.fixture
def environment(tmp_path, namespace_name):
    """PATH with a `shmbpf` in it, as after `. .venv/bin/activate`, and a namespace of the test's own."""
    command = tmp_path / "shmbpf"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m shmbpf "$@"\n')
    command.chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SHMBPF_NS": namespace_name}


def paste(command, environment):
    return subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_commands_work_in_the_order_of_the_page(environment, namespace_name):
    """Those behind the one that goes on run while it does."""
    others = [command for command in COMMANDS if not command.startswith(". ")]
    first = others.index(LOOPING[0])
    assert len(others) >= 8
    for command in others[:first]:
        done = paste(command, environment)
        assert done.returncode == 0, (command, done)
    going = subprocess.Popen(["sh", "-c", f"exec {LOOPING[0]}"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while paste("shmbpf map get counters 4", environment).returncode and time.monotonic() < deadline:
            time.sleep(0.05)
        for command in others[first + 1:]:
            done = paste(command, environment)
            assert (done.returncode, done.stderr) == (0, "") and (done.stdout or "set" in command), (command, done)
    finally:
        going.send_signal(signal.SIGINT)
        _, err = going.communicate(timeout=30)
        with Namespace(namespace_name):
            pass
    assert going.returncode == 130, err


@pytest.mark.parametrize(("number", "start", "part"), [(0, "True\n{0: ", "'packets': 3223"), (1, "3417 ", "'captured': ")])
def test_python_programs_work(environment, number, start, part):
    assert len(PROGRAMS) == 2
    done = subprocess.run([sys.executable, "-c", PROGRAMS[number]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.startswith(start) and part in done.stdout


def shell_lines(start: str, end: str) -> list[str]:
    """Lines of the shell blocks between two headings, without comments."""
    part = TEXT[TEXT.index(start):TEXT.index(end)]
    return [line.partition("  #")[0].strip() for block in re.findall(r"^```sh\n(.*?)^```", part, re.M | re.S) for line in block.splitlines()]


def test_pins_outlive_the_run(environment):
    outputs = [paste(command, environment) for command in shell_lines("## Pins", "## What runs today")]
    assert [done.returncode for done in outputs] == [0] * 5, outputs
    assert '"packets": 6446' in outputs[2].stdout and len(outputs[3].stdout.splitlines()) == 3
    Namespace(environment["SHMBPF_NS"]).close()


def test_listeners_hear_the_sampler(environment):
    lines = shell_lines("## Events", "## Pins")
    assert len(lines) == 4
    going = subprocess.Popen(["sh", "-c", f"exec {lines[0]}"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while paste("shmbpf map show name samples", environment).returncode and time.monotonic() < deadline:
            time.sleep(0.05)
        for command in lines[1:]:
            done = paste(command, environment)
            assert done.returncode == 0 and len(done.stdout.splitlines()) == 5, (command, done)
    finally:
        going.terminate()
        going.wait(timeout=30)


@pytest.mark.parametrize("place", sorted(set(re.findall(r"\]\(([a-z][^)]*)\)", TEXT)) | set(re.findall(r"examples/[\w./]+\w", TEXT))))
def test_named_places_exist(place):
    assert (ROOT / place).exists()
