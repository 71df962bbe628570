"""Processes made to be killed: a server that forks one for each request, and the test's side of it.

    request   one line of JSON on stdin; what it means is the victim script's business
    answer    {"pid": n} when the victim is ready, then {"status": n} when it is gone: its exit code, or -SIGKILL

Forking from a server that has everything imported costs a millisecond; a process started anew would cost a hundred times that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


class Nursery:
    """A victim script (a file of this directory) as a server, with or without kill points."""

    def __init__(self, script: str, *, points: bool):
        path = os.pathsep.join([str(HERE.parent), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "SHMBPF_ABI": "points" if points else ""}
        self._server = subprocess.Popen([sys.executable, str(HERE / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)

    def start(self, **request) -> int:
        """A victim at work; its pid. Descriptors in the request are those of process `parent`, which is this one."""
        self._server.stdin.write(json.dumps({"parent": os.getpid()} | request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())["pid"]

    def end(self) -> int:
        """How the victim ended: -SIGKILL, or 0 when it had nothing more to do."""
        status = json.loads(self._server.stdout.readline())["status"]
        assert status in (0, -signal.SIGKILL), status
        return status

    def dies(self, **request) -> bool:
        """True when the victim of this request was killed, False when it came to its end."""
        self.start(**request)
        return self.end() != 0

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def serve(run_victim: Callable[[dict, Callable[[], object]], object]) -> None:
    """The server's loop. `run_victim(request, ready)` runs in the child, and calls `ready()` when it is about to begin."""
    for line in sys.stdin:
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(readable)
            try:
                run_victim(json.loads(line), lambda fd=writable: os.write(fd, b"r"))
                os._exit(0)
            except BaseException as error:  # the child must never return into the loop
                print(f"victim: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        os.close(writable)
        os.read(readable, 1)
        os.close(readable)
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)
