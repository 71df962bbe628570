"""The loader: object files to specs. See `load_object`."""

from shmbpf.elf.btf import Btf
from shmbpf.elf.object import load_object

__all__ = ["Btf", "load_object"]
