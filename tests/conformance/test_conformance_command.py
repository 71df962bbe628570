"""`shmbpf-conformance` as a conformance suite calls it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from shmbpf.asm import assemble
from shmbpf.engine.conformance import main


def call(*arguments: str, program: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=program)


def test_result_is_printed_in_hex():
    run = call("00", program=assemble("r0 = 0xabcdef\nexit").hex())
    assert (run.exit_code, run.stdout) == (0, "abcdef\n")


def test_memory_is_in_r1_and_its_length_in_r2():
    source = "r0 = *(u16 *)(r1 +1)\nr0 <<= 8\nr0 |= r2\nexit"
    assert call("11 22 33", program=assemble(source).hex(" ")).stdout == "332203\n"


@pytest.mark.parametrize("arguments", ([], [""]))
def test_memory_may_be_missing(arguments):
    assert call(*arguments, program=assemble("r0 = r2\nexit").hex()).stdout == "0\n"


def test_program_may_be_an_option():
    assert call("--program", assemble("r0 = -1\nexit").hex()).stdout == "ffffffffffffffff\n"


def test_blanks_and_line_ends_are_ignored():
    assert call(program="b7 00 00 00\n2a 00 00 00\n\n95 00 00 00 00 00 00 00\n").stdout == "2a\n"


@pytest.mark.parametrize(
    ("program", "words"),
    (
        ("ff00000000000000", "unknown opcode ff"),
        ("", "positive number of 8-byte instructions"),
        ("b70000", "positive number of 8-byte instructions"),
        (assemble("r0 = *(u8 *)(r10 +0)\nexit").hex(), "not allowed"),
    ),
)
def test_refused_or_faulted_program_says_why_and_exits_with_1(program, words):
    run = call("00", program=program)
    assert (run.exit_code, run.stdout) == (1, "")
    assert words in run.stderr


def test_text_that_is_no_hex_is_wrong_usage():
    assert call("zz", program="95").exit_code == 2
