"""The compiled objects of this suite, by name of their source in src/."""

from __future__ import annotations

from pathlib import Path

from support.compile import compile_bpf

from shmbpf.elf import load_object
from shmbpf.spec import ObjectSpec

SOURCES = sorted(path.name.removesuffix(".bpf.c") for path in (Path(__file__).parent / "src").glob("*.bpf.c"))


def compiled(name: str, *, cpu: str = "v3", debug: bool = True) -> Path:
    """Path of a compiled source."""
    return compile_bpf((Path(__file__).parent / "src" / f"{name}.bpf.c").read_text(), cpu=cpu, debug=debug)


def loaded(name: str, **kwargs) -> ObjectSpec:
    """Its spec, as if it had been loaded from `<name>.bpf.o`."""
    return load_object(compiled(name, **kwargs), name=name)
