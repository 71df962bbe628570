"""The loader: object files to specs. See `load_object`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmbpf.elf.btf import Btf

if TYPE_CHECKING:
    from shmbpf.spec import ObjectSpec

__all__ = ["Btf", "load_object"]


def load_object(*args, **keywords) -> ObjectSpec:
    """See `shmbpf.elf.object.load_object`, which is imported (with pyelftools) when an object is really loaded: maps need only BTF."""
    from shmbpf.elf.object import load_object as load

    return load(*args, **keywords)
