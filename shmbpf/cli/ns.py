"""`shmbpf ns`: namespaces as a whole."""

from __future__ import annotations

import os
import re
import shutil

import click

from shmbpf.cli.groups import PrefixGroup, Settings, WordCommand, words_argument
from shmbpf.cli.render import emit, emit_done
from shmbpf.cli.selector import find_programs, open_namespace
from shmbpf.cli.words import Words
from shmbpf.engine.program import Program, Registry
from shmbpf.errors import SegmentError, ShmbpfError
from shmbpf.events.perf import check_ring
from shmbpf.maps import find_maps
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace, namespace_exists, namespace_names, namespace_prefix
from shmbpf.shm.segment import SHM_DIR
from shmbpf.uapi import map_type_word, prog_type_word


@click.group("ns", cls=PrefixGroup, epilog="""\b
Examples:
  shmbpf ns list              all namespaces of this user
  shmbpf --ns lab ns show     what is in one
  shmbpf ns check             is everything sound?
  shmbpf ns rm lab            remove a namespace
  shmbpf ns gc                remove what nobody uses any more
""")
def ns_group() -> None:
    """Show, check and clean namespaces.

    A namespace is one simulated kernel: its maps, programs and CPUs. It exists while something is in it.
    """


def summarize(namespace: Namespace) -> dict[str, object]:
    """Name, CPUs, runtime and sizes of a namespace; what nobody uses is gone afterwards."""
    namespace.collect()
    objects = namespace.segments()
    return {
        "name": namespace.name, "possible_cpus": namespace.possible_cpus, "runtime_pid": namespace.ctl.runtime_pid if namespace.has_runtime() else None,
        "maps": sum(name.startswith("map.") for name in objects), "progs": sum(name.startswith("prog.") for name in objects),
        "objects": len(objects), "bytes": bytes_of(namespace),
    }  # fmt: skip


def bytes_of(namespace: Namespace) -> int:
    """Shared memory that the namespace's objects take, its control segment included."""
    names = [f"{namespace.prefix}.{name}" for name in [*namespace.segments(), "ctl.0"]]
    return sum(_blocks_of(name) for name in names)


def _blocks_of(name: str) -> int:
    try:
        return os.stat(SHM_DIR / name).st_blocks * 512
    except FileNotFoundError:
        return 0  # gone since it was listed


def known_names() -> list[str]:
    """Namespaces that have any file in /dev/shm, also those that lost their control segment."""
    pattern = re.compile(rf"shmbpf\.{os.getuid()}\.([A-Za-z0-9_-]+)\.[a-z]+(\.[0-9a-f]+)?")
    matches = (pattern.fullmatch(entry) for entry in os.listdir(SHM_DIR))
    return sorted({match.group(1) for match in matches if match} | set(namespace_names()))


# -- commands --


@ns_group.command("list", cls=WordCommand, epilog="""\b
Examples:
  shmbpf ns list
  shmbpf -j ns list | jq '.[].name'
""")
@words_argument("")
@click.pass_obj
def list_(settings: Settings, words: tuple[str, ...]) -> None:
    """List the namespaces of this user. CPUs, the runtime's PID, objects, bytes of shared memory."""
    Words(words).finish()
    found = []
    for name in namespace_names():
        with Namespace(name, role="ns list") as namespace:
            found.append(summarize(namespace))
    if settings.json:
        emit(settings, found)
        return
    for facts in found:
        click.echo(_line(facts))


def _line(facts: dict) -> str:
    runtime = f"  runtime {facts['runtime_pid']}" if facts["runtime_pid"] else ""
    return f"{facts['name']}: cpus {facts['possible_cpus']}{runtime}  maps {facts['maps']}  progs {facts['progs']}  bytes {facts['bytes']}"


@ns_group.command("show", cls=WordCommand, epilog="""\b
Examples:
  shmbpf ns show
  shmbpf ns show lab
""")
@words_argument("[NAME]")
@click.pass_obj
def show(settings: Settings, words: tuple[str, ...]) -> None:
    """Show a namespace (that of --ns) and what is in it."""
    _take_name(settings, words)
    with open_namespace(settings, "ns show") as namespace:
        facts = summarize(namespace)
        maps = [_map_facts(map_) for map_ in _closing(find_maps(namespace))]
        programs = [{"id": program.id, "type": prog_type_word(program.type), "name": program.name} for program in _closing(find_programs(namespace))]
    if settings.json:
        emit(settings, facts | {"maps": maps, "progs": programs})
        return
    click.echo(_line(facts))
    for entry in maps:
        click.echo(f"\tmap {entry['id']}: {entry['type']}  name {entry['name']}  bytes {entry['bytes']}")
    for entry in programs:
        click.echo(f"\tprog {entry['id']}: {entry['type']}  name {entry['name']}")


def _take_name(settings: Settings, words: tuple[str, ...]) -> None:
    wanted = Words(words)
    if wanted:
        settings.ns = wanted.take("NAME")
    wanted.finish()


def _map_facts(map_: Map) -> dict[str, object]:
    return {"id": map_.id, "type": map_type_word(map_.type), "name": map_.name, "bytes": map_.memory_bytes}


def _closing(found: list):
    """Each item, closed after its turn."""
    for item in found:
        with item:
            yield item


@ns_group.command("gc", cls=WordCommand, epilog="""\b
Examples:
  shmbpf ns gc                 in all namespaces of this user
  shmbpf --ns lab ns gc        in this one only
""")
@words_argument("")
@click.pass_obj
def gc(settings: Settings, words: tuple[str, ...]) -> None:
    """Remove what nobody uses any more, and say what that was.

    That is what no process holds and no pin names, in all namespaces of this user, or with --ns in that one only.

    This happens by itself whenever somebody lists, creates or starts; it never touches what is in use.
    """
    Words(words).finish()
    removed: dict[str, list[str]] = {}
    for name in _to_collect(settings):
        before = namespace_exists(name)
        with Namespace(name, role="ns gc") as namespace:
            gone = namespace.collect()
        if before and not namespace_exists(name):
            gone.append("ctl.0")
        if gone:
            removed[name] = gone
    if settings.json:
        emit(settings, removed)
        return
    for name, gone in removed.items():
        click.echo(f"{name}: removed {', '.join(gone)}")
    if not removed and not settings.quiet:
        click.echo("nothing to remove", err=True)


def _to_collect(settings: Settings) -> list[str]:
    if not settings.ns_given:
        return known_names()
    namespace_prefix(settings.ns)  # refuses an impossible name
    return [name for name in known_names() if name == settings.ns]


@ns_group.command("rm", cls=WordCommand, epilog="""\b
Examples:
  shmbpf ns rm lab
""")
@words_argument("NAME")
@click.pass_obj
def rm(settings: Settings, words: tuple[str, ...]) -> None:
    """Remove a namespace: its pins, and with them its maps and programs. Refused while other processes are in it, naming them."""
    left = Words(words)
    name = left.take("NAME")
    left.finish()
    with open_namespace(Settings(ns=name), "ns rm") as namespace, namespace.creating():
        inside = namespace.others()
        if inside:
            raise ShmbpfError(f"namespace {name!r} is in use by {', '.join(f'PID {pid} ({role})' for pid, role in inside)}: end them first")
        shutil.rmtree(namespace.pin_dir, ignore_errors=True)
    emit_done(settings)


@ns_group.command("check", cls=WordCommand, epilog="""\b
Examples:
  shmbpf ns check
  shmbpf ns check lab
  shmbpf ns check --repair lab
""")
@click.option("--repair", is_flag=True, help="Put back what dead processes left behind, then check.")
@words_argument("[NAME]...")
@click.pass_obj
@click.pass_context
def check(context: click.Context, settings: Settings, words: tuple[str, ...], repair: bool) -> None:
    """Check every map, program and perf ring.

    Looks at every link, in all namespaces of this user or in those named. Exit 1 when something is wrong.
    """
    found = [verdict for name in words or namespace_names() for verdict in _check_namespace(name, repair)]
    if settings.json:
        emit(settings, found)
    else:
        for entry in found:
            what = f"{entry['kind']} {entry['id']} {entry['name']}".rstrip()
            repaired = f" (repaired: {entry['repaired']})" if entry["repaired"] else ""
            click.echo(f"{entry['namespace']}: {what}: {entry['error'] or 'ok'}{repaired}")
    if any(entry["error"] for entry in found):
        context.exit(1)


def _check_namespace(name: str, repair: bool) -> list[dict[str, object]]:
    try:
        with open_namespace(Settings(ns=name), "ns check") as namespace:
            return [_check_object(namespace, kind, number, repair) for kind in _CHECKS for number in namespace.ids(kind)]
    except SegmentError as error:  # of another build, or damaged: the others are looked at all the same
        return [{"namespace": name, "kind": "ctl", "id": 0, "name": "", "repaired": 0, "error": str(error)}]


def _check_map(namespace: Namespace, number: int, verdict: dict[str, object], repair: bool) -> None:
    with Map.open(namespace, number) as map_:
        verdict["name"] = map_.name
        verdict["repaired"] = map_.recover() if repair else 0
        map_.check()


def _check_program(namespace: Namespace, number: int, verdict: dict[str, object], _: bool) -> None:
    with Program.open(namespace, number) as program, Registry(namespace) as registry:
        verdict["name"] = program.name
        registry.program(number)


def _check_ring(namespace: Namespace, number: int, _: dict[str, object], __: bool) -> None:
    check_ring(namespace, number)


#: what can be checked: each names the object in the verdict if it has a name, and raises what is wrong
_CHECKS = {"map": _check_map, "prog": _check_program, "ring": _check_ring}


def _check_object(namespace: Namespace, kind: str, number: int, repair: bool) -> dict[str, object]:
    verdict: dict[str, object] = {"namespace": namespace.name, "kind": kind, "id": number, "name": "", "repaired": 0, "error": None}
    try:
        _CHECKS[kind](namespace, number, verdict, repair)
    except (KeyError, FileNotFoundError):
        pass  # gone since it was listed
    except ShmbpfError as error:
        verdict["error"] = str(error)
    return verdict
