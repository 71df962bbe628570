"""TimeMerge: what goes out, in which order, and when."""

import random

from shmbpf.events.merge import SLACK_NS, WINDOW_NS, TimeMerge
from shmbpf.events.records import Lost, Record

MS = 1_000_000


def record(time_ns, cpu=0):
    return Record(b"", cpu, cpu, time_ns)


def times(events):
    return [event.time_ns for event in events]


def test_records_of_two_rings_come_in_order_of_time():
    merge = TimeMerge(2)
    merge.put(0, [record(10), record(14), record(19)], 30, False)
    merge.put(1, [record(12, 1), record(25, 1)], 30, False)
    assert times(merge.take(30)) == [10, 12, 14, 19]
    assert merge.held(1) == 1 and not merge.is_empty


def test_record_waits_for_a_ring_that_was_not_seen_so_far():
    merge = TimeMerge(2)
    merge.put(0, [record(50 * MS)], 50 * MS, False)
    merge.put(1, [], 50 * MS, True)
    assert merge.take(50 * MS) == []
    assert 0 < merge.due_ns(50 * MS) <= SLACK_NS
    merge.put(1, [], 50 * MS + SLACK_NS, True)
    assert times(merge.take(50 * MS + SLACK_NS)) == [50 * MS]
    assert merge.due_ns(60 * MS) is None


def test_late_record_of_a_quiet_ring_still_comes_first():
    merge = TimeMerge(2)
    merge.put(0, [record(100 * MS)], 101 * MS, False)
    merge.put(1, [], 101 * MS, True)
    assert merge.take(101 * MS) == []
    merge.put(1, [record(99 * MS, 1)], 103 * MS, False)
    merge.put(1, [], 103 * MS, True)
    assert times(merge.take(103 * MS)) == [99 * MS, 100 * MS]


def test_nothing_is_held_beyond_the_window():
    merge = TimeMerge(2)
    far = 10**15
    merge.put(0, [record(far)], 5 * MS, False)  # a time that no other ring will ever reach
    merge.put(1, [], 5 * MS, True)
    assert merge.take(5 * MS) == []
    merge.put(1, [], 5 * MS + WINDOW_NS - 1, True)
    assert merge.take(5 * MS + WINDOW_NS - 1) == []
    assert times(merge.take(5 * MS + WINDOW_NS)) == [far]


def test_order_of_a_ring_is_kept_even_when_its_times_go_back():
    merge = TimeMerge(2)
    first, second, third = record(20), record(5), record(30)
    merge.put(0, [first, second, third], 40, False)
    merge.put(1, [record(25, 1)], 40, False)
    assert merge.take(40) == [first, second, record(25, 1)]
    assert merge.take_all() == [third]


def test_loss_stays_between_its_neighbours():
    merge = TimeMerge(2)
    lost = Lost(3, 0, 0, 0)  # bears no time
    merge.put(0, [record(10), lost, record(30)], 50, False)
    merge.put(1, [record(20, 1), record(40, 1)], 50, False)
    assert merge.take(50) == [record(10), lost, record(20, 1), record(30)]


def test_loss_before_the_first_record_comes_first():
    merge = TimeMerge(2)
    lost = Lost(3, 0, 0, 0)
    merge.put(0, [lost, record(30)], 50, False)
    merge.put(1, [record(20, 1), record(40, 1)], 50, False)
    assert merge.take(50) == [lost, record(20, 1), record(30)]


def test_records_without_times_do_not_wait():
    merge = TimeMerge(2)
    merge.put(0, [record(0), record(0)], 50 * MS, False)
    merge.put(1, [], 50 * MS, True)
    assert len(merge.take(50 * MS)) == 2


def test_single_ring_is_passed_through_at_once():
    merge = TimeMerge(1)
    merge.put(0, [record(3), record(4)], 4, False)
    assert times(merge.take(4)) == [3, 4]


def test_nothing_is_kept_back_at_the_end():
    merge = TimeMerge(3)
    merge.put(0, [record(9)], 10, False)
    merge.put(2, [record(8, 2)], 10, False)
    assert times(merge.take_all()) == [8, 9] and merge.is_empty


def test_random_streams_come_out_sorted_and_whole():
    rng = random.Random(7)
    for _ in range(50):
        streams = [sorted(rng.sample(range(1, 10_000), rng.randrange(1, 200))) for _ in range(4)]
        merge, out, at = TimeMerge(4), [], [0] * 4
        now = 0
        while any(at[lane] < len(stream) for lane, stream in enumerate(streams)):
            now += 100
            for lane, stream in enumerate(streams):
                count = rng.randrange(0, 20)
                part = [record(value, lane) for value in stream[at[lane]:at[lane] + count]]
                at[lane] += len(part)
                done = at[lane] == len(stream)
                merge.put(lane, part, now, False)
                if done:
                    merge.put(lane, [], now + SLACK_NS + 10_000, True)
            out += merge.take(now)
        out += merge.take_all()
        assert times(out) == sorted(value for stream in streams for value in stream)
