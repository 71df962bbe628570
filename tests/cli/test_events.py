"""`shmbpf events` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from support.eventful import event_bytes, eventful_object, order
from support.paths import CAPTURES
from support.shell import until

import shmbpf as package
from shmbpf._ffi import lib

VALUE = {"number": 1, "color": "GREEN", "name": "hello"}


@pytest.fixture
def runtime(namespace_name):
    with package.Runtime(namespace_name, cpus=2) as made:
        yield made


@pytest.fixture
def obj(runtime):
    return runtime.load(eventful_object())


class Following:
    """`shmbpf events ...` in a process of its own, with its rings in place."""

    def __init__(self, shell, obj, *words, slots=(0, 1), command=("events",)):
        self.process = shell.start(*command, *words)
        self.obj, self.events = obj, obj.maps["events"].raw
        until(lambda: self.process.poll() is not None or all(lib.perf_array_slot(self.events.handle, self.events.namespace.client, slot) for slot in slots))

    def send(self, packet, cpu=0, program="send"):
        assert self.obj.programs[program].run(packet, cpu=cpu).retval == 2

    def end(self, number=signal.SIGINT):
        """Exit code, stdout and stderr after a signal."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        """The same when it ends by itself. (communicate() knows nothing of what readline() has read ahead.)"""
        out, err = self.process.stdout.read(), self.process.stderr.read()
        return self.process.wait(60), out, err


@pytest.fixture
def follow(shell, obj):
    return lambda *words, **options: Following(shell, obj, *words, **options)


def test_lines_have_time_cpu_map_and_data(follow):
    following = follow("events")
    following.send(order(1), cpu=1)
    code, out, err = following.end()
    assert code == 0 and err == "received 1 events (CPU 1: 1), lost 0\n"
    time, cpu, name, data = out.rstrip("\n").split(" ", 3)
    assert float(time) > 0 and len(time.partition(".")[2]) == 9
    assert (cpu, name, bytes.fromhex(data)[:16]) == ("1", "events", event_bytes(1))


def test_records_are_decoded_when_the_type_is_named(follow):
    following = follow("--type", "event")
    following.send(order(1))
    following.send(order(9), program="log_it")
    code, out, err = following.end()
    assert code == 0 and err == "received 2 events (ring buffers: 1, CPU 0: 1), lost 0\n"
    lines = sorted(line.split(" ", 3)[1:] for line in out.splitlines())
    assert lines == [["-", "buffer", "{number: 9, color: GREEN, name: hello}"], ["0", "events", "{number: 1, color: GREEN, name: hello}"]]


def test_json_is_one_document_per_line(follow, obj):
    following = follow("-j", "events", "--type", "struct event", "--count", 2)
    following.send(order(1))
    following.send(order(1), cpu=1)
    code, out, _ = following.wait()
    first, second = map(json.loads, out.splitlines())
    assert code == 0 and first.pop("time_ns") <= second.pop("time_ns")
    assert first == {"cpu": 0, "index": 0, "map": "events", "map_id": obj.maps["events"].id, "value": VALUE}
    assert second["cpu"] == 1


def test_count_and_timeout_end_it(follow):
    following = follow("events", "--count", 2, "--timeout", 60)
    following.send(order(1, count=5))
    code, out, err = following.wait()
    assert code == 0 and out.count("\n") == 2 and "received 2 events (CPU 0: 2)" in err
    code, out, err = follow("events", "--timeout", 0.1, slots=()).wait()
    assert (code, out, err) == (0, "", "received 0 events, lost 0\n")


def test_losses_are_shown_where_they_were_and_in_the_totals(follow, obj):
    following = follow("-j", "events", "--pages", 1)
    following.process.send_signal(signal.SIGSTOP)
    following.send(order(0, count=200))
    following.process.send_signal(signal.SIGCONT)
    ring = obj.maps["events"].raw
    assert following.process.stdout.readline()  # it has emptied its ring: now there is room to tell of the loss
    following.send(order(1000))
    code, out, err = following.end()
    documents = [json.loads(line) for line in out.splitlines()]
    lost = [index for index, document in enumerate(documents) if "lost" in document]
    assert code == 0 and len(lost) == 1
    before, after = documents[lost[0] - 1], documents[lost[0] + 1]
    assert int.from_bytes(bytes.fromhex(before["data"])[:4], "little") < 200 <= int.from_bytes(bytes.fromhex(after["data"])[:4], "little")
    assert f"lost {documents[lost[0]]['lost']} (CPU 0: {documents[lost[0]]['lost']})" in err
    assert lib.perf_array_slot(ring.handle, ring.namespace.client, 0) == 0  # it has taken its rings along


def test_raw_output_is_the_payload_alone(follow, tmp_path):
    following = follow("buffer", "--format", "raw", "--out", tmp_path / "out", "--count", 2, slots=())
    for number in (1, 2):
        following.send(order(number), program="log_it")
    assert following.wait()[0] == 0
    assert (tmp_path / "out").read_bytes() == event_bytes(1) + event_bytes(2)


def test_count_leaves_the_rest_in_the_ring_buffer(follow, obj):
    for number in range(5):
        obj.programs["log_it"].run(order(number), cpu=0)
    for first in (0, 2):
        code, out, _ = follow("buffer", "--count", 2, "--format", "hex", slots=()).wait()
        assert code == 0
        assert [bytes.fromhex(line.split(" ", 3)[3]) for line in out.splitlines()] == [event_bytes(first), event_bytes(first + 1)]


def test_followers_of_different_slots_run_side_by_side(follow):
    one = follow("events", "--cpu", 0, "--slot", 4, slots=(4,))
    two = follow("events", "--cpu", 0, "--slot", 5, "--cpu", 1, "--slot", 6, slots=(5, 6))
    one.send(order(1, slot=4))
    one.send(order(2, slot=5))
    one.send(order(3, slot=6), cpu=1)
    assert "received 1 events (CPU 0: 1)" in one.end()[2]
    assert "received 2 events (CPU 0: 1, CPU 1: 1)" in two.end()[2]


def test_whoever_takes_a_slot_over_says_so(follow, shell):
    first = follow("events")
    done = shell("events", "events", "--cpu", 1, "--timeout", 0)
    assert done.returncode == 0 and done.stderr.decode().startswith("note: slot 1 of 'events' had another consumer's ring")
    first.send(order(1))
    assert first.end()[0] == 0


def test_other_signals_end_it_cleanly_with_their_code(follow):
    following = follow("events")
    following.send(order(1))
    code, out, err = following.end(signal.SIGTERM)
    assert code == 143 and out.count("\n") == 1 and "received 1 events" in err


def test_closed_pipe_is_no_error(follow, shell):
    process = subprocess.Popen(["sh", "-c", '"$@" | head -n 1', "sh", *shell.command("events", "buffer", "--timeout", "30")], env=shell.environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    shell.started.append(process)
    following = follow("events", "--timeout", 0, slots=())
    until(lambda: (following.send(order(1), program="log_it"), process.poll() is not None)[1])
    out, err = process.communicate()
    assert out.count("\n") == 1 and "Error" not in err and "Traceback" not in err
    following.wait()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nosuch",), 1, "no map of namespace"),
        (("4711",), 1, "has no map with id 4711"),
        (("plain",), 1, "is of type array: events come from a perf_event_array or a ringbuf"),
        (("events", "--pages", 3), 1, "power of two"),
        (("events", "--pages", 0), 1, "power of two"),
        (("events", "--pages", -1), 1, "expected"),
        (("events", "--cpu", 9), 1, "CPU 9 does not exist"),
        (("events", "--cpu", 0, "--slot", 99), 1, "indexes are 0 to 7"),
        (("events", "--slot", 3), 2, "--slot goes with --cpu"),
        (("buffer", "--cpu", 0), 1, "a ringbuf is shared by all CPUs"),
        (("events", "--type", "evnt"), 1, "type 'evnt' is not known: there are event"),
        (("events", "--type", "/nowhere.o:event"), 1, "/nowhere.o: No such file"),
        (("events", "--btf", "x.o"), 2, "name it with --type"),
        (("events", "--count", 0), 2, "0"),
        (("events", "--out", "/nowhere/file"), 1, "No such file or directory"),
        (("--frob",), 2, "No such option"),
    ],
)
def test_impossible_wishes_are_refused(shmbpf, obj, words, code, message):
    outcome = shmbpf("events", *words)
    assert outcome.code == code and outcome.out == "" and message in outcome.err and "Error: " in outcome.err
    assert outcome.err.count("\n") == 1 or code == 2
    assert obj.maps["events"].raw.namespace.ids("ring") == []


def test_namespace_without_events_is_told(shmbpf):
    outcome = shmbpf("events")
    assert outcome.code == 1 and "has no perf_event_array and no ringbuf" in outcome.err


def test_help_teaches_by_example(shmbpf):
    assert "shmbpf events samples --type flow_event" in shmbpf.ok("events", "--help")


def test_run_counts_events_per_cpu_and_in_total(shell):
    words = ("run", eventful_object(), "--prog", "log_it", "--cpus", 2, "--pcap", CAPTURES / "web.pcap")
    document = json.loads(shell.ok("-j", *words))
    total = document["events"]
    assert total["lost"] > 0 < total["sent"]  # nobody reads: the ring buffer fills
    assert total["sent"] + total["lost"] == document["total"]["packets"] and document["total"]["events"] == total
    for word in ("sent", "lost"):
        assert sum(cpu["events"][word] for cpu in document["cpus"]) == total[word]
    text = shell.ok(*words)
    assert "events sent" in text and f"{total['lost']:,}" in text
