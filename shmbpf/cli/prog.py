"""`shmbpf prog`: bpftool's commands for programs (Linux v6.1 tools/bpf/bpftool/prog.c, xlated_dumper.c). `load` and `run` are in prog_run.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import click

from shmbpf._ffi import ffi, lib
from shmbpf.cli.groups import PrefixGroup, Settings, WordCommand, words_argument
from shmbpf.cli.pins import Whereabouts, pin_object
from shmbpf.cli.render import emit, emit_done, hex_list
from shmbpf.cli.selector import PROG_SYNTAX, find_programs, open_namespace, say_no_namespace, take_programs
from shmbpf.cli.tracelog import tracelog
from shmbpf.cli.words import Words
from shmbpf.engine.program import Program
from shmbpf.errors import ShmbpfError
from shmbpf.shm.namespace import namespace_exists
from shmbpf.uapi import prog_type_word

GRAMMAR = f"""\b
PROG := {PROG_SYNTAX}
"""
_LD_IMM64, _CALL = 0x18, 0x85


@click.group("prog", cls=PrefixGroup, epilog=GRAMMAR + """
\b
Examples:
  shmbpf prog show                              all programs
  shmbpf prog dump xlated name xdp_main         instructions, with source lines
  shmbpf -j prog show | jq '.[].map_ids'
""")
def prog_group() -> None:
    """Show, load and test programs, in bpftool's words."""


# -- show --


@prog_group.command("show", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf prog show
  shmbpf prog show name xdp_main
  shmbpf prog show tag 614b434cd8324ecc
""")
@words_argument("[PROG]")
@click.pass_obj
def show(settings: Settings, words: tuple[str, ...]) -> None:
    """Show all programs, or one. Id, type, name, tag, sizes in bytes, the maps it uses. (Also: list)"""
    wanted = Words(words)
    if not wanted and not namespace_exists(settings.ns):
        say_no_namespace(settings)
        return
    with open_namespace(settings, "prog show") as namespace, ExitStack() as stack:
        is_one = bool(wanted)
        programs = take_programs(namespace, wanted) if wanted else find_programs(namespace)
        for program in programs:
            stack.callback(program.close)
        wanted.finish()
        where = Whereabouts(settings, namespace)
        if settings.json:
            documents = [program_document(program) | where.document(f"prog.{program.id}") for program in programs]
            emit(settings, documents[0] if is_one and len(programs) == 1 else documents)
        else:
            for program in programs:
                click.echo(program_text(program) + where.text(f"prog.{program.id}"))


prog_group.alias("list", "show")


@prog_group.command("pin", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf prog pin name xdp_main progs/filter
  shmbpf prog run pinned progs/filter data_in packet.bin
""")
@words_argument("PROG PATH")
@click.pass_obj
def pin(settings: Settings, words: tuple[str, ...]) -> None:
    """Pin a program at PATH of the pin tree (see `shmbpf pin`). It keeps its maps."""
    pin_object(settings, "prog", Words(words))


def program_document(program: Program) -> dict[str, object]:
    """`prog show -j`."""
    ctl = program.image.ctl
    document: dict[str, object] = {
        "id": program.id, "type": prog_type_word(program.type), "name": program.name, "tag": program.tag,
        "gpl_compatible": program.gpl_compatible, "loaded_at": loaded_at(program), "uid": ctl.head.uid,
        "bytes_xlated": program.image.insn_cnt * 8, "jited": False, "bytes_memlock": ctl.head.bytes,
    }  # fmt: skip
    if ctl.run_cnt:
        document |= {"run_time_ns": ctl.run_time_ns, "run_cnt": ctl.run_cnt}
    if program.map_ids:
        document["map_ids"] = program.map_ids
    return document | ({"btf_id": ctl.btf_id} if ctl.btf_id else {})


def program_text(program: Program) -> str:
    """`prog show`."""
    document = program_document(program)
    gpl = "  gpl" if program.gpl_compatible else ""
    runs = f" run_time_ns {document['run_time_ns']} run_cnt {document['run_cnt']}" if "run_cnt" in document else ""
    loaded = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(document["loaded_at"]))
    maps = f"  map_ids {','.join(map(str, program.map_ids))}" if program.map_ids else ""
    lines = [
        f"{program.id}: {document['type']}  name {program.name}  tag {program.tag}{gpl}{runs}",
        f"\tloaded_at {loaded}  uid {document['uid']}",
        f"\txlated {document['bytes_xlated']}B  not jited  memlock {document['bytes_memlock']}B{maps}",
    ]
    return "\n".join(lines + ([f"\tbtf_id {document['btf_id']}"] if "btf_id" in document else []))


def loaded_at(program: Program) -> int:
    """When it was loaded, in seconds since 1970."""
    since_boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - program.image.ctl.load_time_ns
    return round((time.time_ns() - since_boot) / 1e9)


# -- dump --


class Insn(NamedTuple):
    """An instruction of a dump. `source` and `function` are set where a line or a subprogram begins."""

    index: int
    text: str
    code: bytes
    source: tuple[str, str, int] | None  #: text, file, line number
    function: str  #: its C prototype, or its name where the object has no types


@prog_group.command("dump", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf prog dump xlated name xdp_main
  shmbpf prog dump xlated id 3 opcodes
  shmbpf prog dump xlated id 3 linum
  shmbpf prog dump xlated id 3 file xdp_main.bin
""")
@words_argument("xlated PROG [file FILE | [opcodes] [linum]]")
@click.pass_obj
def dump(settings: Settings, words: tuple[str, ...]) -> None:
    """Print a program's instructions. With source lines where the object had them."""
    wanted = Words(words)
    wanted.choose(["xlated"], "xlated")
    with open_namespace(settings, "prog dump") as namespace, ExitStack() as stack:
        programs = take_programs(namespace, wanted)
        for program in programs:
            stack.callback(program.close)
        options = _take_dump_options(wanted)
        if options["file"]:
            _write_file(settings, programs, options["file"])
        elif settings.json:
            documents = [[insn_document(insn, options) for insn in walk_insns(program)] for program in programs]
            emit(settings, documents[0] if len(programs) == 1 else _with_headers(programs, documents))
        else:
            for index, program in enumerate(programs):
                if len(programs) > 1:
                    click.echo(("\n" if index else "") + program_text(program).partition("\n")[0])
                for insn in walk_insns(program):
                    click.echo(insn_text(insn, options))


def _take_dump_options(words: Words) -> dict[str, object]:
    options: dict[str, object] = {"file": None, "opcodes": False, "linum": False}
    while words:
        word = words.choose(["file", "opcodes", "linum"], "file, opcodes or linum")
        options[word] = words.take("FILE") if word == "file" else True
    return options


def _write_file(settings: Settings, programs: list[Program], path: str) -> None:
    if len(programs) != 1:
        raise ShmbpfError(f"{len(programs)} programs match this handle: file takes one (use prog id N)")
    with open(path, "wb") as out:
        out.write(programs[0].insns)
    emit_done(settings)


def _with_headers(programs: list[Program], dumps: list[list]) -> list[dict]:
    shown = ("id", "type", "name", "tag", "gpl_compatible")
    return [{word: program_document(program)[word] for word in shown} | {"insns": dump} for program, dump in zip(programs, dumps, strict=True)]


def walk_insns(program: Program) -> Iterator[Insn]:
    """The instructions; the two slots of a 64-bit load are one."""
    image = program.image
    lines = {image.lines[at].insn: image.lines[at] for at in range(image.line_cnt)}
    functions = {image.funcs[at].insn: program.string(image.funcs[at].name) for at in range(image.func_cnt)}
    protos = {image.funcs[at].insn: program.string(image.funcs[at].proto) for at in range(image.func_cnt)}
    code, index = program.insns, 0
    while index < image.insn_cnt:
        text, slots = disassemble(program, index, functions)
        line = lines.get(index)
        source = (program.string(line.text), program.string(line.file), line.line) if line is not None else None
        yield Insn(index, text, code[index * 8 : (index + slots) * 8], source, protos.get(index) or functions.get(index, ""))
        index += slots


def disassemble(program: Program, index: int, functions: dict[int, str]) -> tuple[str, int]:
    """`(b7) r0 = 2` and how many slots that took."""
    buffer, insn = ffi.new("char[256]"), program.image.insns + index
    slots = max(lib.vm_disasm(insn, program.image.insn_cnt - index, buffer, 256), 1)
    text = ffi.string(buffer).decode(errors="replace")
    if insn.code == _CALL and insn.regs >> 4 == lib.BPF_PSEUDO_CALL and functions.get(index + 1 + insn.imm):
        text += f"#{functions[index + 1 + insn.imm]}"
    return f"({insn.code:02x}) {text}", slots


def insn_text(insn: Insn, options: dict) -> str:
    """An instruction of the plain dump, with the lines above and below it."""
    lines = [f"{insn.function}:"] if insn.function else []
    if insn.source and insn.source[0]:
        text, file, number = insn.source
        lines.append(f"; {text}" + (f" [file:{file} line_num:{number} line_col:0]" if options["linum"] else ""))
    lines.append(f"{insn.index:4d}: {insn.text}")
    if options["opcodes"]:
        lines.append("       " + insn.code.hex(" "))
    return "\n".join(lines)


def insn_document(insn: Insn, options: dict) -> dict[str, object]:
    """An instruction of `prog dump xlated -j`."""
    document: dict[str, object] = {"proto": insn.function} if insn.function else {}
    if insn.source and insn.source[0]:
        document["src"] = insn.source[0]
        if options["linum"]:
            document |= {"file": insn.source[1], "line_num": insn.source[2]}
    document["disasm"] = insn.text
    if options["opcodes"]:
        code = insn.code
        document["opcodes"] = {
            "code": f"0x{code[0]:02x}", "src_reg": f"0x{code[1] >> 4:x}", "dst_reg": f"0x{code[1] & 15:x}", "off": hex_list(code[2:4]),
            "imm": hex_list(code[4:]),
        }  # fmt: skip
    return document


# -- load, run: the loader and the engine are imported when they are called --


@prog_group.command("load", cls=WordCommand, epilog="""\b
Examples:
  shmbpf prog load prog.o progs/xdp_main
  shmbpf prog load prog.o progs/filter type xdp pinmaps maps
""")
@words_argument("OBJ PATH [type TYPE] [pinmaps DIR]")
@click.pass_obj
def load(settings: Settings, words: tuple[str, ...]) -> None:
    """Load an object. Its first program lives at PATH in the namespace's pin tree, /dev/shm/shmbpf.UID.NS.fs, until that file is removed."""
    from shmbpf.cli import prog_run

    prog_run.load(settings, list(words), everything=False)


@prog_group.command("loadall", cls=WordCommand, epilog="""\b
Examples:
  shmbpf prog loadall prog.o progs
  shmbpf prog loadall prog.o progs pinmaps maps
""")
@words_argument("OBJ DIR [type TYPE] [pinmaps DIR]")
@click.pass_obj
def loadall(settings: Settings, words: tuple[str, ...]) -> None:
    """Load an object with all its programs. Each lives in DIR of the pin tree under its function's name."""
    from shmbpf.cli import prog_run

    prog_run.load(settings, list(words), everything=True)


@prog_group.command("run", cls=WordCommand, epilog=GRAMMAR + """
\b
Examples:
  shmbpf prog run name xdp_main data_in packet.bin
  shmbpf prog run id 3 data_in packet.bin data_out out.bin repeat 1000
  shmbpf prog run id 3 data_in - ctx_in ctx.bin ctx_out - --cpu 2
""")
@click.option("--cpu", type=int, metavar="N", help="CPU to run on.")
@words_argument("PROG data_in FILE [data_out FILE] [ctx_in FILE] [ctx_out FILE] [repeat N]")
@click.pass_obj
def run(settings: Settings, words: tuple[str, ...], cpu: int | None) -> None:
    """Run a program over one packet. As BPF_PROG_TEST_RUN does: return value, packet and context afterwards, time. FILE `-` is a standard stream."""
    from shmbpf.cli import prog_run

    prog_run.run(settings, [*words, *(() if cpu is None else ("cpu", str(cpu)))])


prog_group.add_command(tracelog)
