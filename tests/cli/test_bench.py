"""`shmbpf bench`: a well-formed document. How fast this machine is, is nothing a test may judge."""

import json
import os

import pytest

from shmbpf.bench import suite
from shmbpf.bench.loops import INSTRUCTIONS, MEMORY, read_loops
from tests.conformance.model import count_instructions
from tests.support.cli import CommandLine


@pytest.fixture
def command():
    """The command line, and a look at what it leaves: bench makes its own namespaces."""
    before = set(os.listdir("/dev/shm"))
    yield CommandLine("unused")
    left = [name for name in set(os.listdir("/dev/shm")) - before if name.startswith(f"shmbpf.{os.getuid()}.bench-{os.getpid()}-")]
    assert left == []


def test_quick_bench_gives_positive_figures_in_every_group(command):
    document = json.loads(command.ok("bench", "--quick", "-j"))
    assert list(document["groups"]) == list(suite.GROUPS)
    for group, figures in document["groups"].items():
        assert figures, group
        for figure in figures:
            assert set(figure) == {"what", "unit", "ours", "kernel", "ratio", "target"}
            assert figure["ours"] > 0 and figure["unit"] in ("ns", "ns/insn", "us", "ms", "M/s", "x rate"), figure
            if figure["kernel"] is not None:
                assert document["kernel"] and figure["ratio"] == pytest.approx(figure["ours"] / figure["kernel"])


@pytest.mark.kernel
def test_compute_loops_and_maps_have_the_kernels_figures_where_it_may_be_asked(command):
    document = json.loads(command.ok("bench", "compute", "maps", "--quick", "-j"))
    assert document["kernel"] is True and document["notes"] == []
    lines = [figure for figures in document["groups"].values() for figure in figures if figure["unit"] != "x rate"]
    assert all(figure["kernel"] > 0 for figure in lines), lines


def test_a_note_says_when_the_kernel_may_not_be_asked(command, monkeypatch):
    monkeypatch.setattr(suite, "kernel_available", lambda: False)
    outcome = command("bench", "compute", "--quick")
    assert outcome.code == 0 and outcome.err == f"note: {suite.NO_KERNEL}\n"
    assert all(name in outcome.out for name in INSTRUCTIONS)


def test_unknown_group_is_wrong_usage(command):
    outcome = command("bench", "disks")
    assert outcome.code == 2 and "disks" in outcome.err


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instruction_counts_are_those_of_the_model(name):
    assert count_instructions(read_loops()[name], MEMORY) == INSTRUCTIONS[name]
