"""map.records(): what a Python program sees of the events its programs send."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from support.eventful import event_bytes, eventful_object, order
from support.shell import until

import shmbpf
from shmbpf.errors import ShmbpfError
from shmbpf.events.decode import DecodedRecord
from shmbpf.events.records import Lost

PADDED = 20  # 4 + 16 rounded up to 24, less the u32


@pytest.fixture
def runtime(namespace_name):
    with shmbpf.Runtime(namespace_name, cpus=2) as made:
        yield made


@pytest.fixture
def obj(runtime):
    return runtime.load(eventful_object())


def numbers(events):
    return [int.from_bytes(event.data[:4], "little") for event in events]


def test_records_of_all_cpus_come_in_order_of_time(obj):
    stream = obj.maps["events"].records(timeout=0.05)
    for number in range(6):
        obj.programs["send"].run(order(number), cpu=number % 2)
    events = list(stream)
    assert numbers(events) == list(range(6))
    assert [event.cpu for event in events] == [0, 1] * 3
    assert all(event.index == event.cpu and event.map_id == obj.maps["events"].id for event in events)
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)
    assert {len(event.data) for event in events} == {PADDED}


def test_records_are_decoded_by_a_type_of_the_object(obj):
    stream = obj.maps["events"].records(timeout=0.05, type="event")
    obj.programs["send"].run(order(5), cpu=0)
    (event,) = stream
    assert isinstance(event, DecodedRecord)
    assert (event.value, event.rest) == ({"number": 5, "color": "GREEN", "name": "hello"}, b"")


def test_types_come_from_object_files_too(obj):
    stream = obj.maps["buffer"].records(timeout=0.05, type=f"{eventful_object()}:struct event")
    obj.programs["log_it"].run(order(6), cpu=1)
    (event,) = stream
    assert event.value == {"number": 6, "color": "GREEN", "name": "hello"}
    assert (event.cpu, event.index, event.time_ns) == (-1, -1, 0)


def test_ring_buffer_records_have_their_exact_length(obj):
    stream = obj.maps["buffer"].records(timeout=0.05)
    obj.programs["log_it"].run(order(6), cpu=1)
    assert [event.data for event in stream] == [event_bytes(6)]


def test_losses_are_told_of_where_they_happened_and_in_total(obj):
    stream = obj.maps["events"].records(timeout=0.05, pages=1)
    obj.programs["send"].run(order(0, count=200), cpu=0)  # 40 bytes each: one page has room for 102
    first = stream.poll(1)
    obj.programs["send"].run(order(1000), cpu=0)
    rest = list(stream)
    assert isinstance(rest[0], Lost) and numbers(rest[1:]) == [1000]
    assert len(first) + rest[0].count == 200 and numbers(first) == list(range(len(first)))
    tally = stream.tally
    assert tally.received[0] == len(first) + 1 and tally.lost == {0: rest[0].count, 1: 0}


def test_consumers_on_different_slots_do_not_disturb_each_other(obj):
    map_ = obj.maps["events"]
    with map_.open_ring(0, pages=1, slot=6) as six, map_.open_ring(0, slot=7) as seven:
        obj.programs["send"].run(order(1, slot=6), cpu=0)
        obj.programs["send"].run(order(2, count=2, slot=7), cpu=0)
        assert numbers(six.read()) == [1] and numbers(seven.read()) == [2, 3]


def test_rings_leave_their_slots_with_the_stream(obj, runtime):
    map_ = obj.maps["events"]
    with map_.records():
        assert runtime.namespace.ids("ring") != []
    assert runtime.namespace.ids("ring") == []
    for _ in map_.records(timeout=0):
        pass
    assert runtime.namespace.ids("ring") == []


def test_stream_ends_with_its_map(obj):
    stream = obj.maps["events"].records()
    found = []
    thread = threading.Thread(target=lambda: found.append(list(stream)))
    thread.start()
    obj.close()
    thread.join(20)
    assert found == [[]]


def test_async_records_come_while_other_tasks_run(obj, runtime):
    runtime.start()

    async def consume():
        stream = obj.maps["events"].records(timeout=2)
        task = asyncio.create_task(asyncio.to_thread(lambda: [obj.programs["send"].run(order(n), cpu=n % 2) for n in range(4)]))
        found = []
        async for event in stream:
            found.append(event)
            if len(found) == 4:
                stream.stop()
        await task
        stream.close()
        return found

    assert numbers(asyncio.run(consume())) == [0, 1, 2, 3]


def test_events_are_counted_per_cpu_by_the_runtime(obj, runtime):
    runtime.start()
    with obj.maps["events"].records(pages=1) as stream:
        obj.programs["send"].run(order(0, count=200), cpu=1)
        obj.programs["send"].run(order(0, count=3), cpu=0)
        sent, lost = stream.readers[1].sent, stream.readers[1].lost
        assert (sent + lost, stream.readers[0].sent) == (200, 3)
        until(lambda: [(report.events_sent, report.events_lost) for report in runtime.reports()] == [(3, 0), (sent, lost)])  # counted when the CPU has time


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("plain", {}, "is of type array: events come from"),
        ("events", {"pages": 3}, "power of two"),
        ("events", {"pages": 0}, "power of two"),
        ("events", {"cpus": [9]}, "CPU 9 does not exist"),
        ("events", {"type": "evnt"}, "type 'evnt' is not known: there are event"),
    ],
)
def test_impossible_streams_are_refused(obj, runtime, name, options, message):
    with pytest.raises(ShmbpfError, match=message):
        obj.maps[name].records(**options)
    assert runtime.namespace.ids("ring") == []


def test_trace_lines_of_a_local_run_are_logged(obj, caplog):
    with caplog.at_level(logging.INFO, logger="shmbpf.trace"):
        obj.programs["say"].run(order(41, count=2), cpu=1)
    assert [message.partition("bpf_trace_printk: ")[2] for message in caplog.messages] == ["number 41", "number 42"]
    assert "[001] ....." in caplog.messages[0]


def test_trace_lines_of_a_started_runtime_are_logged(obj, runtime, caplog):
    with caplog.at_level(logging.INFO, logger="shmbpf.trace"):
        runtime.start()
        obj.programs["say"].run(order(7), cpu=0)
        runtime.close()  # what was printed is logged by now
    assert [message.partition("bpf_trace_printk: ")[2] for message in caplog.messages] == ["number 7"]
