"""Perf event output here and in Linux: the same object, packets and attributes; equal return values, equal bytes in the ring, equal wake-ups.

Every test is a scenario that runs on both machines. Ring contents are compared byte for byte, padding included: both leave in the gaps what was there before.
What differs by nature (ids, times, pids, instruction pointers) is checked for being right and then left out.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import struct
from collections.abc import Callable

import pytest
from machines import CURRENT_CPU, ORDER_SOURCE, PACKET, RAW, Linux, Machine, Ours, RingSpec

from shmbpf._ffi import lib
from shmbpf.testing.kernel_perf import PerfRecord, PerfView, split_perf_records

pytestmark = pytest.mark.kernel

PROGRAMS = ["emit_xdp", "emit_tc", "emit_socket"]
SIZES = [0, 1, 3, 4, 5, 8, 12, 13, 20, 24, 25, 60, 64, 333, 1000]
#: what a sample has in front of its payload, in order (Linux v6.12 kernel/events/core.c, perf_output_sample())
SAMPLE_FIELDS = ["IDENTIFIER", "IP", "TID", "TIME", "ADDR", "ID", "STREAM_ID", "CPU", "PERIOD"]
#: what a LOST record has behind its count with sample_id_all (__perf_event__output_id_sample())
TRAILER_FIELDS = ["TID", "TIME", "ID", "STREAM_ID", "CPU", "IDENTIFIER"]
BITS = {word: getattr(lib, f"PERF_SAMPLE_{word}") for word in SAMPLE_FIELDS}
IDS = {"IDENTIFIER", "ID", "STREAM_ID"}


def both(scenario: Callable[[Machine], object], program: str = "emit_xdp") -> object:
    """What the scenario gives on both machines."""
    results = {}
    for make in (Linux, Ours):
        with make(ORDER_SOURCE, program) as machine:
            results[make.name] = scenario(machine)
    assert results["ours"] == results["linux"]
    return results["ours"]


def name(result: int) -> str | int:
    if result == -errno.EOPNOTSUPP:
        return "EOPNOTSUPP"  # a number with two names
    return errno.errorcode[-result] if result < 0 else result


def portable(machine: Machine, record: PerfRecord, spec: RingSpec = RingSpec()) -> tuple:
    """A record without what two machines cannot have in common, which is checked here."""
    body, is_lost = bytearray(record.body), record.type == lib.PERF_RECORD_LOST
    if is_lost:
        assert struct.unpack_from("<Q", body)[0] == machine.rings[0].id
        body[0:8] = bytes(8)
    words = [word for word in (TRAILER_FIELDS if is_lost else SAMPLE_FIELDS) if spec.sample_type & BITS[word]]
    start = 16 if is_lost else 0
    for at, word in zip(itertools.count(start, 8), words if not is_lost or spec.sample_id_all else [], strict=False):
        value = struct.unpack_from("<Q", body, at)[0]
        if word in IDS:
            assert value == machine.rings[0].id, word
        if word == "TID":
            assert struct.unpack_from("<II", body, at) == (os.getpid(), os.getpid())
        if word == "TIME":
            assert value > 0
        if word in IDS | {"TID", "TIME", "IP"}:
            body[at : at + 8] = bytes(8)
    return record.type, record.misc, bytes(body), record.position


def ring_state(view: PerfView) -> tuple:
    """Everything that the layout shows, when no id or time is in it."""
    words = ("version", "compat_version", "capabilities", "size", "data_head", "data_tail", "data_offset", "data_size", "aux_head", "aux_tail", "aux_offset", "aux_size")
    return tuple(view.field(word) for word in words), view.data


# -- bytes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_records_of_all_sizes_have_the_kernels_bytes(program):
    def scenario(machine):
        ring = machine.open_ring(spec=RingSpec(pages=2))
        return [machine.send(size) for size in SIZES], ring_state(ring.view)

    results, _ = both(scenario, program)
    assert results == [0] * len(SIZES)


def test_record_sizes_are_those_of_the_table():
    def scenario(machine):
        ring = machine.open_ring()
        for size in (0, 1, 4, 5, 8, 12, 13, 20, 24):
            machine.send(size)
        return [(8 + len(record.body), struct.unpack_from("<I", record.body)[0]) for record in ring.view.records()]

    assert both(scenario) == [(16, 4), (16, 4), (16, 4), (24, 12), (24, 12), (24, 12), (32, 20), (32, 20), (40, 28)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_packet_bytes_follow_the_data(program):
    def scenario(machine):
        ring = machine.open_ring()
        whole = len(PACKET) - (14 if program == "emit_socket" else 0)
        lengths = [1, 14, 20, 63, whole, whole + 1, 0xFFFFF]
        return [name(machine.send(size, CURRENT_CPU | length << 32)) for size in (0, 5, 16) for length in lengths], ring_state(ring.view)

    results, _ = both(scenario, program)
    assert results == [0, 0, 0, 0, 0, "EFAULT", "EFAULT"] * 3


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("bytes_on_the_wire", [14, 60, 1500, 3000])
def test_appended_packet_of_any_length_has_the_kernels_bytes(program, bytes_on_the_wire):
    def scenario(machine):
        ring = machine.open_ring(spec=RingSpec(pages=4))
        packet = bytes(i * 7 & 0xFF for i in range(bytes_on_the_wire))
        lengths = sorted({max(0, bytes_on_the_wire + more) for more in (-15, -14, -13, -1, 0, 1)})
        results = [name(machine.send(4, CURRENT_CPU | length << 32, packet)) for length in lengths]
        return results, [portable(machine, record) for record in ring.view.records()]

    both(scenario, program)


def test_the_largest_record_and_a_wrapped_one_have_the_kernels_bytes():
    def scenario(machine):
        ring, seen = machine.open_ring(spec=RingSpec(pages=32)), []
        for size in (65516, 65516, 50000, 65512, 65516, 17, 65509):
            result = name(machine.send(size))
            seen.append((result, ring_state(ring.view)))
            if result == 0 and len(seen) > 3:
                ring.view.consume()
        return [result for result, _ in seen], [state for _, state in seen]

    results, _ = both(scenario)
    assert results[0] == 0 and "ENOSPC" in results


def test_a_record_over_the_headers_limit_is_refused():
    """Linux truncates the size and corrupts its ring; a deviation on purpose, with an errno that says why."""
    with Ours() as ours:
        ring = ours.open_ring(spec=RingSpec(pages=32))
        assert ours.send(65516) == 0
        before = ring_state(ring.view)
        assert [name(ours.send(size)) for size in (65517, 65520, 65536)] == ["E2BIG"] * 3
        assert name(ours.send(65516, CURRENT_CPU | 1 << 32)) == "E2BIG"
        assert ring_state(ring.view) == before and ring.ring.lost == 0


def test_a_record_larger_than_the_ring_is_lost():
    def scenario(machine):
        ring = machine.open_ring()
        return [name(machine.send(size)) for size in (4077, 4076, 5000, 4068, 8, 4076)], [portable(machine, record) for record in ring.view.records()]

    assert both(scenario)[0][2] == "ENOSPC"


FIELD_SETS = [
    (), *((word,) for word in SAMPLE_FIELDS), ("TIME", "CPU"), ("TID", "TIME", "CPU"), ("ID", "STREAM_ID", "IDENTIFIER"), ("IP", "ADDR", "PERIOD"), tuple(SAMPLE_FIELDS),
]  # fmt: skip


@pytest.mark.parametrize("words", FIELD_SETS, ids=lambda words: "+".join(words) or "none")
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "no_payload"])
@pytest.mark.parametrize("id_all", [True, False], ids=["id_all", "plain"])
def test_asked_for_fields_stand_where_the_kernel_puts_them(words, raw, id_all):
    spec = RingSpec(sample_type=sum(BITS[word] for word in words) | (RAW if raw else 0), sample_id_all=id_all)

    def scenario(machine):
        ring, results = machine.open_ring(spec=spec), []
        for size in (8, 5, 21):
            results.append(machine.send(size))
        while results[-1] == 0:  # full: then a LOST record with all that sample_id_all adds
            results.append(machine.send(400))
        first = [portable(machine, record, spec) for record in ring.view.consume()]
        results.append(machine.send(8))
        return [name(result) for result in results], first, [portable(machine, record, spec) for record in ring.view.consume()]

    _, _, last = both(scenario)
    assert [record[0] for record in last] == [lib.PERF_RECORD_LOST, lib.PERF_RECORD_SAMPLE]


def test_times_of_samples_grow():
    spec = RingSpec(sample_type=RAW | lib.PERF_SAMPLE_TIME)
    for make in (Linux, Ours):
        with make() as machine:
            ring = machine.open_ring(spec=spec)
            for _ in range(20):
                machine.send(8)
            times = [struct.unpack_from("<Q", record.body)[0] for record in ring.view.records()]
            assert times == sorted(set(times)) and len(times) == 20


# -- errors ---------------------------------------------------------------------------------------------------------------------------

RESERVED, TOO_LONG = 1 << 52, 0xFFFFF << 32


@pytest.mark.parametrize("program", PROGRAMS)
def test_errors_are_found_in_the_kernels_order(program):
    """Slots: 0 a good ring, 1 empty, 2 of another CPU, 3 disabled, 4 without anybody who reads, 5 paused. Each order breaks one rule or several."""

    def scenario(machine):
        for slot, spec in {0: RingSpec(), 2: RingSpec(cpu=1), 3: RingSpec(disabled=True), 4: RingSpec(), 5: RingSpec()}.items():
            machine.open_ring(slot, spec)
        machine.rings[4].unmap()
        machine.rings[5].pause()
        indexes = [0, 1, 2, 3, 4, 5, 6, 7, 0xFFFFFFFE, CURRENT_CPU]
        return {
            (index, extra): name(machine.send(8, index | extra)) for index in indexes
            for extra in (0, 1 << 32, TOO_LONG, RESERVED, 1 << 63, RESERVED | TOO_LONG)
        }  # fmt: skip

    results = both(scenario, program)
    assert {results[index, 0] for index in range(7)} == {0, "ENOENT", "EOPNOTSUPP", "ENOSPC", "E2BIG"}
    assert all(results[index, RESERVED | TOO_LONG] == "EINVAL" and results[index, TOO_LONG] == "EFAULT" for index in range(8))


def test_disabled_and_paused_rings_answer_as_in_linux_and_count_alike():
    def scenario(machine):
        ring, results = machine.open_ring(spec=RingSpec(disabled=True)), []
        steps = [ring.enable, ring.pause, ring.disable, lambda: ring.pause(False), ring.enable, lambda: None]
        for step in steps:
            step()
            results.append(name(machine.send(8)))
        return results, [portable(machine, record) for record in ring.view.records()]

    results, records = both(scenario)
    assert results == [0, "ENOSPC", "EOPNOTSUPP", "EOPNOTSUPP", 0, 0]
    assert records[1][0] == lib.PERF_RECORD_LOST and struct.unpack_from("<Q", records[1][2], 8)[0] == 1


def test_replacing_and_removing_the_ring_of_a_slot_diverts_the_stream():
    def scenario(machine):
        first = machine.open_ring()
        seen = [name(machine.send(8))]
        second = machine.open_ring()
        seen += [name(machine.send(8)), len(first.view.records()), len(second.view.records())]
        machine.maps["events"].delete(bytes(4))
        seen.append(name(machine.send(8)))
        machine.maps["events"].update(bytes(4), first.value)
        seen.append(name(machine.send(8)))
        return seen, ring_state(first.view), ring_state(second.view)

    assert both(scenario)[0] == [0, 0, 1, 1, "ENOENT", 0]


def test_one_ring_in_several_slots_gets_all_of_it():
    def scenario(machine):
        ring = machine.open_ring()
        for slot in (1, 5):
            machine.maps["events"].update(struct.pack("<I", slot), ring.value)
        return [name(machine.send(8, slot)) for slot in (0, 1, 5, 2)], ring_state(ring.view)

    assert both(scenario)[0] == [0, 0, 0, "ENOENT"]


# -- room -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, fits", [(4, 255), (8, 170)])
def test_a_page_holds_what_it_holds_in_linux(size, fits):
    def scenario(machine):
        ring = machine.open_ring()
        results = [machine.send(size) for _ in range(fits + 2)]
        return results.count(0), [name(result) for result in results[fits:]], ring_state(ring.view)

    assert both(scenario)[:2] == (fits, ["ENOSPC", "ENOSPC"])


def test_losses_are_told_where_and_when_linux_tells_them():
    """Room is given back in small pieces, so that sometimes a sample would fit and its LOST record would not."""

    def scenario(machine):
        ring, story = machine.open_ring(), []
        for turn in range(60):
            results = []
            while not results or results[-1] == 0:
                results.append(machine.send(8 + turn % 5 * 8))
            results += [machine.send(8) for _ in range(turn % 3)]
            unread = ring.view.records()
            for record in unread[: 1 + turn % 4]:  # one record's room is not enough, two may be
                ring.view.tail = record.position + 8 + len(record.body)
            story.append((results, [portable(machine, record) for record in unread]))
        return story

    story = both(scenario)
    told = [struct.unpack_from("<Q", body, 8)[0] for _, records in story for kind, _, body, _ in records if kind == lib.PERF_RECORD_LOST]
    assert told and max(told) > 1


def test_a_lying_tail_makes_losses_as_in_linux_and_nothing_else():
    def scenario(machine):
        ring, story = machine.open_ring(), []
        for tail in (8, 0, 1 << 63, (1 << 64) - 8, 4096, 3, 4104, 24, 0xDEADBEEF):
            ring.view.tail = tail
            story.append((tail, name(machine.send(8)), name(machine.send(100)), ring.view.head, ring.view.data))
        return [(tail, *rest[:-1]) for tail, *rest in story]

    both(scenario)


# -- overwrite and backward -----------------------------------------------------------------------------------------------------------


def test_backward_ring_that_is_overwritten_shows_the_kernels_newest_records():
    def scenario(machine):
        ring, heads = machine.open_ring(spec=RingSpec(backward=True, overwrite=True)), []
        for number in range(300):
            assert machine.send(number % 40) == 0
            heads.append(ring.view.head)
        head = ring.view.head
        newest = split_perf_records(ring.view.stream(head, head + 2000)[: newest_whole(ring.view, head, 2000)])
        return heads, ring.view.tail, ring.view.data, [record[:3] for record in newest]

    heads, _, _, newest = both(scenario)
    assert heads[0] == (1 << 64) - 16 and len(newest) > 30


def newest_whole(view: PerfView, head: int, room: int) -> int:
    """How many of the `room` bytes behind head are whole records."""
    stream, at = view.stream(head, head + room), 0
    while at + 8 <= room and at + (size := struct.unpack_from("<H", stream, at + 6)[0]) <= room:
        at += size
    return at


@pytest.mark.parametrize("spec", [RingSpec(backward=True), RingSpec(overwrite=True)], ids=["backward", "overwrite"])
def test_backward_ring_fills_up_and_overwritten_one_does_not(spec):
    def scenario(machine):
        ring = machine.open_ring(spec=spec)
        results = [name(machine.send(8)) for _ in range(400)]
        return results, ring_state(ring.view)

    results, _ = both(scenario)
    assert results.count(0) == (170 if spec.backward else 400)


def test_backward_ring_tells_losses_as_linux_does():
    def scenario(machine):
        ring = machine.open_ring(spec=RingSpec(backward=True))
        results = [name(machine.send(8)) for _ in range(173)]
        ring.view.tail = (ring.view.tail - 240) % (1 << 64)
        results += [name(machine.send(8)) for _ in range(12)]
        head = ring.view.head
        return results, head, [portable(machine, record) for record in split_perf_records(ring.view.stream(head, head + 216))]

    results, _, records = both(scenario)
    assert results[-1] == "ENOSPC" and lib.PERF_RECORD_LOST in [kind for kind, *_ in records]


@pytest.mark.parametrize("backward, overwrite", [(True, True), (True, False), (False, True)])
def test_losses_while_paused_are_told_in_every_mode(backward, overwrite):
    def scenario(machine):
        ring, results = machine.open_ring(spec=RingSpec(backward=backward, overwrite=overwrite)), []
        for paused in (False, True, False):
            ring.pause(paused)
            results += [name(machine.send(8)) for _ in range(3)]
        first, last = (ring.view.head, 1 << 64) if backward else (0, ring.view.head)
        return results, [portable(machine, record) for record in split_perf_records(ring.view.stream(first, last), first)]

    results, records = both(scenario)
    assert results == [0] * 3 + ["ENOSPC"] * 3 + [0] * 3
    assert [struct.unpack_from("<Q", body, 8)[0] for kind, _, body, _ in records if kind == lib.PERF_RECORD_LOST] == [3]


# -- histories ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("seed", range(4))
def test_random_histories_leave_the_kernels_bytes(program, seed):
    """Any attributes, many sizes, appended bytes, a reader that reads now and then, pauses and switches: results, wake-ups and records.

    No record has padding: ids, which differ, could be left in it."""
    source = random.Random(f"{program} {seed}")
    spec = RingSpec(
        pages=source.choice([1, 2, 4]), sample_type=RAW | source.choice([0, BITS["CPU"], BITS["CPU"] | BITS["ADDR"] | BITS["ID"]]),
        wakeup_events=source.choice([0, 1, 5]), watermark=source.choice([None, None, 300]), sample_id_all=source.random() < 0.5,
    )  # fmt: skip
    steps = [(source.random(), source.choice([0, 1, 5, 8, 60, 200, 1500]), source.choice([0, 0, 0, 14, 100, 214, 300]), source.randrange(1, 20)) for _ in range(700)]

    def scenario(machine):
        ring, story = machine.open_ring(spec=spec), []
        for chance, size, extra, amount in steps:
            if chance < 0.90:
                whole = size + (4 - size - extra) % 8
                story.append((name(machine.send(whole, CURRENT_CPU | extra << 32)), ring.woken(), ring.view.head))
            elif chance < 0.96:
                unread = ring.view.records()
                story += [portable(machine, record, spec) for record in unread[:amount]]
                for record in unread[:amount]:
                    ring.view.tail = record.position + 8 + len(record.body)
            elif chance < 0.98:
                ring.pause(amount < 8)
            else:
                (ring.disable if amount < 6 else ring.enable)()
        return story, [portable(machine, record, spec) for record in ring.view.records()]

    story, _ = both(scenario, program)
    assert lib.PERF_RECORD_LOST in {entry[0] for entry in story}


# -- wake-ups -------------------------------------------------------------------------------------------------------------------------

WAKEUPS = [
    RingSpec(wakeup_events=1), RingSpec(wakeup_events=3), RingSpec(wakeup_events=0), RingSpec(watermark=100), RingSpec(watermark=0), RingSpec(watermark=24),
    RingSpec(watermark=1 << 20), RingSpec(wakeup_events=100), RingSpec(wakeup_events=3, pages=2), RingSpec(wakeup_events=0, overwrite=True),
    RingSpec(watermark=100, backward=True), RingSpec(wakeup_events=0, backward=True), RingSpec(wakeup_events=5, overwrite=True, backward=True),
]  # fmt: skip


def wakeup_id(spec: RingSpec) -> str:
    rule = f"events{spec.wakeup_events}" if spec.watermark is None else f"watermark{spec.watermark}"
    return "-".join([rule, f"{spec.pages}p", *(["backward"] if spec.backward else []), *(["overwrite"] if spec.overwrite else [])])


@pytest.mark.parametrize("spec", WAKEUPS, ids=wakeup_id)
def test_descriptor_polls_readable_after_the_same_records_as_in_linux(spec):
    def scenario(machine):
        ring, woken = machine.open_ring(spec=spec), []
        for number in range(1, 175 * spec.pages):
            machine.send(8)
            if ring.woken():
                woken.append(number)
        return woken

    woken = both(scenario)
    if spec == RingSpec(wakeup_events=3):
        assert woken[:3] == [3, 6, 9]
    if spec == RingSpec(wakeup_events=0):
        assert woken == [86]
    if spec == RingSpec(watermark=100):
        assert woken[:4] == [5, 9, 13, 17]


def test_a_reader_that_keeps_up_is_woken_after_the_same_records_as_in_linux():
    def scenario(machine):
        ring, woken = machine.open_ring(spec=RingSpec(wakeup_events=0)), []
        for number in range(1, 800):
            assert machine.send(8) == 0
            if ring.woken():
                woken.append(number)
                ring.view.consume()
        return woken

    assert len(both(scenario)) > 5
