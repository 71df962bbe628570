"""How long a command takes to begin: `shmbpf --help`, and the first packet of a run with 4 CPUs, from the moment the command is started."""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shmbpf._ffi import lib
from shmbpf.bench.figures import Figure, Session
from shmbpf.bench.packets import OBJECT, make_capture
from shmbpf.errors import ShmbpfError
from shmbpf.shm.namespace import Namespace

_PATIENCE_S = 20.0


def measure_start(session: Session) -> list[Figure]:
    """Medians, in ms of wall-clock time."""
    session.progress("start-up times")
    rounds = min(session.effort.rounds, 5)
    helps = statistics.median(_time_help() for _ in range(rounds))
    firsts = statistics.median(_time_first_packet() for _ in range(rounds))
    return [Figure("shmbpf --help", "ms", helps, None, 150.0), Figure("first packet of run --cpus 4", "ms", firsts, None, 300.0)]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "shmbpf", *words]


def _time_help() -> float:
    begun = time.monotonic_ns()
    subprocess.run(_command("--help"), check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic_ns() - begun) / 1e6


def _time_first_packet() -> float:
    """Starts a run over an endless capture and reads in its run segment when the first packet reached a program."""
    with tempfile.TemporaryDirectory() as directory, Namespace(f"bench-{os.getpid()}-{secrets.token_hex(4)}", role="bench") as namespace:
        capture = Path(directory) / "one.pcap"
        capture.write_bytes(make_capture(4))
        words = _command("-q", "--ns", namespace.name, "run", str(OBJECT), "--prog", "count", "--cpus", "4", "--pcap", str(capture), "--loop")
        begun = time.monotonic_ns()
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            try:
                return (_wait_first_packet(namespace, run) - begun) / 1e6
            finally:
                run.terminate()


def _wait_first_packet(namespace: Namespace, run: subprocess.Popen) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and run.poll() is None:
        if namespace.ctl.run_id:
            try:
                with namespace.open_segment("run", namespace.ctl.run_id) as segment:
                    first = lib.net_run_of(segment.base, segment.bytes).first_packet_ns
            except FileNotFoundError:  # being made
                first = 0
            if first:
                return first
        time.sleep(0.002)
    raise ShmbpfError(f"bench: no packet reached a program of 'shmbpf run' within {_PATIENCE_S:.0f} s (exit status {run.poll()})")
