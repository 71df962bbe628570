"""`shmbpf run`: load an object, start the CPUs, feed packets, print verdicts."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click

from shmbpf._ffi import lib
from shmbpf.attach.device import Device, Feed
from shmbpf.attach.source import CaptureFile, CaptureStream, Source
from shmbpf.cli import take_signals
from shmbpf.cli.render import to_json
from shmbpf.cli.summary import print_report
from shmbpf.elf import load_object
from shmbpf.engine.loaded import LoadedObject, load_spec
from shmbpf.engine.program import Program
from shmbpf.errors import CaptureError, LoadError, MapError, ShmbpfError, errno_text
from shmbpf.maps.map import Map
from shmbpf.maps.pin import pin_maps
from shmbpf.runtime.report import sum_reports
from shmbpf.runtime.supervisor import Supervisor, check_cpu_count
from shmbpf.runtime.worker import END_SIGNALS
from shmbpf.shm.namespace import Namespace, collect_abandoned
from shmbpf.shm.pins import PinTree
from shmbpf.uapi import Hook, ProgType

PROGRAM_TYPES = {
    "xdp": ProgType.XDP, "tc": ProgType.SCHED_CLS, "classifier": ProgType.SCHED_CLS, "sched_cls": ProgType.SCHED_CLS,
    "action": ProgType.SCHED_ACT, "sched_act": ProgType.SCHED_ACT, "socket": ProgType.SOCKET_FILTER, "socket_filter": ProgType.SOCKET_FILTER,
}  # fmt: skip
_SPREADS = {"flow": lib.NET_SPREAD_FLOW, "roundrobin": lib.NET_SPREAD_ROUNDROBIN, "cpu0": lib.NET_SPREAD_CPU0}


@click.command(epilog="""\b
Examples:
  shmbpf run prog.o --cpus 4 --pcap web.pcap          replay a capture over 4 CPUs
  shmbpf run prog.o --pcap web.pcap --out out/        keep what came out, one file per verdict
  shmbpf run prog.o --cpus 2                          wait for packets: shmbpf inject shm0 web.pcap
  tcpdump -w - -i eth0 | shmbpf run prog.o --pcap -   packets as they come
""")
@click.argument("obj", metavar="OBJ", type=click.Path())
@click.option("--cpus", type=int, metavar="N", help="CPUs, one process each (default: as many as the machine has).")
@click.option("--prog", "programs", multiple=True, metavar="NAME", help="Attach this program (needed when a hook has several). May be repeated.")
@click.option("--type", "type_word", type=click.Choice(sorted(PROGRAM_TYPES)), help="Type of programs whose section name does not tell it.")
@click.option("--pcap", "captures", multiple=True, metavar="FILE", help="Replay a pcap or pcapng file; '-' is standard input. May be repeated.")
@click.option("--loop", "loops", type=click.IntRange(min=0), metavar="N", is_flag=False, flag_value=0, default=1, help="Replay N times; without N (or 0) until Ctrl-C.")
@click.option("--rate", type=click.IntRange(1, 10**9), metavar="PPS", help="Packets per second (default: as fast as it goes).")
@click.option("--realtime", is_flag=True, help="Keep the capture's own timing.")
@click.option("--rss", type=click.Choice(sorted(_SPREADS)), default="flow", show_default=True, help="How packets are spread over CPUs.")
@click.option("--out", "out_dir", metavar="DIR", help="Write what came out: pass.pcapng, drop.pcapng, tx.pcapng, redirect-<n>.pcapng.")
@click.option("--use-maps", "use_dir", metavar="DIR", help="Use the maps pinned in this directory of the pin tree for the object's of the same name.")
@click.option("--pin-maps", "pin_dir", metavar="DIR", help="Pin the object's maps in this directory of the pin tree, so that they outlive the run.")
@click.option("--show-maps", is_flag=True, help="Dump every map at the end.")
@click.option("--count", type=click.IntRange(1, 2**63), metavar="N", help="Stop after N packets.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Stop after S seconds.")
@click.option("--interval", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Print packets and rates every S seconds.")
@click.option("--insn-limit", type=click.IntRange(1, 2**63), metavar="N", help="Instructions one run may take before it is stopped.")
@click.option("--trace", is_flag=True, help="Show bpf_trace_printk lines on stderr.")
@click.pass_context
def run(context: click.Context, obj: str, **options) -> None:
    """Load OBJ, start N CPUs, attach its packet programs to the virtual device shm0, feed packets, print verdicts.

    Without --pcap it stays up until Ctrl-C; packets come from other processes (shmbpf inject shm0 FILE). While it runs, any other process may look
    into its maps: shmbpf map show, shmbpf map dump name NAME.
    """
    settings = context.obj
    if options["rate"] and options["realtime"]:
        raise click.UsageError("--rate and --realtime contradict each other: a fixed pace, or the capture's own")
    check_cpu_count(options["cpus"])
    lib.shm_guard_bus()
    spec = load_object(obj)
    collect_abandoned()
    with ExitStack() as stack:
        session = Session(stack, settings, options, spec)
        session.start()
        session.work()
        session.finish()
    if session.signal:
        sys.exit(128 + session.signal)
    if session.failed:
        sys.exit(1)


class Session:
    """One `shmbpf run`, from loading to the summary."""

    def __init__(self, stack: ExitStack, settings, options: dict, spec):
        self.settings, self.options = settings, options
        self.signal = 0
        self.failed = False
        self._interrupts = 0
        self._trace_lines = 0
        self.sources = [stack.enter_context(source) for source in _open_sources(options)]
        self.namespace = stack.enter_context(Namespace(settings.ns, role="run"))
        out_fd = _open_directory(stack, options["out_dir"])
        self.supervisor = stack.enter_context(Supervisor(self.namespace, options["cpus"], out_fd=out_fd, budget=options["insn_limit"] or 0))
        self.object = stack.enter_context(_load(self.namespace, spec, options))
        self.device = stack.enter_context(Device(self.namespace))
        self.feed = stack.enter_context(self._make_feed())
        self.attached = choose_programs(self.object, options["programs"])
        if options["pin_dir"]:
            self.pinned = pin_maps(self.namespace, self.object.maps, options["pin_dir"])

    def _make_feed(self) -> Feed:
        feed = self.device.feed(spread=_SPREADS[self.options["rss"]])
        feed.state.rate_pps = self.options["rate"] or 0
        feed.state.realtime = self.options["realtime"]
        feed.state.max_packets = self.options["count"] or 0
        return feed

    def note(self, text: str) -> None:
        """A line for the person, on stderr."""
        if not self.settings.quiet:
            click.echo(text, err=True)

    def start(self) -> None:
        """Attaches, forks the CPUs, and takes over the signals."""
        for program in self.attached:
            self.device.attach(program)
        for source in self.sources:
            if isinstance(source, CaptureFile):
                source.mapped_index = len(self.supervisor.plan.sources)
                self.supervisor.plan.sources.append(source.mapping)
        for warning in self.object.warnings:
            self.note(f"warning: {warning}")
        for reason in self.object.left_out if self.settings.verbose else ():
            self.note(f"left out: {reason}")
        self.supervisor.start()
        take_signals(self._on_signal, sorted(END_SIGNALS))
        if not self.sources:
            self.note(f"{self._program_names()} on {self.supervisor.cpus} CPUs of shm0 (namespace {self.namespace.name!r}); "
                      f"feed it: shmbpf --ns {self.namespace.name} inject shm0 FILE; Ctrl-C ends")  # fmt: skip

    def _program_names(self) -> str:
        return ", ".join(f"{program.name} ({program.hook.name.lower()})" for program in self.attached)

    def _on_signal(self, number: int, _frame) -> None:
        self.signal = number
        self.feed.state.stop = 1
        self._interrupts += 1
        if self._interrupts > 1:  # impatient: no CPU gets to finish its packet
            self.supervisor.kill()

    def work(self) -> None:
        """Feeds and watches until the source ends, a limit is reached, or somebody interrupts."""
        self.started = time.monotonic()
        next_report = self.started + (self.options["interval"] or float("inf"))
        feeding = list(self.sources)
        while not self._is_over():
            if feeding and not self._step(feeding[0]):
                feeding.pop(0)
                if not feeding or self._count_reached():
                    break
            self._tick(0.0 if feeding else 0.1)
            if time.monotonic() >= next_report:
                next_report += self.options["interval"]
                self._print_interval()
        self._drain()

    def _step(self, source: Source) -> bool:
        try:
            return self.feed.step(source)
        except CaptureError as error:
            if self.feed.packets == 0 and len(self.sources) == 1:
                raise
            self.note(f"warning: {error}")
            return False

    def _count_reached(self) -> bool:
        return bool(self.options["count"]) and self.feed.packets >= self.options["count"]

    def _is_over(self) -> bool:
        late = self.options["duration"] and time.monotonic() - self.started >= self.options["duration"]
        if not self.supervisor.is_working:
            self.failed = True
        idle_count = not self.sources and self.options["count"] and sum(report.packets for report in self.supervisor.reports()) >= self.options["count"]
        return bool(self.signal or late or self.failed or idle_count)

    def _tick(self, timeout: float) -> None:
        self.supervisor.poll(timeout)
        for notice in self.supervisor.notices:
            self.note(notice)
        self.supervisor.notices.clear()
        self._show_trace()
        if self.supervisor.failed and not self.failed:
            self.failed = True
            click.echo(f"Error: CPU {sorted(self.supervisor.failed)} dies at once, again and again: giving up", err=True)

    def _kept_maps(self) -> list[str]:
        """Names of the object's maps that are pinned: because it asked for that, or because somebody did so while it ran."""
        pinned = PinTree(self.namespace).paths()
        return [name for name, map_ in self.object.maps.items() if f"map.{map_.id}" in pinned]

    def _show_trace(self) -> None:
        lines = self.supervisor.read_trace().decode(errors="replace").split("\n")[:-1]  # a line may hold any other separator
        self._trace_lines += len(lines)
        for line in lines if self.options["trace"] or self.settings.verbose else ():
            self.note(line)

    def _drain(self) -> None:
        """Lets the CPUs finish what is queued (unless interrupted), then stops them."""
        if not self.signal and not self.failed:
            self.supervisor.close_device()
            while self.supervisor.is_working and not self.signal and not self.failed:
                self._tick(0.05)
        self.elapsed = time.monotonic() - self.started
        self.supervisor.stop()
        self._tick(0.0)

    def _print_interval(self) -> None:
        total = sum_reports(self.supervisor.reports())
        elapsed = time.monotonic() - self.started
        verdicts = "  ".join(f"{name} {count}" for name, count in total.flat_verdicts.items())
        self.note(f"{elapsed:8.1f} s  {total.packets} packets  {total.packets / elapsed:.0f}/s  {verdicts}")

    def finish(self) -> None:
        """The summary: a table, or the JSON document."""
        if lib.shm_bus_errors():
            self.note("warning: a capture was truncated while it was read: packets behind its new end were read as zeros")
        for source in self.sources:
            for warning in source.warnings:
                self.note(f"warning: {source.name}: {warning}")
            if source.warnings and not source.packets:
                self.failed = True
                click.echo(f"Error: {source.name}: not one packet of it could be read", err=True)
        reports = self.supervisor.reports()
        document = self._document(reports)
        if self.settings.json:
            click.echo(to_json(document, self.settings.pretty))
        else:
            print_report(document, reports, self.elapsed, quiet=self.settings.quiet)
            if self.options["show_maps"]:
                self._dump_maps()
        self._hint()

    def _document(self, reports) -> dict:
        total = sum_reports(reports)
        return {
            "object": self.options.get("obj") or self.object.spec.path,
            "programs": [{"id": program.id, "name": program.name, "type": program.type.name.lower(), "hook": program.hook.name.lower()} for program in self.attached],
            "cpus": [report.as_json() for report in reports],
            "total": total.as_json(),
            "faults": [kind.as_json() for kind in self.supervisor.faults.totals()],
            "maps": [self._map_document(name, map_) for name, map_ in self.object.maps.items()],
            "events": {"sent": total.events_sent, "lost": total.events_lost},
            "source": {"packets": self.feed.packets, "bytes": self.feed.state.bytes, "truncated": sum(source.truncated for source in self.sources)},
            "elapsed_ns": int(self.elapsed * 1e9),
        }

    def _map_document(self, name: str, map_: Map) -> dict:
        found = {"id": map_.id, "name": name, "type": map_.type.name.lower()}
        if not self.options["show_maps"]:
            return found
        from shmbpf.cli.map_dump import dump_document

        try:
            return found | {"elements": dump_document(map_)}
        except MapError as error:  # a type that has no keys to walk
            return found | {"error": errno_text(error.errno)}

    def _dump_maps(self) -> None:
        from shmbpf.cli.map_dump import dump_text

        for name, map_ in self.object.maps.items():
            click.echo(f"\n{name} (id {map_.id}, {map_.type.name.lower()}):")
            try:
                click.echo(dump_text(map_))
            except MapError as error:
                click.echo(f"it has no elements to show: {errno_text(error.errno)}")

    def _hint(self) -> None:
        total = sum_reports(self.supervisor.reports())
        if total.out_errors:
            self.failed = True
            why = os.strerror(max(report.out_errno for report in self.supervisor.reports()))
            click.echo(f"Error: {total.out_errors} output packets could not be written to {self.options['out_dir']}: {why}", err=True)
        if self._trace_lines and not (self.options["trace"] or self.settings.verbose):
            self.note(f"{self._trace_lines} lines of bpf_trace_printk: show them with --trace")
        if not self.object.maps:
            return
        if self.options["pin_dir"]:
            self.note(f"maps are pinned in {self.pinned} (rm -r it to drop them): shmbpf --ns {self.namespace.name} map dump name {next(iter(self.object.maps))}")
        elif kept := self._kept_maps():
            self.note(f"{', '.join(kept)}: pinned, and kept (shmbpf --ns {self.namespace.name} ls)" + ("; the other maps end with the run" if len(kept) < len(self.object.maps) else ""))
        elif not self.options["show_maps"]:
            self.note("maps end with the run: see them with --show-maps, keep them with --pin-maps DIR, or look while it runs: "
                      f"shmbpf map dump name {next(iter(self.object.maps))}")  # fmt: skip


def choose_programs(loaded: LoadedObject, names) -> list[Program]:
    """One program for each hook. Raises LoadError naming the choices when a hook has several and none was chosen."""
    targets = {target for spec in loaded.spec.maps.values() for _, target in spec.slots.values()}
    by_hook: dict[Hook, list[Program]] = {}
    for name, program in loaded.programs.items():
        is_target = name in targets or loaded.spec.programs[name].tail_slot is not None
        if name in names or (not names and not is_target):
            by_hook.setdefault(program.hook, []).append(program)
    for hook, programs in by_hook.items():
        if len(programs) > 1:
            found = ", ".join(name for name, program in loaded.programs.items() if program in programs)
            raise LoadError(f"{loaded.spec.path}: {len(programs)} {hook.name.lower()} programs ({found}): choose one with --prog NAME")
    if not by_hook:
        raise LoadError(f"{loaded.spec.path}: no entry program (all are tail-call targets): choose one with --prog NAME")
    return [programs[0] for programs in by_hook.values()]


def _load(namespace: Namespace, spec, options: dict) -> LoadedObject:
    kind = PROGRAM_TYPES.get(options["type_word"]) if options["type_word"] else None
    return load_spec(namespace, spec, only=options["programs"] or None, program_type=kind, with_others=bool(options["programs"]), use_maps=options["use_dir"])


def _open_sources(options: dict) -> list[Source]:
    sources: list[Source] = []
    for name in options["captures"]:
        if name == "-":
            sources.append(CaptureStream(sys.stdin.buffer))
        else:
            sources.append(CaptureFile(name, loops=options["loops"]))
    if len(sources) > lib.NET_MAX_SOURCES:
        raise ShmbpfError(f"{len(sources)} captures: at most {lib.NET_MAX_SOURCES} in one run")
    return sources


def _open_directory(stack: ExitStack, path: str | None) -> int:
    if path is None:
        return -1
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ShmbpfError(f"--out {path}: is a file, or lies below one: expected a directory (it is made if it does not exist)") from None
    for old in Path(path).glob("*.pcapng"):
        if re.fullmatch(r"(pass|drop|tx|aborted|redirect-\d+)\.pcapng", old.name):
            old.unlink()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd
