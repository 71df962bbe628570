"""`shmbpf inject`: packets into the device of a running runtime."""

from __future__ import annotations

import json
import sys

import click

from shmbpf.attach.device import Device
from shmbpf.attach.source import CaptureFile, CaptureStream
from shmbpf.cli.selector import open_namespace


@click.command(epilog="""\b
Examples:
  shmbpf inject shm0 web.pcap              feed a capture to the runtime of this namespace
  shmbpf --ns lab inject shm0 - < x.pcap   ... of another one, from standard input
""")
@click.argument("device", metavar="DEV")
@click.argument("file", metavar="FILE")
@click.option("--loop", "loops", type=click.IntRange(min=1), default=1, metavar="N", help="Feed it N times.")
@click.option("--rate", type=click.IntRange(1, 10**9), metavar="PPS", help="Packets per second (default: as fast as it goes).")
@click.pass_context
def inject(context: click.Context, device: str, file: str, loops: int, rate: int | None) -> None:
    """Feed the packets of a capture FILE ('-' is standard input) into DEV (shm0) of a runtime that is up, and wait until they are processed."""
    settings = context.obj
    source = CaptureStream(sys.stdin.buffer) if file == "-" else CaptureFile(file, loops=loops)
    with source, open_namespace(settings, "inject") as namespace, Device(namespace, device) as target, target.feed() as feed:
        feed.state.rate_pps = rate or 0
        while feed.step(source):
            pass
        target.wait_drained()
        for warning in source.warnings:
            click.echo(f"warning: {source.name}: {warning}", err=True)
        if source.warnings and not feed.packets:
            raise source.error("not one packet of it could be read")
        if settings.json:
            click.echo(json.dumps({"device": device, "packets": feed.packets, "bytes": feed.state.bytes}, indent=2 if settings.pretty else None))
        elif not settings.quiet:
            click.echo(f"{feed.packets} packets, {feed.state.bytes} bytes into {device}")
