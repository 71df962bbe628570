"""`shmbpf feature`: what exists here, in the words of `bpftool feature probe`, read from the compiled tables."""

from __future__ import annotations

import click

from shmbpf._ffi import ffi, lib
from shmbpf.cli.groups import Settings, WordCommand, words_argument
from shmbpf.cli.render import emit
from shmbpf.cli.words import Words
from shmbpf.uapi import MapType, ProgType, map_type_word, prog_type_word

#: What bpftool's miscellaneous section probes, and our answer: the interpreter has no limit below the kernel's, and the whole instruction set.
MISC = {
    "have_large_insn_limit": ("Large program size limit", True),
    "have_bounded_loops": ("Bounded loop support", True),
    "have_v2_isa_extension": ("ISA extension v2", True),
    "have_v3_isa_extension": ("ISA extension v3", True),
}


def program_types() -> dict[str, bool]:
    """Every program type of Linux: does it run here?"""
    return {prog_type_word(kind): lib.vm_hook_of(kind) != lib.VM_HOOK_NONE for kind in ProgType if kind}


def map_types() -> dict[str, bool]:
    """Every map type of Linux: can it be created here?"""
    return {map_type_word(kind): lib.map_ops_of(kind) != ffi.NULL for kind in MapType if kind}


def helpers_of(kind: int) -> list[str]:
    """Names of the helpers that programs of a type may call."""
    bit, found, index = 1 << lib.vm_hook_of(kind), [], 0
    while (row := lib.vm_helper_at(index)) != ffi.NULL:
        if row.hooks & bit:
            found.append("bpf_" + ffi.string(row.name).decode())
        index += 1
    return found


def feature_document() -> dict[str, object]:
    """The document of `bpftool -j feature probe`, without what describes a kernel's configuration."""
    types = program_types()
    return {
        "program_types": {f"have_{word}_prog_type": here for word, here in types.items()},
        "map_types": {f"have_{word}_map_type": here for word, here in map_types().items()},
        "helpers": {f"{prog_type_word(kind)}_available_helpers": helpers_of(kind) for kind in ProgType if kind and types[prog_type_word(kind)]},
        "misc": {name: here for name, (_, here) in MISC.items()},
    }


def feature_text() -> str:
    """The same in bpftool's sentences."""
    types = program_types()
    lines = ["Scanning eBPF program types..."]
    lines += [f"eBPF program_type {word} is {_available(here)}" for word, here in types.items()]
    lines += ["", "Scanning eBPF map types..."]
    lines += [f"eBPF map_type {word} is {_available(here)}" for word, here in map_types().items()]
    lines += ["", "Scanning eBPF helper functions..."]
    for kind in ProgType:
        if kind and types[prog_type_word(kind)]:
            lines.append(f"eBPF helpers supported for program type {prog_type_word(kind)}:")
            lines += [f"\t- {name}" for name in helpers_of(kind)]
    lines += ["", "Scanning miscellaneous eBPF features..."]
    return "\n".join(lines + [f"{title} is {_available(here)}" for title, here in MISC.values()])


def _available(here: bool) -> str:
    return "available" if here else "NOT available"


def _builtins() -> dict[str, list[str]]:
    """`feature list_builtins GROUP`: what the tables know by name, available or not."""
    helpers, index = [], 0
    while (row := lib.vm_helper_at(index)) != ffi.NULL:
        helpers.append("bpf_" + ffi.string(row.name).decode())
        index += 1
    return {
        "prog_types": [prog_type_word(kind) for kind in ProgType], "map_types": [map_type_word(kind) for kind in MapType], "helpers": helpers,
    }  # fmt: skip


@click.command("feature", cls=WordCommand, epilog="""\b
Examples:
  shmbpf feature                                       everything
  shmbpf feature | grep map_type
  shmbpf -j feature | jq '.helpers.xdp_available_helpers'
  shmbpf feature list_builtins helpers                 every name that is known
""")
@words_argument("[probe | list_builtins prog_types|map_types|helpers]")
@click.pass_obj
def feature(settings: Settings, words: tuple[str, ...]) -> None:
    """List the program types, map types and helpers of Linux and which of them exist here."""
    wanted = Words(words)
    if (wanted.choose(["probe", "list_builtins"], "probe") if wanted else "probe") == "list_builtins":
        names = _builtins()[wanted.choose(["prog_types", "map_types", "helpers"], "GROUP (prog_types, map_types or helpers)")]
        wanted.finish()
        emit(settings, names) if settings.json else click.echo("\n".join(names))
        return
    wanted.accept("kernel")
    wanted.accept("full")
    wanted.finish()
    emit(settings, feature_document()) if settings.json else click.echo(feature_text())
