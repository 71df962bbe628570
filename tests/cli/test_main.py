"""The command line as a whole: help, errors, exit codes, signals, speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import shmbpf as package
from shmbpf.maps.map import Map
from shmbpf.spec import MapSpec
from shmbpf.uapi import MapType

ROOT = Path(package.__file__).resolve().parent.parent


def command(*words: object) -> list[str]:
    return [sys.executable, "-c", "from shmbpf.cli import main; main()", *map(str, words)]


def run(*words: object, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=60, **kwargs)


@pytest.fixture
def big(namespace):
    """A map whose dump is longer than a pipe holds."""
    namespace.fix_cpus(1)
    with Map.create(namespace, MapSpec("big", MapType.ARRAY, 4, 8, 20000)) as map_:
        yield map_


def test_help_names_every_command_and_gives_examples(shmbpf):
    text = shmbpf.ok("--help")
    for word in ("run", "inject", "map", "prog", "events", "pin", "unpin", "ls", "ns", "feature", "Examples:", "--ns NAME", "SHMBPF_NS"):
        assert word in text
    for absent in ("exec", " fd N"):
        assert absent not in text


@pytest.mark.parametrize(
    "words",
    [("map",), ("prog",), ("events",), ("pin",), ("unpin",), ("ls",), ("ns",), ("feature",),
     *(("map", name) for name in "show dump update lookup getnext delete create pin freeze event_pipe get set add del keys items".split()),
     ("prog", "show"), ("prog", "pin"), ("prog", "dump"), ("prog", "tracelog"), ("ns", "list"), ("ns", "show"), ("ns", "gc"), ("ns", "check")],
    ids=" ".join,
)  # fmt: skip
def test_every_help_teaches_by_example(shmbpf, words):
    text = shmbpf.ok(*words, "--help")
    assert "Usage: shmbpf " + " ".join(words) in text and "Examples:\n" in text and f"shmbpf {words[0]}" in text.partition("Examples:")[2]
    for absent in ("fd N", "inner_map"):
        assert absent not in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_help_loads_no_command(shmbpf):
    code = "import sys; from shmbpf.cli import cli; cli.main(['--help'], standalone_mode=False); print([m for m in sys.modules if m in ('rich', 'elftools', 'shmbpf._ffi', 'shmbpf.cli.map')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_the_packages(shmbpf):
    assert shmbpf.ok("--version") == f"shmbpf {package.__version__}\n"


@pytest.mark.parametrize(("short", "long"), [(("m", "s"), ("map", "show")), (("ma", "li"), ("map", "show")), (("p", "s"), ("prog", "show")), (("f",), ("feature",))])
def test_commands_may_be_shortened(shmbpf, big, short, long):
    assert shmbpf.ok(*short) == shmbpf.ok(*long)


def test_exact_name_wins_over_a_longer_one(shmbpf, big):
    assert shmbpf.ok("map", "get", "big", 0) == "0\n", "not getnext"
    outcome = shmbpf("map", "del", "big", 0)
    assert outcome.code == 1 and "EINVAL" in outcome.err, "not delete, and arrays cannot"


def test_help_is_a_word_too(shmbpf):
    assert shmbpf.ok("map", "help") == shmbpf.ok("map", "--help")


@pytest.mark.parametrize("words", [("frob",), ("--frob",), ("map", "show", "--ns"), ("map", "dump")])
def test_wrong_usage_exits_with_2(shmbpf, words):
    outcome = shmbpf(*words)
    assert outcome.code == 2 and outcome.out == "" and "Usage: " in outcome.err


def test_errors_are_documents_too_when_json_is_asked_for(shmbpf, big):
    for form in ("-j", "-p", "-qj"):
        outcome = shmbpf(form, "map", "get", "big", 1 << 31)
        assert outcome.code == 1 and list(outcome.document) == ["error"] and outcome.err == ""
    assert shmbpf("map", "dump", "-j").document["error"].startswith("MAP ")


def test_options_of_output_may_come_late(shmbpf, big):
    assert shmbpf("map", "show", "name", "big", "-j").document["id"] == big.id
    assert shmbpf.ok("map", "show", "name", "big", "--pretty") == shmbpf.ok("-p", "map", "show", "name", "big")


def test_namespace_comes_from_the_environment(namespace, big):
    done = run("-j", "map", "show", "name", "big", env=os.environ | {"SHMBPF_NS": namespace.name})
    assert (done.returncode, json.loads(done.stdout)["id"]) == (0, big.id)


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "x" * 65, "ü"])
def test_impossible_namespace_names_are_refused(shmbpf, name):
    shmbpf.namespace = name
    outcome = shmbpf("map", "dump", "name", "m")
    assert outcome.code == 1 and outcome.err.startswith("Error: namespace") and outcome.err.count("\n") == 1


def test_unexpected_errors_have_no_traceback_unless_asked_for(shmbpf, monkeypatch):
    from shmbpf.cli import feature

    monkeypatch.setattr(feature, "feature_text", lambda: 1 // 0)
    outcome = shmbpf("feature")
    assert outcome.code == 1 and "ZeroDivisionError" in outcome.err and "Traceback" not in outcome.err and outcome.err.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        from shmbpf.cli import main

        main(["--debug", "feature"])


def test_closed_pipe_is_quiet(namespace, big):
    with subprocess.Popen(command("--ns", namespace.name, "map", "dump", "name", "big"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"key: 00 00 00 00  value: 00 00 00 00 00 00 00 00\n"
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_ends_cleanly(namespace, big, number):
    with subprocess.Popen(command("--ns", namespace.name, "map", "dump", "name", "big"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()  # it is at work, and the pipe will be full
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 128 + number and b"Traceback" not in err


def test_global_options_may_stand_anywhere():
    from shmbpf.cli import hoist_options

    assert hoist_options(["map", "show", "-j", "--ns", "x"]) == ["-j", "--ns", "x", "map", "show"]
    assert hoist_options(["map", "update", "id", "1", "--", "-j"]) == ["map", "update", "id", "1", "--", "-j"]
    assert hoist_options(["map", "set", "m", "0", "-1"]) == ["map", "set", "m", "0", "-1"]
