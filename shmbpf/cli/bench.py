"""`shmbpf bench`: this machine's figures, and the kernel's beside them where bpf(2) is permitted."""

from __future__ import annotations

import sys

import click

from shmbpf.bench.figures import Figure
from shmbpf.bench.suite import GROUPS, Results, run_suite
from shmbpf.cli.groups import Settings, WordCommand
from shmbpf.cli.render import emit


@click.command("bench", cls=WordCommand, context_settings={"ignore_unknown_options": False}, epilog="""\b
Examples:
  shmbpf bench                      everything, in less than a minute
  shmbpf bench --quick              a first impression
  shmbpf bench maps packets         two groups
  shmbpf -j bench compute | jq '.groups.compute[] | [.what, .ours, .kernel]'

Times are CPU time of the measuring process; the smallest of several rounds in which ours and the kernel take turns. An idle machine gives steadier figures.
""")
@click.argument("groups", nargs=-1, metavar="[" + "|".join(GROUPS) + "]...", type=click.Choice(list(GROUPS)))
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds, no large maps.")
@click.pass_obj
def bench(settings: Settings, groups: tuple[str, ...], quick: bool) -> None:
    """Measure this machine: interpreter, maps, packet path and start-up, beside the kernel's figures where bpf(2) is permitted."""
    chosen = list(dict.fromkeys(groups)) or list(GROUPS)
    results = _measure(chosen, quick, sys.stderr.isatty() and not settings.quiet)
    if settings.json:
        emit(settings, results.document())
        return
    for group, figures in results.groups.items():
        _print_group(GROUPS[group][0], figures)
    for note in () if settings.quiet else results.notes:
        click.echo(f"note: {note}", err=True)


def _measure(groups: list[str], quick: bool, talk: bool) -> Results:
    """Runs the suite; on a terminal one line of stderr tells what is being measured, and is taken back at the end."""
    if not talk:
        return run_suite(groups, quick=quick)
    try:
        return run_suite(groups, quick=quick, progress=lambda what: click.echo(f"\r\x1b[Kmeasuring {what} ...", err=True, nl=False))
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)


def _print_group(title: str, figures: list[Figure]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("what")
    for column in ("ours", "kernel", "ratio", "target"):
        table.add_column(column, justify="right")
    for figure in figures:
        kernel = "-" if figure.kernel is None else f"{figure.kernel:.2f}"
        ratio = "-" if figure.ratio is None else f"{figure.ratio:.2f}"
        table.add_row(figure.what, f"{figure.ours:.2f} {figure.unit}", kernel, ratio, _target(figure))
    Console(highlight=False, soft_wrap=True).print(table)


def _target(figure: Figure) -> str:
    if figure.target is None:
        return "-"
    met = figure.ours >= figure.target if figure.at_least else figure.ours <= figure.target
    return f"{'>=' if figure.at_least else '<='} {figure.target:.4g}{'' if met else ' missed'}"
