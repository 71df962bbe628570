"""The summary of a run as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from shmbpf.runtime.report import CpuReport, sum_reports


def print_report(document: dict, reports: list[CpuReport], elapsed: float, *, quiet: bool = False) -> None:
    """Prints one row per CPU and a total to stdout; one column per verdict that occurred."""
    total = sum_reports(reports)
    names = list(total.flat_verdicts)
    table = Table(title=None if quiet else _title(document), title_justify="left", header_style="bold", show_footer=len(reports) > 1)
    columns = ["CPU", "PID", "packets", "bytes", *names, "ns/run", "faults"]
    footer = _row(total, names)
    for column, foot in zip(columns, footer, strict=True):
        table.add_column(column, justify="right", footer=foot)
    for report in reports:
        table.add_row(*_row(report, names))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(_footline(document, total, elapsed))


def _title(document: dict) -> str:
    programs = ", ".join(f"{program['name']} ({program['hook']}, id {program['id']})" for program in document["programs"])
    return f"{document['object']}: {programs}"


def _row(report: CpuReport, names: list[str]) -> list[str]:
    verdicts = report.flat_verdicts
    first = ["total", ""] if report.cpu is None else [str(report.cpu), str(report.pid or "-")]
    counts = [f"{verdicts.get(name, 0):,}" for name in names]
    return [*first, f"{report.packets:,}", f"{report.bytes:,}", *counts, f"{report.ns_per_run:.0f}", str(report.faults)]


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
