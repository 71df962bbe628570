"""Types and functions as C writes them, in bpftool's spacing (Linux v6.1 tools/bpf/bpftool/btf_dumper.c, __btf_dumper_type_only(), btf_dump_func())."""

from __future__ import annotations

from shmbpf.elf.btf import Btf, BtfType, Kind
from shmbpf.errors import BtfError

_MAX_DEPTH = 32
_MAX_TEXT = 4096
_WORDS = {Kind.STRUCT: "struct ", Kind.UNION: "union ", Kind.ENUM: "enum ", Kind.ENUM64: "enum ", Kind.INT: "", Kind.TYPEDEF: "", Kind.FLOAT: "",
          Kind.CONST: "const ", Kind.VOLATILE: "volatile ", Kind.RESTRICT: "restrict ", Kind.TYPE_TAG: ""}  # fmt: skip
_QUALIFIERS = (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG)


def prototype(btf: Btf, function: int) -> str:
    """`int main_prog(struct xdp_md * x)` for the id of a FUNC; '' when the types do not describe one."""
    try:
        found = btf.type(function)
        proto = btf.type(found.ref)
        if found.kind != Kind.FUNC or proto.kind != Kind.FUNC_PROTO:
            return ""
        text = _function(btf, proto, found.name, _MAX_DEPTH)
    except BtfError:
        return ""
    return text if len(text) <= _MAX_TEXT else ""


def _function(btf: Btf, proto: BtfType, name: str, depth: int) -> str:
    arguments = []
    for parameter in proto.parameters:
        text = _type(btf, parameter.type, depth - 1) if parameter.type else "..."
        arguments.append(text + parameter.name if parameter.name else text.removesuffix(" "))
    return f"{_type(btf, proto.ref, depth - 1)}{name}({', '.join(arguments)})"


def _type(btf: Btf, number: int, depth: int) -> str:
    """A type with a blank behind it."""
    if depth <= 0:
        raise BtfError(f"BTF: type {number} is nested deeper than {_MAX_DEPTH}")
    found = btf.type(number)
    if found.kind == Kind.VOID:
        return "void "
    if found.kind == Kind.PTR:
        return _type(btf, found.ref, depth - 1) + "* "
    if found.kind == Kind.ARRAY:
        return f"{_type(btf, found.ref, depth - 1)}[{found.count}]"
    if found.kind == Kind.FUNC_PROTO:
        return _function(btf, found, "", depth)
    if found.kind == Kind.FWD:
        return f"{'union' if found.kind_flag else 'struct'} {found.name} "
    if found.kind not in _WORDS:
        raise BtfError(f"BTF: a {found.kind.name} is no type of an argument")
    return _WORDS[found.kind] + (_type(btf, found.ref, depth - 1) if found.kind in _QUALIFIERS else f"{found.name} ")
