"""`shmbpf prog tracelog`, and where lines of trace_printk appear otherwise."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
from collections import Counter

import pytest
from support.eventful import eventful_object, order
from support.shell import until

import shmbpf as package
from shmbpf.runtime.trace import TraceFollower

LINE = re.compile(r" +shmbpf-(\d+) +\[(\d{3})\] \.{5} +\d+\.\d{6}: bpf_trace_printk: (.*)\n")


@pytest.fixture
def runtime(namespace_name):
    with package.Runtime(namespace_name, cpus=2) as made:
        yield made


@pytest.fixture
def say(runtime):
    program = runtime.load(eventful_object()).programs["say"]
    return lambda number, cpu=0, count=1: program.run(order(number, count=count), cpu=cpu)


def first_line_comes(process, say) -> str:
    """Says 0 until the process has attached and shows something: its first character."""
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    until(lambda: (say(0), poll.poll(50))[1])
    return process.stdout.read(1)


def first_line(process, say) -> str:
    """The first line, which says 0."""
    return first_line_comes(process, say) + process.stdout.readline()


def end(process, number=signal.SIGINT):
    """Exit code and what was not read yet of both streams. (communicate() knows nothing of what readline() has read ahead.)"""
    process.send_signal(number)
    out, err = process.stdout.read(), process.stderr.read()
    return process.wait(30), out, err


def said(text: str) -> list[str]:
    return [line for line in re.findall("bpf_trace_printk: (.*)\n", text) if line != "number 0"]


def test_lines_have_the_kernels_format(shell, runtime, say):
    runtime.start()
    process = shell.start("prog", "tracelog")
    pid, cpu, text = LINE.fullmatch(first_line(process, say)).groups()
    assert (int(pid), cpu, text) == (runtime.pids[0], "000", "number 0")
    say(5, cpu=1)
    code, out, err = end(process)
    assert code == 0 and err == ""
    assert LINE.fullmatch(out.splitlines(keepends=True)[-1]).group(2, 3) == ("001", "number 5")


def test_several_followers_see_all_lines(shell, runtime, say):
    runtime.start()
    processes = [shell.start("prog", "tracelog") for _ in range(3)]
    for process in processes:
        first_line(process, say)
    for number in range(1, 6):
        say(number, cpu=number % 2)
    for process in processes:
        code, out, _ = end(process, signal.SIGTERM)
        assert code == 0
        assert said(out) == [f"number {number}" for number in range(1, 6)]


def test_json_is_one_array_of_lines(shell, runtime, say):
    runtime.start()
    process = shell.start("-j", "prog", "tracelog")
    assert process.stdout.read(1) == "["
    start = first_line_comes(process, say)
    code, out, _ = end(process)
    lines = json.loads("[" + start + out)
    assert code == 0 and lines and all(LINE.fullmatch(line) for line in lines)


def test_it_waits_for_a_runtime_and_for_the_next_one(shell, namespace_name):
    process = shell.start("prog", "tracelog")
    assert "no runtime is up" in process.stderr.readline()
    for _ in range(2):
        with package.Runtime(namespace_name, cpus=1) as runtime:
            program = runtime.load(eventful_object()).programs["say"]
            runtime.start()
            assert "number 0" in first_line(process, lambda _, program=program: program.run(order(0)))
    assert end(process)[0] == 0


def test_slow_follower_is_told_what_it_has_lost(runtime, say):
    """It reads nothing until far more was said than a socket holds; then it is told, to the line."""
    runtime.start()
    follower, witness = TraceFollower(runtime.namespace.run_dir), TraceFollower(runtime.namespace.run_dir)
    try:
        seen = 0
        for number in range(10):
            say(number, count=1000)
            lines = []
            while sum("number" in line for line in lines) + lost_in(lines).total() < 1000:
                lines += witness.read(20)
            seen += 1000
        got: list[str] = []

        def catch_up() -> bool:
            got.extend(follower.read(0))
            return sum("number" in line for line in got) + lost_in(got).total() >= seen

        until(lambda: catch_up() or (say(7), False)[1])
        assert lost_in(got)[0] > 0
    finally:
        follower.close()
        witness.close()


def lost_in(lines) -> Counter[int]:
    found: Counter[int] = Counter()
    for line in lines:
        if match := re.fullmatch(r"CPU:(\d+) \[LOST (\d+) EVENTS\]", line):
            found[int(match.group(1))] += int(match.group(2))
    return found


def test_follower_ends_when_the_runtime_does(runtime, say):
    runtime.start()
    follower = TraceFollower(runtime.namespace.run_dir)
    say(3)
    runtime.close()
    lines = follower.read(20)
    assert [line.partition("bpf_trace_printk: ")[2] for line in lines] == ["number 3"]
    assert follower.read(20) is None
    follower.close()


def test_connections_that_say_nothing_and_go_are_harmless(runtime, say):
    runtime.start()
    for _ in range(5):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(str(runtime.namespace.run_dir / "trace.sock"))
            peer.send(b"garbage")
    follower = TraceFollower(runtime.namespace.run_dir)
    say(4)
    assert [line.partition("bpf_trace_printk: ")[2] for line in follower.read(20)] == ["number 4"]
    follower.close()


def test_run_without_a_runtime_shows_its_lines_on_stderr(shmbpf, runtime, tmp_path):
    program = runtime.load(eventful_object()).programs["say"]
    (tmp_path / "packet").write_bytes(order(8, count=2))
    outcome = shmbpf("prog", "run", "id", program.id, "data_in", tmp_path / "packet", "cpu", 1)
    assert outcome.code == 0 and outcome.out.startswith("Return value: 2")
    assert [match.group(2, 3) for match in map(LINE.fullmatch, outcome.err.splitlines(keepends=True))] == [("001", "number 8"), ("001", "number 9")]
    assert shmbpf("-q", "prog", "run", "id", program.id, "data_in", tmp_path / "packet").err == ""


def test_wrong_words_exit_with_2(shmbpf):
    assert shmbpf("prog", "tracelog", "frob").code == 2
