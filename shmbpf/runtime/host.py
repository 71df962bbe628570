"""A supervisor as a process of its own, for programs that use shmbpf as a library: `python -m shmbpf.runtime.host NAMESPACE CPUS`.

Prints `ready` on stdout once every CPU is forked. Ends when its stdin is closed (so it cannot outlive who started it), on SIGTERM, or on request.
Lines of trace_printk go to whoever follows them (runtime/trace.py).
"""

from __future__ import annotations

import os
import selectors
import signal
import sys

from shmbpf.errors import ShmbpfError
from shmbpf.runtime.supervisor import Supervisor
from shmbpf.shm.namespace import Namespace


def main(argv: list[str]) -> int:
    """Runs until told to end; the exit status is 1 when the runtime cannot start or its CPUs cannot be kept alive."""
    name, cpus = argv[1], int(argv[2]) or None
    ended = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: ended.append(True))
    try:
        with Namespace(name, role="host") as namespace, Supervisor(namespace, cpus) as supervisor:
            supervisor.start()
            supervisor.server.selector.register(sys.stdin, selectors.EVENT_READ, lambda stdin: os.read(stdin.fileno(), 1) or ended.append(True))
            print("ready", flush=True)
            while not ended and not supervisor.failed:
                supervisor.poll(0.2)
                _report(supervisor)
            supervisor.stop()
            _report(supervisor)
            return 1 if supervisor.failed else 0
    except ShmbpfError as error:
        print(f"error {error}", flush=True)
        return 1


def _report(supervisor: Supervisor) -> None:
    for notice in supervisor.notices:
        print(f"shmbpf: {notice}", file=sys.stderr, flush=True)
    supervisor.notices.clear()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
