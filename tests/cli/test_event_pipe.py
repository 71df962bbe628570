"""`shmbpf map event_pipe`: bpftool's output, byte for byte but for times, ids and padding."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.cli import needs_bpftool
from support.eventful import event_bytes, eventful_object, order
from support.kernel import load_object
from support.shell import until

import shmbpf as package
from shmbpf._ffi import lib
from shmbpf.elf import load_object as read_object

FORMS = {"plain": (), "json": ("-j",), "pretty": ("-p",)}


class Machine:
    """One that runs the program, and an event_pipe on its map. Output goes into a file, so that nobody waits for us to read."""

    def __init__(self, command, path: Path, environment=None):
        self.path = path
        with path.open("wb") as out:
            self.process = subprocess.Popen([*map(str, command)], stdout=out, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            self.wait_until_idle()
        except BaseException:
            self.close()
            raise

    def wait_until_idle(self) -> None:
        """Rings are in place, everything that came is printed, and it sleeps."""
        until(lambda: self.process.poll() is not None or (self.is_attached() and self._sleeps()))

    def _sleeps(self) -> bool:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, self.path.read_text(), err

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Linux(Machine):
    def __init__(self, form, path: Path):
        self.program = load_object(read_object(eventful_object()), "send")
        super().__init__(["bpftool", *form, "map", "event_pipe", "id", self.program.maps["events"].id], path)

    def is_attached(self) -> bool:
        fds = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return sum("perf_event" in os.readlink(fd) for fd in fds) >= 1

    def send(self, packet: bytes, cpu: int = 0) -> None:
        assert self.program.run(packet, cpu=cpu).retval == 2

    def close(self) -> None:
        super().close()
        self.program.close()


class Ours(Machine):
    def __init__(self, shell, form, path: Path, *words, slot: int = 0):
        self.runtime = package.Runtime(shell.ns, cpus=2)
        self.object, self.slot = self.runtime.load(eventful_object()), slot
        super().__init__(shell.command(*form, "map", "event_pipe", "name", "events", *words), path, shell.environment)

    def is_attached(self) -> bool:
        events = self.object.maps["events"].raw
        return lib.perf_array_slot(events.handle, events.namespace.client, self.slot) != 0

    def send(self, packet: bytes, cpu: int = 0) -> None:
        assert self.object.programs["send"].run(packet, cpu=cpu).retval == 2

    def close(self) -> None:
        super().close()
        self.runtime.close()


@pytest.fixture
def ours(shell, tmp_path):
    made = []

    def make(*words, form=(), slot=0) -> Ours:
        made.append(Ours(shell, form, tmp_path / "ours", *words, slot=slot))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


def overflow(machine: Machine) -> str:
    """Two records, then more than a ring holds while nobody reads, then one that tells of the loss. What was printed."""
    machine.send(order(1))
    machine.send(order(2, name=b"\xff"))
    machine.wait_until_idle()
    machine.process.send_signal(signal.SIGSTOP)
    machine.send(order(100, count=2000))
    machine.process.send_signal(signal.SIGCONT)
    until(lambda: len(re.findall("index: 0|timestamp", machine.path.read_text())) > 1500)
    machine.wait_until_idle()
    machine.send(order(9999))
    machine.wait_until_idle()
    code, out, err = machine.end()
    assert (code, err) == (0, "Stopping...\n")
    return out


def without_times(text: str) -> str:
    """Times, the ring's id and the 4 bytes of padding behind each record, which hold what was in the ring before, become words."""
    text = re.sub(r"@\d+\.\d{9} ", "@TIME ", re.sub(r'("timestamp": ?)\d+', r"\1TIME", re.sub(r'("id": ?)\d+', r"\1ID", text)))
    return re.sub(r"(,\d+){4}(?=\s*\])", ",PAD", re.sub(r"(?m)^([0-9a-f]{2} ){3}[0-9a-f]{2}$", "PAD", text))


@pytest.mark.kernel
@needs_bpftool
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_output_is_that_of_bpftool(ours, form, tmp_path):
    theirs = Linux(form, tmp_path / "linux")
    try:
        expected = overflow(theirs)
    finally:
        theirs.close()
    shown = overflow(ours(form=form))
    assert without_times(shown) == without_times(expected)
    assert re.search("lost 362 events|\"count\": ?362", shown)


@pytest.mark.kernel
@needs_bpftool
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_pipe_without_events_is_that_of_bpftool(ours, form, tmp_path):
    theirs = Linux(form, tmp_path / "linux")
    try:
        expected = theirs.end()
    finally:
        theirs.close()
    assert ours(form=form).end() == expected


def test_records_have_time_cpu_index_and_data(ours):
    machine = ours(form=("-j",))
    machine.send(order(7), cpu=1)
    machine.wait_until_idle()
    code, out, _ = machine.end()
    (document,) = json.loads(out)
    assert code == 0 and document.pop("timestamp") > 0
    assert bytes(document.pop("data"))[:16] == event_bytes(7)
    assert document == {"type": 9, "cpu": 1, "index": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_other_signals_end_it_as_well(ours, number):
    assert ours().end(number) == (0, "", "Stopping...\n")


def test_one_cpu_in_another_slot(ours):
    machine = ours("cpu", 1, "index", 5, slot=5)
    machine.send(order(1, slot=5), cpu=1)
    machine.send(order(2), cpu=1)  # into slot 1, where nobody listens
    code, out, _ = machine.end()
    assert code == 0 and out.count("CPU: 1 index: 5 =====") == 1 == out.count("\n== ") + 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("name", "events", "cpu", 0), 2, "cpu and index must be specified together"),
        (("name", "events", "index", 0), 2, "cpu and index must be specified together"),
        (("name", "events", "cpu", "x", "index", 0), 2, "can't parse x as CPU ID"),
        (("name", "events", "cpu", 0, "index", "x"), 2, "can't parse x as index"),
        (("name", "events", "frob"), 2, "got: frob"),
        (("name", "events", "cpu", 9, "index", 0), 1, "CPU 9 does not exist"),
        (("name", "events", "cpu", 0, "index", 9), 1, "indexes are 0 to 7"),
        (("name", "plain"), 1, "map is not a perf event array"),
        (("name", "buffer"), 1, "map is not a perf event array"),
        (("name", "nosuch"), 1, "is called 'nosuch'"),
        ((), 2, "MAP"),
    ],
)
def test_impossible_wishes_are_refused(shmbpf, namespace_name, words, code, message):
    with package.Runtime(namespace_name, cpus=2) as runtime:
        runtime.load(eventful_object())
        outcome = shmbpf("map", "event_pipe", *words)
        assert (outcome.code, outcome.out) == (code, "") and message in outcome.err
        assert message in shmbpf("-j", "map", "event_pipe", *words).document["error"]
        assert runtime.namespace.ids("ring") == []
