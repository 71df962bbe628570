"""Small programs without an object file."""

from __future__ import annotations

from shmbpf.engine.program import Program, Registry
from shmbpf.spec import ProgramSpec
from shmbpf.uapi import ProgType

RETURN_2 = bytes.fromhex("b700000002000000" "9500000000000000")  # r0 = 2; exit


def make(namespace, insns: bytes, *, name: str = "twin", type: int = ProgType.XDP, maps=None, **fields) -> Program:
    """A program of bare instructions, loaded. Close it."""
    spec = ProgramSpec(name=name, section="xdp", type=type, expected_attach_type=0, insns=insns, license="GPL", **fields)
    with Registry(namespace) as registry:
        return Program.create(namespace, spec, maps or {}, registry)
