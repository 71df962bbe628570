"""`shmbpf events`: what programs send through perf event arrays and ring buffers, followed by a person, a script or a file."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import click

from shmbpf._ffi import lib
from shmbpf.cli.followers import Sink, ended_by_signals
from shmbpf.cli.groups import Settings
from shmbpf.cli.render import to_json
from shmbpf.cli.selector import open_namespace, take_map
from shmbpf.cli.words import Words
from shmbpf.errors import ShmbpfError
from shmbpf.events.decode import (
    DecodedRecord,
    RecordType,
    TypeCatalog,
    read_btf,
    split_type,
)
from shmbpf.events.records import Event, Lost
from shmbpf.events.stream import EventStream, Tally, catalog_of, has_events, has_rings
from shmbpf.maps import find_maps
from shmbpf.maps.map import Map
from shmbpf.maps.text import format_text
from shmbpf.shm.namespace import Namespace
from shmbpf.uapi import map_type_word

FORMATS = ("text", "json", "hex", "raw")


@click.command("events", epilog="""\b
Examples:
  shmbpf events                                    everything, in order of time across CPUs
  shmbpf events samples --type flow_event          decoded as `struct flow_event` of its object
  shmbpf events samples --type prog.o:flow_event   ... of an object file
  shmbpf events log --count 100 --format json      one JSON document per line
  shmbpf events samples --cpu 0 --slot 4           one CPU, in a slot of its own
  shmbpf events samples --format raw --out samples.bin --timeout 5
""")
@click.argument("maps", metavar="[MAP]...", nargs=-1)
@click.option("--cpu", "cpus", type=click.IntRange(min=0), multiple=True, metavar="N", help="Only this CPU of perf event arrays. May be repeated.")
@click.option("--slot", "slots", type=click.IntRange(min=0), multiple=True, metavar="M", help="Slot of that CPU's ring (default: its number); one for each --cpu.")
@click.option("--type", "type_name", metavar="STRUCT", help="Decode records as this type of the object's BTF, or OBJ.o:STRUCT.")
@click.option("--btf", "btf_file", type=click.Path(), metavar="OBJ.o", help="Look for the type in this object file too.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="text (default), json (one document per line; -j), hex (not decoded), raw (payload alone).")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after N records.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Stop after S seconds without a record.")
@click.option("--out", metavar="FILE", help="Write to FILE instead of standard output.")
@click.option("--pages", type=int, default=16, show_default=True, metavar="N", help="Data pages of each ring: a power of two.")
@click.pass_obj
def events(settings: Settings, maps: tuple[str, ...], **options) -> None:
    """Follow perf event arrays and ring buffers: all of the namespace, or each MAP (a name, or an id).

    A line is TIME (seconds, CLOCK_MONOTONIC), CPU, MAP and the record; `-` for what a ring buffer does not tell. Lost records are shown where they were lost.

    Ends on Ctrl-C (exit 0), on --count or --timeout, with totals on stderr; what was sent before is still printed.

    A perf event array gets rings of our own: a ring put into a slot takes the place of another consumer's there. A record of a ring buffer goes to one reader only.
    """
    with ExitStack() as stack:
        namespace = stack.enter_context(open_namespace(settings, "events"))
        followed = _choose_maps(namespace, maps, stack)
        _check_options(settings, followed, options)
        types = _find_types(namespace, followed, options, stack)
        sink = Sink(options["out"])
        stack.callback(sink.close)
        _note_replaced(settings, followed, options)
        places = {"cpus": options["cpus"] or None, "slots": options["slots"] or None, "pages": options["pages"]}
        stream = stack.enter_context(EventStream.open(followed, types=types, **places))
        _note_runtime(settings, namespace)
        came = stack.enter_context(ended_by_signals(stream.stop))
        printer = _Printer(sink, "json" if settings.json and not options["form"] else options["form"] or "text", followed)
        _follow(stream, printer, options)
        if not settings.quiet:
            click.echo(totals_text(Tally(printer.shown, stream.tally.lost)), err=True)
        if came and came[0] != 2:  # Ctrl-C is how one ends it; whoever sends another signal wants to be told that it came
            sys.exit(128 + came[0])


def _follow(stream: EventStream, printer: _Printer, options: dict) -> None:
    count = options["count"]
    while True:
        left = None if count is None else count - printer.total
        if left == 0:
            return
        stream.limit = left
        found = stream.poll(options["timeout"])
        if not found:
            break
        printer.print(found, left)
    printer.print(stream.drain(), None if count is None else count - printer.total)


# -- what is asked for --


def _choose_maps(namespace: Namespace, words: Sequence[str], stack: ExitStack) -> list[Map]:
    if words:
        left, chosen = Words(words), []
        while left:
            chosen.append(stack.enter_context(take_map(namespace, left, bare=True)))
        for map_ in chosen:
            if not has_events(map_):
                raise ShmbpfError(f"map {map_.name!r} (id {map_.id}) is of type {map_type_word(map_.type)}: events come from a perf_event_array or a ringbuf")
        return list({map_.id: map_ for map_ in chosen}.values())
    found = [stack.enter_context(map_) for map_ in find_maps(namespace)]
    chosen = [map_ for map_ in found if has_events(map_)]
    if not chosen:
        raise ShmbpfError(f"namespace {namespace.name!r} has no perf_event_array and no ringbuf (shmbpf map show lists its {len(found)} maps)")
    return chosen


def _check_options(settings: Settings, followed: list[Map], options: dict) -> None:
    if settings.json and options["form"] not in (None, "json"):
        raise click.UsageError(f"-j and --format {options['form']} contradict each other")
    if options["slots"] and len(options["slots"]) != len(options["cpus"]):
        raise click.UsageError(f"--slot goes with --cpu: {len(options['cpus'])} CPUs and {len(options['slots'])} slots are given")
    if options["cpus"] and not any(map(has_rings, followed)):
        raise ShmbpfError("--cpu chooses rings of a perf_event_array; a ringbuf is shared by all CPUs")


def _find_types(namespace: Namespace, followed: list[Map], options: dict, stack: ExitStack) -> dict[int, RecordType]:
    """The type of each map's records: from its own BTF, else from another map's or the file's."""
    if options["btf_file"] and not options["type_name"]:
        raise click.UsageError("--btf says where to look for a type: name it with --type STRUCT")
    if not options["type_name"] or options["form"] in ("hex", "raw"):
        return {}
    path, name = split_type(options["type_name"])
    files = [(file, read_btf(file)) for file in (path, options["btf_file"]) if file]
    if path:
        chosen = TypeCatalog(files).find(name)
        return {map_.id: chosen for map_ in followed}
    others = [stack.enter_context(map_) for map_ in find_maps(namespace)]
    return {map_.id: catalog_of([map_], [*files, *((f"map {other.name!r}", other.btf) for other in others if other.btf)]).find(name) for map_ in followed}


def _note_replaced(settings: Settings, followed: list[Map], options: dict) -> None:
    """Linux replaces a slot's ring without a word; the person who does it may want to know."""
    for map_ in filter(has_rings, followed):
        slots = options["slots"] or options["cpus"] or range(min(map_.namespace.possible_cpus, map_.max_entries))
        taken = [str(slot) for slot in slots if slot < map_.max_entries and lib.perf_array_slot(map_.handle, map_.namespace.client, slot)]
        if taken and not settings.quiet:
            click.echo(f"note: slot {', '.join(taken)} of {map_.name!r} had another consumer's ring, which gets nothing any more (--slot chooses another)", err=True)


def _note_runtime(settings: Settings, namespace: Namespace) -> None:
    """Says so when the runtime that sends ends: the maps stay, and somebody may run their programs again."""
    if settings.quiet or not namespace.has_runtime():
        return

    def watch(pidfd: int) -> None:
        select.select([pidfd], [], [])
        click.echo("note: the runtime has ended; its maps are kept as long as this goes on (Ctrl-C ends)", err=True)

    with suppress(OSError):
        threading.Thread(target=watch, args=(os.pidfd_open(namespace.ctl.runtime_pid),), daemon=True).start()


# -- what is shown --


class _Printer:
    """Events in one of FORMATS. `shown`: records per CPU."""

    def __init__(self, sink: Sink, form: str, maps: list[Map]):
        self._sink, self._form = sink, form
        self._names = {map_.id: map_.name or str(map_.id) for map_ in maps}
        self.shown: Counter[int] = Counter()
        self.total = 0

    def print(self, found: list[Event], limit: int | None) -> None:
        """Prints these, but no more than `limit` records."""
        write: Callable[[Event], None] = {"json": self._json, "raw": self._raw}.get(self._form, self._line)
        left = len(found) if limit is None else limit
        for event in found:
            is_record = not isinstance(event, Lost)
            if is_record and left == 0:
                break
            write(event)
            if is_record:
                left -= 1
                self.total += 1
                self.shown[event.cpu] += 1
        self._sink.flush()

    def _line(self, event: Event) -> None:
        seconds, rest = divmod(event.time_ns, 1_000_000_000)
        when = f"{seconds}.{rest:09d}" if event.time_ns else "-"
        what = f"lost {event.count} events" if isinstance(event, Lost) else _text_of(event)
        self._sink.text(f"{when} {event.cpu if event.cpu >= 0 else '-'} {self._names[event.map_id]} {what}\n")

    def _json(self, event: Event) -> None:
        document: dict[str, object] = {"time_ns": event.time_ns or None, "cpu": event.cpu if event.cpu >= 0 else None,
                                       "index": event.index if event.index >= 0 else None, "map": self._names[event.map_id], "map_id": event.map_id}  # fmt: skip
        if isinstance(event, Lost):
            document["lost"] = event.count
        elif isinstance(event, DecodedRecord):
            document["value"] = _plain(event.value)
            document |= {"rest": event.rest.hex()} if event.rest else {}
        else:
            document["data"] = event.data.hex()
        self._sink.text(to_json(document, False) + "\n")

    def _raw(self, event: Event) -> None:
        if not isinstance(event, Lost):
            self._sink.data(event.data)


def _text_of(event: Event) -> str:
    if not isinstance(event, DecodedRecord):
        return event.data.hex(" ")
    value = "" if event.value is None else format_text(event.value)
    return f"{value} rest {event.rest.hex(' ')}".strip() if event.rest else value


def _plain(value: object) -> object:
    """What JSON can hold: bytes become hex."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def totals_text(tally: Tally) -> str:
    """`received 12 events (CPU 0: 7, CPU 1: 5), lost 3 (CPU 1: 3)`."""
    return f"received {tally.received.total()} events{_by_cpu(tally.received)}, lost {tally.lost.total()}{_by_cpu(tally.lost)}"


def _by_cpu(counts: Counter[int]) -> str:
    parts = [f"{'ring buffers' if cpu < 0 else f'CPU {cpu}'}: {count}" for cpu, count in sorted(counts.items()) if count]
    return f" ({', '.join(parts)})" if parts else ""
