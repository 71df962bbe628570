"""`shmbpf map event_pipe`: bpftool's command and output (Linux v6.1 tools/bpf/bpftool/map_perf_ring.c, do_event_pipe(), print_bpf_output())."""

from __future__ import annotations

import click

from shmbpf.cli.followers import Sink, ended_by_signals
from shmbpf.cli.groups import Settings, WordCommand, words_argument
from shmbpf.cli.render import hex_columns, to_json
from shmbpf.cli.selector import MAP_SYNTAX, opened_map
from shmbpf.cli.words import Words
from shmbpf.errors import ShmbpfError
from shmbpf.events.records import Event, Lost
from shmbpf.events.stream import EventStream, has_rings
from shmbpf.uapi import map_type_word

_SAMPLE, _LOST = 9, 2
_USAGE = "map event_pipe MAP [cpu N index M]"


@click.command("event_pipe", cls=WordCommand, epilog=f"""\b
MAP := {MAP_SYNTAX}
\b
Examples:
  shmbpf map event_pipe name events                  a ring of each CPU, in the slot of its number
  shmbpf map event_pipe name events cpu 0 index 5    one ring, of CPU 0 in slot 5
  shmbpf -j map event_pipe name events > events.json
""")
@words_argument("MAP [cpu N index M]")
@click.pass_obj
def event_pipe(settings: Settings, words: tuple[str, ...]) -> None:
    """Print the records that programs send through a perf event array, as bpftool does, until Ctrl-C.

    A ring put into a slot takes the place of another consumer's there, which gets nothing any more. (See also: shmbpf events)
    """
    wanted = Words(words)
    with opened_map(settings, wanted, "event_pipe") as map_:
        cpu, index = _take_place(wanted)
        if not has_rings(map_):
            raise ShmbpfError(f"map is not a perf event array: {map_.name!r} is of type {map_type_word(map_.type)}")
        chosen = {} if cpu is None else {"cpus": [cpu], "slots": [index]}
        with EventStream.open([map_], **chosen) as stream, ended_by_signals(stream.stop):
            printer = _JsonPrinter(settings.pretty) if settings.json else _TextPrinter()
            while events := stream.poll():
                printer.print(events)
            click.echo("Stopping...", err=True)
            printer.print(stream.drain())
            printer.finish()


def _take_place(words: Words) -> tuple[int | None, int | None]:
    places: dict[str, int] = {}
    while words:
        word = words.choose(["cpu", "index"], _USAGE)
        number = words.take("CPU ID" if word == "cpu" else word)
        if not number.isdigit():
            raise click.UsageError(f"can't parse {number} as {'CPU ID' if word == 'cpu' else word}")
        places[word] = int(number)
    if len(places) == 1:
        raise click.UsageError("cpu and index must be specified together")
    return places.get("cpu"), places.get("index")


class _TextPrinter:
    def __init__(self) -> None:
        self._sink = Sink(None)

    def print(self, events: list[Event]) -> None:
        for event in events:
            self._sink.text(_text_of(event))
        self._sink.flush()

    def finish(self) -> None:
        pass  # each record stands for itself


def _text_of(event: Event) -> str:
    if isinstance(event, Lost):
        return f"lost {event.count} events\n"
    seconds, rest = divmod(event.time_ns, 1_000_000_000)
    return f"== @{seconds}.{rest:09d} CPU: {event.cpu} index: {event.index} =====\n{hex_columns(event.data)}\n"


class _JsonPrinter:
    """One array, element by element, so that it can be read while it grows."""

    def __init__(self, pretty: bool):
        self._sink, self._pretty, self._any = Sink(None), pretty, False
        self._sink.text("[")
        self._sink.flush()

    def print(self, events: list[Event]) -> None:
        for event in events:
            whole = to_json([_document(event)], self._pretty)
            self._sink.text(("," if self._any else "") + whole[1:-2 if self._pretty else -1])
            self._any = True
        self._sink.flush()

    def finish(self) -> None:
        self._sink.text("\n]\n" if self._pretty and self._any else "]\n")


def _document(event: Event) -> dict:
    place = {"cpu": event.cpu, "index": event.index}
    if isinstance(event, Lost):
        return {"type": _LOST, **place, "lost": {"id": event.ring_id, "count": event.count}}
    return {"type": _SAMPLE, **place, "timestamp": event.time_ns, "data": list(event.data)}
