"""Ring buffer and dynptr helpers: the same object here and in Linux, equal in every result, every position and every byte of the ring.

To add a case, add (name, body) to PROGRAMS. Bodies report with `store(index, value)`; `rb` is a ring buffer of one page, `urb` a user ring buffer of one page that
holds SAMPLES.
"""

from __future__ import annotations

import struct

import pytest
from support.compile import compile_bpf
from support.kernel import load_object as load_into_kernel
from support.kernel import pinned_to_cpu
from support.ringbuf_bytes import BUSY, DISCARD, RingBytes

import shmbpf
from shmbpf.elf import load_object

SIZE = 4096
PRELUDE = """
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
enum { BPF_MAP_TYPE_USER_RINGBUF = 31, EINVAL = 22 };
struct bpf_dynptr { __u64 opaque[2]; } __attribute__((aligned(8)));
BPF_HELPER(134, __u64, bpf_ringbuf_query, void *ringbuf, __u64 flags);
BPF_HELPER(197, long, bpf_dynptr_from_mem, void *data, __u64 size, __u64 flags, struct bpf_dynptr *ptr);
BPF_HELPER(198, long, bpf_ringbuf_reserve_dynptr, void *ringbuf, __u64 size, __u64 flags, struct bpf_dynptr *ptr);
BPF_HELPER(199, void, bpf_ringbuf_submit_dynptr, struct bpf_dynptr *ptr, __u64 flags);
BPF_HELPER(200, void, bpf_ringbuf_discard_dynptr, struct bpf_dynptr *ptr, __u64 flags);
BPF_HELPER(201, long, bpf_dynptr_read, void *dst, __u64 len, const struct bpf_dynptr *src, __u64 offset, __u64 flags);
BPF_HELPER(202, long, bpf_dynptr_write, const struct bpf_dynptr *dst, __u64 offset, void *src, __u64 len, __u64 flags);
BPF_HELPER(203, void *, bpf_dynptr_data, const struct bpf_dynptr *ptr, __u64 offset, __u64 len);
BPF_HELPER(209, long, bpf_user_ringbuf_drain, void *map, void *callback, void *ctx, __u64 flags);
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, __u64); __uint(max_entries, 32); } out SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, char[5000]); __uint(max_entries, 1); } room SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } rb SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_USER_RINGBUF); __uint(max_entries, 4096); } urb SEC(".maps");
struct counters { __u64 calls, sum, last, stop; } seen;
static __always_inline void store(__u32 at, __u64 value) { bpf_map_update_elem(&out, &at, &value, 0); }
#define BIG() ({ __u32 zero = 0; char *b = bpf_map_lookup_elem(&room, &zero); if (!b) return 9; b; })
#define NONE(size, flags) ({ void *q = bpf_ringbuf_reserve(&rb, size, flags); if (q) bpf_ringbuf_discard(q, 0); !q; })
static long take(struct bpf_dynptr *sample, struct counters *c)
{
	__u64 word = 0;
	seen.last = bpf_dynptr_read(&word, 8, sample, 0, 0);
	seen.calls++; seen.sum = seen.sum * 31 + word;
	return seen.stop && seen.calls >= seen.stop;
}
static long write_to(struct bpf_dynptr *sample, void *ctx)
{
	__u64 word = 77;
	seen.last = bpf_dynptr_write(sample, 0, &word, 8, 0);
	__u64 *p = bpf_dynptr_data(sample, 0, 8);
	seen.sum = !!p;
	if (p) seen.sum += *p;
	return 0;
}
static long drain_again(struct bpf_dynptr *sample, void *ctx)
{
	seen.calls++; seen.last = bpf_user_ringbuf_drain(&urb, take, NULL, 0);
	return 0;
}
"""
DRAIN = "store(0, bpf_user_ringbuf_drain(&urb, take, NULL, 0)); store(1, seen.calls); store(2, seen.sum); store(3, seen.last); return 2;"

PROGRAMS = [
    ("output_errors", """__u64 d = 5;
	store(0, bpf_ringbuf_output(&rb, &d, 8, 4)); store(1, bpf_ringbuf_output(&rb, &d, 8, 0)); store(2, bpf_ringbuf_output(&rb, &d, 8, 3));
	store(3, bpf_ringbuf_output(&rb, &d, 0, 0)); store(4, bpf_ringbuf_output(&rb, &d, 3, 1)); store(5, bpf_ringbuf_output(&rb, &d, 8, 1ULL << 40));
	return 2;"""),
    ("output_of_the_largest_record", "char *b = BIG(); store(0, bpf_ringbuf_output(&rb, b, 4081, 0)); store(1, bpf_ringbuf_output(&rb, b, 4080, 0)); store(2, bpf_ringbuf_output(&rb, b, 0, 0)); return 2;"),
    ("output_of_too_much", "char *b = BIG(); store(0, bpf_ringbuf_output(&rb, b, 4089, 0)); store(1, bpf_ringbuf_output(&rb, b, 5000, 0)); store(2, bpf_ringbuf_query(&rb, 0)); return 2;"),
    ("fill_with_16_byte_records", """__u64 d[1] = {7}; __u64 n = 0;
	for (int i = 0; i < 300; i++) n += bpf_ringbuf_output(&rb, d, 8, 0) == 0;
	store(0, n); store(1, bpf_ringbuf_output(&rb, d, 8, 0)); store(2, NONE(0, 0)); return 2;"""),
    ("reserve_flags_and_sizes", """void *p; store(0, NONE(8, 1)); store(1, NONE(4089, 0)); store(2, NONE(0x20000000, 0));
	p = bpf_ringbuf_reserve(&rb, 4081, 0); store(3, !p); if (p) bpf_ringbuf_discard(p, 0);
	p = bpf_ringbuf_reserve(&rb, 4080, 0); store(4, !p); if (p) bpf_ringbuf_submit(p, 0);
	p = bpf_ringbuf_reserve(&rb, 8, 0); store(5, !p); if (p) bpf_ringbuf_submit(p, 0); return 2;"""),
    ("submit_and_discard", """__u64 *p = bpf_ringbuf_reserve(&rb, 20, 0); if (!p) return 1; p[0] = 1; p[1] = 2; ((__u32 *)p)[4] = 3; bpf_ringbuf_submit(p, 0);
	p = bpf_ringbuf_reserve(&rb, 8, 0); if (!p) return 1; p[0] = 4; bpf_ringbuf_discard(p, 0);
	p = bpf_ringbuf_reserve(&rb, 5, 0); if (!p) return 1; *(__u8 *)p = 6; bpf_ringbuf_submit(p, 1);
	for (int i = 0; i < 4; i++) store(i, bpf_ringbuf_query(&rb, i)); store(4, bpf_ringbuf_query(&rb, 9)); return 2;"""),
    ("nested_and_out_of_order", """__u64 *a = bpf_ringbuf_reserve(&rb, 8, 0); if (!a) return 1;
	__u64 *b = bpf_ringbuf_reserve(&rb, 1500, 0); if (!b) { bpf_ringbuf_discard(a, 0); return 1; }
	__u64 *c = bpf_ringbuf_reserve(&rb, 3000, 0); store(0, !c); if (c) bpf_ringbuf_discard(c, 0);
	*b = 2; b[100] = 8; bpf_ringbuf_submit(b, 0); store(1, bpf_ringbuf_query(&rb, 0)); *a = 1; *(volatile __u32 *)a += 5; bpf_ringbuf_submit(a, 0);
	store(2, bpf_ringbuf_query(&rb, 3)); return 2;"""),
    ("atomic_in_a_record", """__u64 *p = bpf_ringbuf_reserve(&rb, 16, 0); if (!p) return 1; p[0] = 10; p[1] = 0;
	__sync_fetch_and_add(p, 5); store(0, p[0]); bpf_ringbuf_submit(p, 0); return 2;"""),
    ("record_as_argument", """__u32 k = 3; __u64 *p = bpf_ringbuf_reserve(&rb, 16, 0); if (!p) return 1; p[0] = 44; p[1] = 3;
	store(0, bpf_map_update_elem(&out, &k, p, 0)); store(1, bpf_ringbuf_output(&rb, p, 16, 0)); bpf_ringbuf_submit(p, 0); return 2;"""),
    ("dynptr_of_a_record", """struct bpf_dynptr d; __u64 w = 0x1122334455667788; __u64 g = 0;
	store(0, bpf_ringbuf_reserve_dynptr(&rb, 20, 0, &d)); store(1, bpf_dynptr_write(&d, 0, &w, 8, 0)); store(2, bpf_dynptr_write(&d, 12, &w, 8, 0));
	store(3, bpf_dynptr_write(&d, 13, &w, 8, 0)); store(4, bpf_dynptr_write(&d, 21, &w, 0, 0)); store(5, bpf_dynptr_write(&d, 20, &w, 0, 0));
	store(6, bpf_dynptr_write(&d, 8, &w, 4, 0)); store(7, bpf_dynptr_read(&g, 8, &d, 4, 0)); store(8, g); store(9, bpf_dynptr_read(&g, 8, &d, 13, 0));
	store(10, bpf_dynptr_read(&g, 8, &d, 0, 1)); store(11, bpf_dynptr_write(&d, 0, &w, 8, 1)); store(12, bpf_dynptr_write(&d, 99, &w, 8, 1));
	__u32 *p = bpf_dynptr_data(&d, 16, 4); store(13, p ? *p : 0); if (p) *p = 5; store(14, !bpf_dynptr_data(&d, 17, 4)); store(15, !bpf_dynptr_data(&d, 20, 0));
	bpf_ringbuf_submit_dynptr(&d, 0);
	store(16, bpf_ringbuf_reserve_dynptr(&rb, 8, 0, &d)); bpf_dynptr_write(&d, 0, &w, 8, 0); bpf_ringbuf_discard_dynptr(&d, 0); return 2;"""),
    ("null_dynptr_of_a_record", """struct bpf_dynptr d; __u64 w = 1;
	store(0, bpf_ringbuf_reserve_dynptr(&rb, 8, 1, &d)); store(1, bpf_dynptr_write(&d, 0, &w, 8, 0)); store(2, bpf_dynptr_read(&w, 8, &d, 0, 0));
	store(3, !bpf_dynptr_data(&d, 0, 8)); store(4, bpf_dynptr_read(&w, 0, &d, 0, 0)); bpf_ringbuf_submit_dynptr(&d, 0);
	store(5, bpf_ringbuf_reserve_dynptr(&rb, 5000, 0, &d)); bpf_ringbuf_discard_dynptr(&d, 0);
	store(6, bpf_ringbuf_reserve_dynptr(&rb, 0xffffff, 0, &d)); bpf_ringbuf_submit_dynptr(&d, 0);
	store(7, bpf_ringbuf_reserve_dynptr(&rb, 0x1000000, 0, &d)); bpf_ringbuf_submit_dynptr(&d, 0);
	store(8, bpf_ringbuf_reserve_dynptr(&rb, 0x1000000, 1, &d)); bpf_ringbuf_submit_dynptr(&d, 0);
	store(9, bpf_ringbuf_reserve_dynptr(&rb, 0x100000008, 0, &d)); bpf_ringbuf_submit_dynptr(&d, 0);
	store(10, bpf_ringbuf_reserve_dynptr(&rb, 4080, 0, &d)); bpf_ringbuf_submit_dynptr(&d, 0); return 2;"""),
    ("dynptr_from_memory", """struct bpf_dynptr d; char *b = BIG(); __u64 w = 0x0102030405060708, g = 0;
	store(0, bpf_dynptr_from_mem(b, 16, 0, &d)); store(1, bpf_dynptr_write(&d, 8, &w, 8, 0)); store(2, *(__u64 *)(b + 8)); store(3, bpf_dynptr_write(&d, 9, &w, 8, 0));
	store(4, bpf_dynptr_read(&g, 8, &d, 4, 0)); store(5, g); store(6, bpf_dynptr_read(&g, 8, &d, 0x100000004, 0)); store(7, bpf_dynptr_read(&g, 8, &d, 0xfffffffc, 0));
	store(8, bpf_dynptr_write(&d, 0x100000000, &w, 8, 0)); store(9, !bpf_dynptr_data(&d, 0x100000000, 8)); store(10, !bpf_dynptr_data(&d, 8, 9));
	store(11, bpf_dynptr_from_mem(b, 16, 1, &d)); store(12, bpf_dynptr_read(&g, 8, &d, 0, 0)); store(13, !bpf_dynptr_data(&d, 0, 0));
	store(14, bpf_dynptr_from_mem(b, 0, 0, &d)); store(15, bpf_dynptr_read(&g, 0, &d, 0, 0)); store(16, bpf_dynptr_read(&g, 1, &d, 0, 0)); store(17, !bpf_dynptr_data(&d, 0, 0));
	store(18, bpf_dynptr_from_mem(b, 32, 0, &d)); store(19, bpf_dynptr_write(&d, 4, b, 24, 0)); store(20, *(__u64 *)(b + 12)); return 2;"""),
    ("drain", DRAIN),
    ("drain_stops", "seen.stop = 2;" + DRAIN),
    ("drain_flags", "store(5, bpf_user_ringbuf_drain(&urb, take, NULL, 4)); store(6, bpf_user_ringbuf_drain(&urb, take, NULL, 3)); store(7, bpf_user_ringbuf_drain(&urb, take, NULL, 0)); store(8, seen.calls); return 2;"),
    ("drain_writes", "store(0, bpf_user_ringbuf_drain(&urb, write_to, NULL, 0)); store(1, seen.last); store(2, seen.sum); return 2;"),
    ("drain_in_a_drain", "store(0, bpf_user_ringbuf_drain(&urb, drain_again, NULL, 0)); store(1, seen.last); store(2, seen.calls); return 2;"),
]  # fmt: skip

WORDS = [struct.pack("=Q", 1000 + i) for i in range(4)]
#: (name, what producers of the user ring buffer have done)
SAMPLES = [
    ("none", lambda ring: None),
    ("four", lambda ring: [ring.produce(word) for word in WORDS]),
    ("discarded", lambda ring: [ring.produce(word, flags=DISCARD if i in (0, 2) else 0) for i, word in enumerate(WORDS)]),
    ("open", lambda ring: [ring.produce(word, flags=BUSY if i == 2 else 0) for i, word in enumerate(WORDS)]),
    ("open_and_discarded", lambda ring: [ring.produce(word, flags=BUSY | DISCARD if i == 2 else 0) for i, word in enumerate(WORDS)]),
    ("all_discarded", lambda ring: [ring.produce(word, flags=DISCARD) for word in WORDS]),
    ("short", lambda ring: [ring.produce(b"abc"), ring.produce(b""), ring.produce(WORDS[0])]),
    ("too_long_for_the_position", lambda ring: [ring.produce(WORDS[0]), ring.produce(WORDS[1], length=9)]),
    ("too_long_and_open", lambda ring: [ring.produce(WORDS[1], length=9, flags=BUSY)]),
    ("odd_position", lambda ring: [ring.produce(WORDS[0]), setattr(ring, "producer_pos", 20)]),
    ("position_far_away", lambda ring: [ring.produce(WORDS[0], length=5000), setattr(ring, "producer_pos", 1 << 20)]),
    ("full", lambda ring: [ring.produce(WORDS[0]) for _ in range(256)]),
]


def results_of(read: object) -> list[int]:
    return [struct.unpack("=Q", read(struct.pack("=I", i)))[0] for i in range(32)]


def state_of(ring: RingBytes) -> tuple:
    """Positions and all bytes below the producer's."""
    return ring.positions, ring.data(0, min(ring.producer_pos, SIZE))


def in_linux(path, name: str, fill) -> tuple:
    with load_into_kernel(load_object(path, name=name), name) as program, pinned_to_cpu(0):
        rings = {n: RingBytes(program.maps[n].fd, SIZE, kernel=True, user=n == "urb") for n in ("rb", "urb") if n in program.maps}
        if "urb" in rings:
            fill(rings["urb"])
        run = program.run(bytes(64))
        found = run.retval, results_of(program.maps["out"].lookup), {n: state_of(ring) for n, ring in rings.items()}
        for ring in rings.values():
            ring.close()
        return found


def here(path, name: str, fill) -> tuple:
    with shmbpf.Runtime(cpus=2) as runtime:
        loaded = runtime.load(path)
        maps = {n: t.raw for n, t in loaded.maps.items()}
        rings = {n: RingBytes(maps[n]._segment.fd, SIZE, kernel=False, user=n == "urb") for n in ("rb", "urb")}
        fill(rings["urb"])
        run = loaded.programs[name].run(bytes(64), cpu=0)
        assert run.fault is None
        for n in ("rb", "urb"):
            if n == "rb":
                maps[n].check()
        found = run.retval, results_of(maps["out"].lookup), {n: state_of(ring) for n, ring in rings.items()}
        for ring in rings.values():
            ring.close()
        loaded.close()
        return found


def compare(name: str, body: str, fill) -> None:
    path = compile_bpf(f'{PRELUDE}\nSEC("xdp") int {name}(struct xdp_md *ctx)\n{{{body}\n}}\n')
    linux, ours = in_linux(path, name, fill), here(path, name, fill)
    assert ours[:2] == linux[:2]
    assert {n: state for n, state in ours[2].items() if n in linux[2]} == linux[2]


@pytest.mark.kernel
@pytest.mark.parametrize("name, body", PROGRAMS, ids=[case[0] for case in PROGRAMS])
def test_program_does_what_it_does_in_linux(name, body):
    compare(name, body, lambda ring: [ring.produce(word) for word in WORDS])


@pytest.mark.kernel
@pytest.mark.parametrize("samples, fill", SAMPLES, ids=[case[0] for case in SAMPLES])
def test_drain_of_what_producers_wrote_is_linuxs(samples, fill):
    compare("drain", DRAIN, fill)
