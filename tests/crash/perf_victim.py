"""CPUs made to be killed while they send events. Run as a script it forks one for each request on stdin, and tells on stdout how it ended.

    request   {"namespace": name, "cpu": n, "program": id, "point": name, "nth": n, "runs": n}
    answer    {"signal": n, "status": n}

The victim leases the CPU, arms the kill point and runs the program `runs` times.
"""

from __future__ import annotations

import json
import os
import sys


def run_victim(request: dict) -> None:
    from shmbpf._ffi import lib
    from shmbpf.engine.local import LocalCpu

    with LocalCpu(request["namespace"], request["cpu"]) as cpu:
        if lib.shm_point_arm(request["point"].encode(), request["nth"]) != 0:
            sys.exit(f"no kill point {request['point']}: is this the build with points?")
        for _ in range(request["runs"]):
            cpu.run(request["program"], bytes(64))


def serve() -> None:
    import shmbpf.engine.local  # noqa: F401  before the forks, which are many

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                run_victim(json.loads(line))
                os._exit(0)
            except BaseException as error:  # the child must never return into the loop
                print(f"victim: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        status = os.waitpid(pid, 0)[1]
        print(json.dumps({"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
