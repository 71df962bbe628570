"""Ring buffers here and in Linux: the same object, the same packets; equal results, equal positions, equal bytes between them, equal notifications."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Callable

import pytest
from machines import Linux, Ours
from ringbuf_pipe import (
    AVAIL_DATA,
    CONS_POS,
    CONSTANTS,
    DYNPTR,
    DYNPTR_BEYOND,
    DYNPTR_DATA,
    FORCE_WAKEUP,
    NO_WAKEUP,
    OUTPUT,
    PROD_POS,
    QUERY_INSIDE,
    RESERVE,
    RING_SIZE,
    SIZE,
    SOURCE,
    TWO,
    Pipe,
)

from shmbpf.testing.kernel_perf import RINGBUF_BUSY, RINGBUF_DISCARD

pytestmark = pytest.mark.kernel


def both(scenario: Callable[[Pipe], object]) -> object:
    """What the scenario gives on both machines."""
    results = {}
    for make in (Linux, Ours):
        with make(SOURCE, "work") as machine:
            results[make.name] = scenario(Pipe(machine))
    assert results["ours"] == results["linux"]
    return results["ours"]


def test_output_of_every_size_has_the_kernels_bytes():
    def scenario(pipe):
        story = []
        for size in (0, 1, 7, 8, 9, 15, 16, 64, 65, 1000, 2000, 4079, 4080, 4081, 4088, 4089, 4096, 8192):
            story.append((size, pipe.do(OUTPUT, size), pipe.state()))
            pipe.view.consume()
        return story

    results = {size: result for size, result, _ in both(scenario)}
    assert results[4080] == 0 and results[4081] == -errno.EAGAIN


@pytest.mark.parametrize("discard", [False, True], ids=["submit", "discard"])
def test_reserved_records_of_every_size_have_the_kernels_bytes(discard):
    def scenario(pipe):
        story = []
        for size in CONSTANTS[1:]:
            story.append((pipe.do(RESERVE, size, discard=discard), pipe.state(), [record.flags for record in pipe.view.records()]))
            pipe.view.consume()
        return story

    results = both(scenario)
    assert [result for result, *_ in results].count(0) == CONSTANTS.index(4080)
    assert results[0][2] == [RINGBUF_DISCARD if discard else 0]


def test_reserve_and_output_refuse_the_kernels_flags():
    def scenario(pipe):
        flags = [0, 1, 2, 3, 4, 1 << 31, 1 << 32, 1 << 63]
        story = [pipe.do(OUTPUT, 8, flag) for flag in flags], [pipe.do(RESERVE, 8, extra=flag) for flag in flags], [pipe.do(RESERVE, 8, flag) for flag in flags]
        return story, [pipe.do(DYNPTR, 8, extra=flag) for flag in flags], pipe.state()

    both(scenario)


@pytest.mark.parametrize("size, fits", [(8, 255), (64, 56), (0, 511)])
def test_a_page_holds_what_it_holds_in_linux(size, fits):
    def scenario(pipe):
        results = [pipe.do(OUTPUT, size) for _ in range(fits + 2)]
        return results.count(0), results[fits:], pipe.facts(), pipe.state()

    assert both(scenario)[:2] == (fits, [-errno.EAGAIN] * 2)


def test_records_finished_in_another_order_lie_in_the_order_of_their_reservation():
    def scenario(pipe):
        return [pipe.do(TWO) for _ in range(3)], pipe.do(TWO, discard=True), pipe.state(), [(record.flags, record.data[:8]) for record in pipe.view.records()]

    records = both(scenario)[3]
    assert [struct.unpack("<Q", data)[0] for _, data in records] == [1, 2] * 4
    assert [flags for flags, _ in records] == [0] * 6 + [RINGBUF_DISCARD, 0]


def test_query_answers_as_linux_does():
    def scenario(pipe):
        story = [pipe.facts()]
        for size in (0, 8, 100):
            pipe.do(OUTPUT, size)
            story.append(pipe.facts())
        story.append([pipe.do(QUERY_INSIDE, what) for what in (AVAIL_DATA, RING_SIZE, CONS_POS, PROD_POS, 9)])
        pipe.view.consume()
        return story, pipe.facts()

    _, last = both(scenario)
    assert last[0] == 0 and last[1] == SIZE


@pytest.mark.parametrize("discard", [False, True], ids=["submit", "discard"])
def test_dynptr_records_have_the_kernels_bytes_and_bounds(discard):
    def scenario(pipe):
        story = []
        for size in (0, 1, 7, 8, 9, 24, 100, 4080, 4081, 4096, 1 << 20, (1 << 30) - 1, 1 << 30, 0xFFFFFFFF):
            for kind in (DYNPTR, DYNPTR_BEYOND, DYNPTR_DATA):
                story.append((size, kind, pipe.do(kind, size, discard=discard), pipe.state()))
                pipe.view.consume()
        return story

    results = {(size, kind): result for size, kind, result, _ in both(scenario)}
    assert results[100, DYNPTR] == 0 and results[4081, DYNPTR] & 0x3FF == -errno.EINVAL & 0x3FF


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_leave_the_kernels_bytes(seed):
    """Consumption in steps of its own, so that records wrap and the buffer is full at times."""

    def scenario(pipe):
        source, story = random.Random(seed), []
        for _ in range(400):
            kind = source.choice([OUTPUT, OUTPUT, RESERVE, TWO, DYNPTR])
            size = source.choice(CONSTANTS[1:9]) if kind == RESERVE else source.choice([0, 3, 8, 40, 200, 700, 1500])
            story.append((kind, pipe.do(kind, size, discard=source.random() < 0.3)))
            if source.random() < 0.3:
                records = pipe.view.records()
                for record in records[: source.randrange(len(records) + 1)]:
                    pipe.view.consumer_pos = record.position + 8 + -(-len(record.data) // 8) * 8
                    assert not record.flags & RINGBUF_BUSY
            story.append(pipe.state())
        return story

    both(scenario)


def test_a_lying_consumer_position_stops_output_as_in_linux():
    def scenario(pipe):
        story = [pipe.do(OUTPUT, 8)]
        for position in (1 << 20, 1 << 63, (1 << 64) - 8, 24, 16, 8, 0):
            pipe.view.consumer_pos = position
            story.append((position, pipe.do(OUTPUT, 8), pipe.do(RESERVE, 64), pipe.view.producer_pos))
        return story

    both(scenario)


# -- notifications --------------------------------------------------------------------------------------------------------------------


def test_descriptor_is_readable_while_something_is_unread():
    def scenario(pipe):
        seen = [pipe.machine.buffer_readable()]
        for kind, discard in ((OUTPUT, False), (RESERVE, True), (TWO, False)):
            pipe.do(kind, 64, discard=discard)
            seen += [pipe.machine.buffer_readable(), pipe.machine.buffer_readable()]
            pipe.view.consume()
            seen.append(pipe.machine.buffer_readable())
        return seen

    assert both(scenario) == [False] + [True, True, False] * 3


def test_the_same_records_wake_as_in_linux():
    """Edge-triggered: each True is one notification."""
    steps = [(OUTPUT, 0), (OUTPUT, 0), (OUTPUT, FORCE_WAKEUP), "consume", (OUTPUT, NO_WAKEUP), (OUTPUT, 0), "consume", (OUTPUT, 0), (OUTPUT, 3), (OUTPUT, 1),
             "consume", (RESERVE, 0), (RESERVE, 0), (RESERVE, FORCE_WAKEUP), (TWO, 0), "consume", (RESERVE, NO_WAKEUP), "consume", (TWO, 0), "consume", (DYNPTR, 0),
             (DYNPTR, FORCE_WAKEUP), (DYNPTR, NO_WAKEUP), "consume", (DYNPTR, NO_WAKEUP)]  # fmt: skip

    def scenario(pipe):
        woken = pipe.machine.notifications()
        story = []
        for step in steps:
            if step == "consume":
                pipe.view.consume()
            else:
                pipe.do(step[0], 64, step[1])
                story.append(woken())
        return story

    story = both(scenario)
    assert story[:5] == [True, False, True, False, False]


def test_a_discarded_record_notifies_as_in_linux():
    def scenario(pipe):
        woken, story = pipe.machine.notifications(), []
        for discard, kind in ((True, RESERVE), (False, RESERVE), (True, DYNPTR)):
            pipe.do(kind, 64, discard=discard)
            story.append(woken())
            pipe.view.consume()
        return story

    assert both(scenario) == [True] * 3
