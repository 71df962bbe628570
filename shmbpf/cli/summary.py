"""The summary of a run as tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shmbpf.runtime.report import CpuReport, sum_reports

_ENDLESS = 10_000  #: columns of a pipe or a file: nothing is cut there
_FAULT_LINES = 20
_PATH = ["xdp", "tc", "act", "socket", "none"]  #: a packet's way through the hooks

Column = tuple[str, Callable[[CpuReport], str]]  #: title, and what it shows of a CPU or of the total

_COUNTS: list[Column] = [
    ("CPU", lambda report: "total" if report.cpu is None else str(report.cpu)),
    ("PID", lambda report: "" if report.cpu is None else str(report.pid or "-")),
    ("packets", lambda report: f"{report.packets:,}"),
    ("bytes", lambda report: f"{report.bytes:,}"),
]
_COSTS: list[Column] = [("ns/run", lambda report: f"{report.ns_per_run:.0f}"), ("faults", lambda report: str(report.faults))]
_EVENTS: list[Column] = [("events sent", lambda report: f"{report.events_sent:,}"), ("events lost", lambda report: f"{report.events_lost:,}")]


def print_report(document: dict, reports: list[CpuReport], elapsed: float, *, quiet: bool = False, console: Console | None = None) -> None:
    """Prints one row per CPU and a total to stdout; one column per verdict that occurred; events if there were any.

    With programs on several hooks, or when that is wider than the terminal, the verdicts of each hook have a table of their own.
    """
    console = console or Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _ENDLESS)
    total = sum_reports(reports)
    costs = _COSTS + (_EVENTS if total.events_sent or total.events_lost else [])
    title = None if quiet else _title(document)
    hooks = sorted(total.verdicts, key=_PATH.index)
    verdicts = {hook: [_verdict_column(hook, name) for name in total.verdicts[hook]] for hook in hooks}
    whole = _table(title, _COUNTS + sum(verdicts.values(), []) + costs, reports, total)
    if len(verdicts) <= 1 and console.measure(whole, options=console.options.update(max_width=_ENDLESS)).maximum <= console.width:
        console.print(whole)
    else:
        console.print(_table(title, _COUNTS + costs, reports, total))
        for hook, columns in verdicts.items():
            console.print(_table(hook, _COUNTS[:1] + columns, reports, total))
    console.print(_footline(document, total, elapsed))
    for line in _fault_lines(document, total):
        console.print(Text(line))


def _verdict_column(hook: str, name: str) -> Column:
    return name, lambda report: f"{report.verdicts.get(hook, {}).get(name, 0):,}"


def _table(title: str | None, columns: list[Column], reports: list[CpuReport], total: CpuReport) -> Table:
    table = Table(title=title and Text(title), title_justify="left", header_style="bold", show_footer=len(reports) > 1)
    for name, show in columns:
        table.add_column(name, justify="right", footer=show(total), overflow="fold")
    for report in reports:
        table.add_row(*(show(report) for _, show in columns))
    return table


def _title(document: dict) -> str:
    programs = ", ".join(f"{program['name']} ({program['hook']}, id {program['id']})" for program in document["programs"])
    return f"{document['object']}: {programs}"


def _footline(document: dict, total: CpuReport, elapsed: float) -> str:
    line = f"{total.packets:,} packets in {elapsed:.3f} s"
    if elapsed > 0:
        line += f" ({total.packets / elapsed:,.0f} packets/s)"
    if document["source"]["truncated"]:
        line += f"; {document['source']['truncated']:,} were captured in part"
    if total.lost:
        line += f"; {total.lost} lost with a CPU that died"
    if total.restarts:
        line += f"; {total.restarts} CPU restarts"
    return line


def _fault_lines(document: dict, total: CpuReport) -> list[str]:
    """`N times: ...` for every kind of fault, the most frequent first; the numbers add up to the `faults` column."""
    kinds = document.get("faults", [])
    lines = [f"{kind['count']:,} {'times' if kind['count'] != 1 else 'time'}: {re.sub(r'^CPU [0-9]+: ', '', kind['first'])}" for kind in kinds[:_FAULT_LINES]]
    rest = total.faults - sum(kind["count"] for kind in kinds[:_FAULT_LINES])
    if rest > 0:
        lines.append(f"{rest:,} times: faults of other kinds")
    return ["Faults:", *lines] if lines else []
