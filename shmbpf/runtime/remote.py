"""Running a program where its CPU lives: in the worker of a running runtime, or in this process when none is up (D8)."""

from __future__ import annotations

from shmbpf.engine.local import LocalCpu, RunResult, default_cpu
from shmbpf.errors import ShmbpfError
from shmbpf.runtime.control import ControlClient, decode_bytes, encode_bytes
from shmbpf.shm.namespace import Namespace


MAX_REPEAT = 1 << 28


def check_run(namespace: Namespace, cpu: int, repeat: int) -> None:
    """Raises ShmbpfError for a CPU that the namespace does not have and for a number of runs that cannot be."""
    cpus = namespace.fix_cpus(namespace.possible_cpus or None)
    if not 0 <= cpu < cpus:
        raise ShmbpfError(f"CPU {cpu}: namespace {namespace.name!r} has CPUs 0 to {cpus - 1}")
    if not 0 <= repeat <= MAX_REPEAT:
        raise ShmbpfError(f"repeat {repeat}: expected 0 to {MAX_REPEAT}")


def run_remote(namespace: Namespace, program_id: int, packet: bytes, *, cpu: int, ctx: bytes | None = None, repeat: int = 1) -> RunResult:
    """BPF_PROG_TEST_RUN on CPU `cpu` of the namespace's running runtime, between two packets of that CPU."""
    with ControlClient(namespace.run_dir) as client:
        answer = client.ask(command="prog_run", prog=program_id, cpu=cpu, data=encode_bytes(packet), ctx=encode_bytes(ctx), repeat=repeat)
    answer["data"], answer["ctx"] = decode_bytes(answer["data"]), decode_bytes(answer["ctx"])
    return RunResult(**answer)


def run_anywhere(namespace: Namespace, program_id: int, packet: bytes, *, cpu: int | None = None, ctx: bytes | None = None, repeat: int = 1) -> RunResult:
    """As run_remote(); without a runtime the CPU is leased by this process for as long as it takes."""
    number = default_cpu(namespace) if cpu is None else cpu
    check_run(namespace, number, repeat)
    if namespace.has_runtime():
        return run_remote(namespace, program_id, packet, cpu=number, ctx=ctx, repeat=repeat)
    with LocalCpu(namespace.name, number) as local:
        return local.run(program_id, packet, ctx=ctx, repeat=repeat)
