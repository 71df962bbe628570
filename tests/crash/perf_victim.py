"""CPUs made to be killed while they send events. Run as a script it serves a Nursery.

    request   {"namespace": name, "cpu": n, "program": id, "point": name, "nth": n, "runs": n}

The victim leases the CPU, arms the kill point and runs the program `runs` times.
"""

from __future__ import annotations

import sys


def run_victim(request: dict, ready) -> None:
    from shmbpf._ffi import lib
    from shmbpf.engine.local import LocalCpu

    with LocalCpu(request["namespace"], request["cpu"]) as cpu:
        if lib.shm_point_arm(request["point"].encode(), request["nth"]) != 0:
            sys.exit(f"no kill point {request['point']}: is this the build with points?")
        ready()
        for _ in range(request["runs"]):
            cpu.run(request["program"], bytes(64))


if __name__ == "__main__":
    import shmbpf.engine.local  # noqa: F401  before the forks, which are many
    from nursery import serve

    serve(run_victim)
