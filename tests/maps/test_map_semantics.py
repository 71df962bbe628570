"""Facts of bpf(2) about elements, for every map type that exists (semantics of Linux 6.18; compared with the real one in test_map_oracle.py)."""

from __future__ import annotations

import errno
import random
import struct

import pytest
from support.raw_maps import ARRAY, EXIST, F_LOCK, HASH, NOEXIST, PERCPU_ARRAY, PERCPU_HASH, PROG_ARRAY, RawNamespace

ENOTSUPP = 524
CPUS = 3
VALUE_TYPES = [HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY]
HASHES, ARRAYS = [HASH, PERCPU_HASH], [ARRAY, PERCPU_ARRAY]
NAMES = {HASH: "hash", ARRAY: "array", PROG_ARRAY: "prog_array", PERCPU_HASH: "percpu_hash", PERCPU_ARRAY: "percpu_array"}


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


def each(types: list[int]):
    return pytest.mark.parametrize("type", types, ids=NAMES.get)


@pytest.fixture
def ns():
    with RawNamespace(CPUS) as namespace:
        yield namespace


@pytest.fixture
def make(ns):
    made = []

    def create(*args, **kwargs):
        made.append(ns.create(*args, **kwargs))
        return made[-1]

    yield create
    for m in made:
        m.check()
        m.close()


def refusal(function, *args, **kwargs) -> int:
    """The errno a call is refused with, 0 for success."""
    try:
        function(*args, **kwargs)
    except OSError as error:
        return error.errno
    return 0


def value(m, number: int = 7) -> bytes:
    return (struct.pack("=Q", number) * (m.value_bytes // 8 + 1))[: m.value_bytes]


@each(VALUE_TYPES)
def test_a_stored_value_is_read_back(make, type):
    m = make(type, 4, 8, 4)
    m.update(u32(2), value(m, 0x1122334455667788))
    assert m.lookup(u32(2)) == value(m, 0x1122334455667788)


@each(HASHES)
@pytest.mark.parametrize("key_size", [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 31, 64, 100])
@pytest.mark.parametrize("value_size", [1, 3, 4, 8, 11, 64])
def test_every_key_and_value_size_is_kept_exactly(make, type, key_size, value_size):
    m, rng = make(type, key_size, value_size, 20), random.Random(key_size * 1000 + value_size)
    model = {rng.randbytes(key_size): rng.randbytes(m.value_bytes) for _ in range(20)}
    for key, val in model.items():
        m.update(key, val)
    assert m.contents() == model


@each(VALUE_TYPES)
@pytest.mark.parametrize("flags", [3, 7, 8, 16, 1 << 32])
def test_unknown_update_flags_are_refused(make, type, flags):
    m = make(type, 4, 8, 4)
    assert refusal(m.update, u32(0), value(m), flags) == errno.EINVAL


@each(VALUE_TYPES)
def test_lock_flag_without_a_spin_lock_is_refused(make, type):
    m = make(type, 4, 8, 4)
    assert refusal(m.update, u32(0), value(m), F_LOCK) == errno.EINVAL
    assert refusal(m.lookup, u32(0), F_LOCK) == errno.EINVAL
    assert refusal(m.lookup_and_delete, u32(0), F_LOCK) == errno.EINVAL


@each(VALUE_TYPES)
def test_lookup_flags_other_than_lock_are_refused(make, type):
    m = make(type, 4, 8, 4)
    assert [refusal(m.lookup, u32(0), flags) for flags in (1, 2, 8)] == [errno.EINVAL] * 3


@each(ARRAYS)
def test_an_index_is_never_new_and_never_goes(make, type):
    m = make(type, 4, 8, 4)
    assert refusal(m.update, u32(1), value(m), NOEXIST) == errno.EEXIST
    assert refusal(m.update, u32(1), value(m), EXIST) == 0
    assert refusal(m.delete, u32(1)) == errno.EINVAL
    assert refusal(m.lookup_and_delete, u32(1)) == ENOTSUPP


@each(ARRAYS)
def test_an_index_out_of_range_is_refused(make, type):
    m = make(type, 4, 8, 4)
    assert refusal(m.lookup, u32(4)) == errno.ENOENT
    assert [refusal(m.update, u32(4), value(m), flags) for flags in (0, NOEXIST, EXIST)] == [errno.E2BIG] * 3
    assert m.next_key(u32(4)) == u32(0)
    assert m.next_key(u32(0xFFFFFFFF)) == u32(0)


@each([ARRAY, PERCPU_ARRAY, PROG_ARRAY])
def test_arrays_list_every_index(make, type):
    m = make(type, 4, 4, 5)
    assert list(m.keys()) == [u32(i) for i in range(5)]


@each(HASHES)
def test_flags_of_hash_updates(make, type):
    m = make(type, 4, 8, 2)
    assert refusal(m.update, u32(1), value(m), EXIST) == errno.ENOENT
    assert refusal(m.update, u32(1), value(m), NOEXIST) == 0
    assert refusal(m.update, u32(1), value(m), NOEXIST) == errno.EEXIST
    assert refusal(m.update, u32(1), value(m), EXIST) == 0


@each(HASHES)
@pytest.mark.parametrize("entries", [1, 2, 4, 33])
def test_full_map_refuses_new_key(make, type, entries):
    m = make(type, 4, 8, entries)
    for i in range(entries):
        m.update(u32(i), value(m, i))
    assert refusal(m.update, u32(1000), value(m)) == errno.E2BIG
    assert refusal(m.update, u32(1000), value(m), EXIST) == errno.ENOENT
    for i in range(entries):
        m.update(u32(i), value(m, i + 1))
    assert m.contents() == {u32(i): value(m, i + 1) for i in range(entries)}
    m.delete(u32(0))
    m.update(u32(1000), value(m))


@each(HASHES)
def test_missing_keys(make, type):
    m = make(type, 4, 8, 4)
    assert refusal(m.lookup, u32(1)) == errno.ENOENT
    assert refusal(m.delete, u32(1)) == errno.ENOENT
    assert refusal(m.lookup_and_delete, u32(1)) == errno.ENOENT
    assert refusal(m.next_key, None) == errno.ENOENT


@each(HASHES)
def test_lookup_and_delete_gives_the_value_once(make, type):
    m = make(type, 4, 8, 4)
    m.update(u32(1), value(m, 9))
    assert m.lookup_and_delete(u32(1)) == value(m, 9)
    assert refusal(m.lookup, u32(1)) == errno.ENOENT


@each(HASHES)
def test_walk_visits_every_key_once_while_the_last_one_is_deleted(make, type):
    m = make(type, 4, 8, 100)
    for i in range(100):
        m.update(u32(i), value(m, i))
    seen, key = [], None
    while refusal(m.next_key, key) == 0:
        key = m.next_key(key)
        seen.append(key)
    assert sorted(seen) == sorted(u32(i) for i in range(100))
    walked = [m.next_key(None)]
    while len(walked) < 200 and refusal(m.next_key, walked[-1]) == 0:
        following = m.next_key(walked[-1])
        m.delete(walked[-1])
        walked.append(following)
    assert sorted(walked) == sorted(seen)


@each(HASHES)
def test_unknown_key_restarts_the_walk(make, type):
    m = make(type, 4, 8, 8)
    for i in range(8):
        m.update(u32(i), value(m, i))
    assert m.next_key(u32(999)) == m.next_key(None)


@each([PERCPU_ARRAY, PERCPU_HASH])
def test_per_cpu_buffers_keep_the_rounded_bytes(make, type):
    m = make(type, 4, 5, 4)
    assert m.value_bytes == 8 * CPUS
    m.update(u32(0), bytes(range(8 * CPUS)))
    assert m.lookup(u32(0)) == bytes(range(8 * CPUS))


def test_program_touches_its_own_cpu_only():
    with RawNamespace(CPUS, cpu=1) as ns:
        for type in (PERCPU_ARRAY, PERCPU_HASH):
            with ns.create(type, 4, 8, 4) as m:
                m.update(u32(0), struct.pack("=3Q", 1, 2, 3))
                assert m.program_update(u32(0), struct.pack("=Q", 20)) == 0
                assert struct.unpack("=3Q", m.lookup(u32(0))) == (1, 20, 3)
                m.program_lookup(u32(0))[:] = struct.pack("=Q", 21)
                assert struct.unpack("=3Q", m.lookup(u32(0))) == (1, 21, 3)


def test_new_per_cpu_element_of_a_program_is_zero_elsewhere():
    with RawNamespace(CPUS, cpu=2) as ns, ns.create(PERCPU_HASH, 4, 8, 1) as m:
        m.update(u32(7), struct.pack("=3Q", 1, 2, 3))
        m.delete(u32(7))
        assert m.program_update(u32(7), struct.pack("=Q", 5)) == 0
        assert struct.unpack("=3Q", m.lookup(u32(7))) == (0, 0, 5)
        assert m.program_update(u32(8), struct.pack("=Q", 5)) == -errno.E2BIG


@each(VALUE_TYPES + [PROG_ARRAY])
def test_frozen_map_refuses_writes_of_the_syscall_side_only(make, type):
    m = make(type, 4, 4 if type == PROG_ARRAY else 8, 4)
    m.update(u32(1), value(m))
    m.freeze()
    assert refusal(m.freeze) == errno.EPERM
    assert [refusal(f, u32(1)) for f in (m.delete, m.lookup_and_delete)] == [errno.EPERM] * 2
    assert refusal(m.update, u32(1), value(m)) == errno.EPERM
    assert m.update_batch([(u32(1), value(m))]) == (errno.EPERM, 1)
    assert m.lookup(u32(1)) == value(m)


def test_programs_still_write_into_a_frozen_map(make):
    m = make(HASH, 4, 8, 4)
    m.freeze()
    assert m.program_update(u32(1), value(m)) == 0


def test_program_array_slots(make):
    m = make(PROG_ARRAY, 4, 4, 3)
    assert refusal(m.lookup, u32(0)) == errno.ENOENT
    m.update(u32(0), u32(77))
    assert m.lookup(u32(0)) == u32(77)
    assert [refusal(m.update, u32(0), u32(77), flags) for flags in (NOEXIST, EXIST)] == [errno.EINVAL] * 2
    assert refusal(m.update, u32(3), u32(77)) == errno.E2BIG
    assert refusal(m.delete, u32(3)) == errno.E2BIG
    m.delete(u32(0))
    assert refusal(m.delete, u32(0)) == errno.ENOENT
    assert refusal(m.lookup_and_delete, u32(0)) == ENOTSUPP
    assert m.program_lookup(u32(0)) is None


def test_first_program_fixes_the_type_of_a_program_array(make):
    from shmbpf._ffi import lib

    m = make(PROG_ARRAY, 4, 4, 3)
    assert lib.prog_array_store(m.handle, 0, 5, 6, 37, 0) == 0
    assert lib.prog_array_store(m.handle, 1, 6, 3, 37, 0) == -errno.EINVAL
    assert lib.prog_array_store(m.handle, 1, 6, 6, 0, 0) == -errno.EINVAL
    m.delete(u32(0))
    assert lib.prog_array_store(m.handle, 1, 6, 3, 37, 0) == -errno.EINVAL
    assert lib.prog_array_store(m.handle, 1, 6, 6, 37, 0) == 0
    assert [lib.prog_array_slot(m.handle, i) for i in (0, 1, 3)] == [0, 6, 0]


@each([HASH, ARRAY])
def test_spin_lock_reads_back_zero_and_is_not_written(make, type):
    m = make(type, 4, 16, 2, spin_lock_off=4)
    written = struct.pack("=4I", 1, 0xDEADBEEF, 3, 4)
    m.update(u32(0), written)
    assert m.lookup(u32(0)) == m.lookup(u32(0), F_LOCK) == struct.pack("=4I", 1, 0, 3, 4)
    m.update(u32(0), struct.pack("=4I", 5, 6, 7, 8), F_LOCK)
    m.update(u32(0), struct.pack("=4I", 5, 6, 7, 9), F_LOCK | EXIST)
    assert struct.unpack("=4I", m.program_lookup(u32(0))) == (5, 0, 7, 9)
    assert refusal(m.update, u32(0), written, F_LOCK | NOEXIST) == errno.EEXIST
    assert refusal(m.freeze) == ENOTSUPP


@pytest.mark.parametrize("size,off", [(size, off) for size in range(4, 33) for off in (0, 4, 8, 12) if off + 4 <= size])
def test_values_of_any_size_around_a_spin_lock(make, size, off):
    m, written = make(HASH, 4, size, 2, spin_lock_off=off), bytes(range(1, size + 1))
    m.update(u32(0), written)
    assert m.lookup(u32(0)) == written[:off] + bytes(4) + written[off + 4 :]


@each(VALUE_TYPES)
def test_add_changes_one_integer(make, type):
    m = make(type, 4, 16, 2)
    m.update(u32(1), bytes(m.value_bytes))
    assert m.add(u32(1), 5, offset=8) == 5
    assert m.add(u32(1), -2, offset=8) == 3
    assert m.add(u32(1), 300, offset=2, width=2) == 300
    assert m.add(u32(1), 0xFF, offset=1, width=1) == 0xFF
    assert m.lookup(u32(1))[:16] == struct.pack("=BBHIQ", 0, 0xFF, 300, 0, 3)
    assert refusal(m.add, u32(9), 1) == errno.ENOENT
    assert [refusal(m.add, u32(1), 1, offset=o, width=w) for o, w in ((4, 8), (16, 1), (9, 8), (0, 3))] == [errno.EINVAL] * 4


CREATE_REFUSALS = [
    (ARRAY, 8, 8, 4, 0, errno.EINVAL), (ARRAY, 4, 0, 4, 0, errno.EINVAL), (ARRAY, 4, 8, 0, 0, errno.EINVAL), (ARRAY, 4, 8, 4, 1, errno.EINVAL),
    (ARRAY, 4, 8, 4, 0x18, errno.EINVAL), (ARRAY, 4, 8, 4, 0x180, errno.EINVAL), (ARRAY, 4, 1 << 31, 1, 0, errno.E2BIG), (ARRAY, 4, 8, 4, 0x800, errno.EINVAL),
    (ARRAY, 4, 0x7FFFFFFF, 0xFFFFFFFF, 0, errno.ENOMEM), (HASH, 0, 4, 4, 0, errno.EINVAL), (HASH, 4, 0, 4, 0, errno.EINVAL), (HASH, 4, 4, 0, 0, errno.EINVAL),
    (HASH, 4, 4, 4, 2, errno.EINVAL), (HASH, 4, 4, 4, 0x400, errno.EINVAL), (HASH, 1 << 22, 4, 4, 0, errno.E2BIG), (HASH, 4, 1 << 25, 4, 0, errno.E2BIG),
    (HASH, 4, 4, 0xFFFFFFFF, 0, errno.E2BIG), (PERCPU_ARRAY, 4, 32769, 4, 0, errno.E2BIG), (PERCPU_ARRAY, 4, 8, 4, 0x400, errno.EINVAL),
    (PERCPU_HASH, 4, 32769, 4, 0, errno.E2BIG), (PROG_ARRAY, 4, 8, 4, 0, errno.EINVAL), (PROG_ARRAY, 4, 4, 4, 0x80, errno.EINVAL),
    (PROG_ARRAY, 4, 4, 0, 0, errno.EINVAL), (0, 4, 4, 4, 0, errno.EINVAL), (200, 4, 4, 4, 0, errno.EINVAL), (15, 4, 4, 4, 0, errno.EOPNOTSUPP),
]  # fmt: skip


@pytest.mark.parametrize("type,key,val,entries,flags,expected", CREATE_REFUSALS)
def test_bad_create_attributes_are_refused(ns, type, key, val, entries, flags, expected):
    assert refusal(ns.create, type, key, val, entries, flags) == expected


@each([PERCPU_HASH, PERCPU_ARRAY, PROG_ARRAY])
def test_spin_lock_in_other_types_is_refused(ns, type):
    assert refusal(ns.create, type, 4, 4 if type == PROG_ARRAY else 8, 4, spin_lock_off=0) == errno.EOPNOTSUPP


@each(VALUE_TYPES)
def test_batches_deliver_everything_then_say_enoent(make, type):
    m = make(type, 4, 8, 10)
    model = {u32(i): value(m, i) for i in range(10)}
    assert m.update_batch(list(model.items())) == (0, 10)
    number, elements, _ = m.lookup_batch(64)
    assert (number, dict(elements), len(elements)) == (errno.ENOENT, model, 10)


@each(VALUE_TYPES)
def test_batches_of_some_at_a_time_deliver_each_once(make, type):
    m = make(type, 4, 8, 50)
    model = {u32(i): value(m, i) for i in range(50)}
    m.update_batch(list(model.items()))
    got, position, number = [], None, 0
    while number == 0:
        number, elements, position = m.lookup_batch(20, position)
        got += elements
    assert (number, len(got), dict(got)) == (errno.ENOENT, 50, model)


@each(HASHES)
def test_batch_delete_stops_at_the_first_missing_key(make, type):
    m = make(type, 4, 8, 10)
    m.update_batch([(u32(i), value(m, i)) for i in range(10)])
    assert m.delete_batch([u32(1), u32(777), u32(2)]) == (errno.ENOENT, 1)
    assert len(m.contents()) == 9
    number, elements, _ = m.lookup_batch(64, delete=True)
    assert (number, len(elements), m.contents()) == (errno.ENOENT, 9, {})


@each(HASHES)
def test_batch_update_stops_when_full(make, type):
    m = make(type, 4, 8, 2)
    assert m.update_batch([(u32(i), value(m, i)) for i in range(4)]) == (errno.E2BIG, 2)


@each(ARRAYS + [PROG_ARRAY])
def test_arrays_have_no_batch_delete(make, type):
    m = make(type, 4, 4, 2)
    assert m.delete_batch([u32(0)]) == (ENOTSUPP, 1)
    assert m.lookup_batch(4, delete=True)[0] == ENOTSUPP


@each(VALUE_TYPES)
def test_batch_element_flags_are_refused(make, type):
    m = make(type, 4, 8, 2)
    assert m.update_batch([(u32(0), value(m))], elem_flags=3) == (errno.EINVAL, 1)
    assert m.lookup_batch(4, elem_flags=1)[0] == errno.EINVAL
    assert m.update_batch([]) == (0, 0)


def test_zero_seed_makes_the_order_reproducible(make):
    orders = []
    for _ in range(2):
        m = make(HASH, 4, 4, 64, 0x40)
        for i in range(64):
            m.update(u32(i), u32(i))
        orders.append(list(m.keys()))
    assert orders[0] == orders[1]


def test_access_rights_of_the_handle_are_not_stored(make):
    assert make(HASH, 4, 4, 1, 0x8).handle.flags == 0


@each(VALUE_TYPES)
@pytest.mark.parametrize("seed", range(4))
def test_random_operations_agree_with_a_dict(make, type, seed):
    rng = random.Random(seed)
    m = make(type, 4, rng.choice([4, 8, 20]), 12)
    indexed = type in ARRAYS
    model = {u32(i): bytes(m.value_bytes) for i in range(12)} if indexed else {}
    for _ in range(1500):
        key, val = u32(rng.randrange(16)), rng.randbytes(m.value_bytes)
        if rng.random() < 0.5:
            flags = rng.choice([0, 0, NOEXIST, EXIST])
            if indexed:
                expected = errno.E2BIG if key not in model else errno.EEXIST if flags == NOEXIST else 0
            elif key in model:
                expected = errno.EEXIST if flags == NOEXIST else 0
            else:
                expected = errno.ENOENT if flags == EXIST else errno.E2BIG if len(model) == 12 else 0
            assert refusal(m.update, key, val, flags) == expected
            if not expected:
                model[key] = val
        elif rng.random() < 0.5:
            assert refusal(m.delete, key) == (errno.EINVAL if indexed else 0 if key in model else errno.ENOENT)
            if not indexed:
                model.pop(key, None)
        else:
            assert refusal(m.lookup, key) == (0 if key in model else errno.ENOENT)
            assert key not in model or m.lookup(key) == model[key]
    assert m.contents() == model
