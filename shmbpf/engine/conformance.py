"""`shmbpf-conformance`: one bare program over one piece of memory, as the instruction-set conformance suites call a plugin.

    shmbpf-conformance [MEMORY] [--program HEX] < program.hex

MEMORY (hex) is what r1 points to, its length is in r2; the program (hex, blanks allowed) comes from standard input. The value of r0 at the exit is printed in
hex. A program that is refused, or stopped by a fault, says why on standard error and exits with 1.
"""

from __future__ import annotations

import sys

import click

from shmbpf.engine.bare import BareProgram
from shmbpf.errors import ShmbpfError


def parse_hex(text: str, what: str) -> bytes:
    """The bytes that `text` spells, blanks and an `0x` in front ignored."""
    digits = "".join(text.split()).removeprefix("0x")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise click.BadParameter(f"{what}: expected pairs of hex digits, got {digits[:40]!r}") from None


@click.command(help=__doc__)
@click.argument("memory", default="")
@click.option("--program", help="The program in hex, instead of standard input.")
def main(memory: str, program: str | None) -> None:
    content = parse_hex(memory, "memory")
    code = parse_hex(program if program is not None else sys.stdin.read(), "program")
    try:
        with BareProgram(code) as bare:
            click.echo(f"{bare.run(content).r0:x}")
    except ShmbpfError as error:
        click.echo(f"shmbpf-conformance: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
