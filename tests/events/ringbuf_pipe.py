"""A program that does with a ring buffer what it is told, on either machine."""

from __future__ import annotations

import struct

from machines import Machine

from shmbpf.testing.kernel_perf import RingbufView

SIZE = 4096
OUTPUT, RESERVE, TWO, DYNPTR, QUERY, DYNPTR_BEYOND, DYNPTR_DATA, QUERY_INSIDE = range(8)
NO_WAKEUP, FORCE_WAKEUP = 1, 2
AVAIL_DATA, RING_SIZE, CONS_POS, PROD_POS = range(4)
#: sizes that programs reserve: Linux wants a constant
CONSTANTS = [0, 1, 7, 8, 9, 64, 100, 1000, 2040, 4080, 4081, 4096, 1 << 20]
SOURCE = f"""
#include "bpf_api.h"
char LICENSE[] SEC("license") = "GPL";
BPF_HELPER(134, __u64, ringbuf_query, void *ringbuf, __u64 what);
struct bpf_dynptr {{ __u64 opaque[2]; }} __attribute__((aligned(8)));
BPF_HELPER(198, long, ringbuf_reserve_dynptr, void *ringbuf, __u32 size, __u64 flags, struct bpf_dynptr *ptr);
BPF_HELPER(199, void, ringbuf_submit_dynptr, struct bpf_dynptr *ptr, __u64 flags);
BPF_HELPER(200, void, ringbuf_discard_dynptr, struct bpf_dynptr *ptr, __u64 flags);
BPF_HELPER(201, long, dynptr_read, void *to, __u32 len, const struct bpf_dynptr *from, __u32 offset, __u64 flags);
BPF_HELPER(202, long, dynptr_write, const struct bpf_dynptr *to, __u32 offset, void *from, __u32 len, __u64 flags);
BPF_HELPER(203, void *, dynptr_data, const struct bpf_dynptr *from, __u32 offset, __u32 len);
struct order {{ __u64 kind, size, flags, discard, extra; }};
struct payload {{ __u64 words[1024]; }};
struct {{ __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, {SIZE}); }} buffer SEC(".maps");
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, struct order); __uint(max_entries, 1); }} order SEC(".maps");
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, struct payload); __uint(max_entries, 1); }} payload SEC(".maps");
static __always_inline int finish(void *record, struct order *o)
{{
	if (o->discard)
		bpf_ringbuf_discard(record, o->flags);
	else
		bpf_ringbuf_submit(record, o->flags);
	return 0;
}}
#define RESERVED(n) case n: {{ __u8 *r = bpf_ringbuf_reserve(&buffer, n, o->extra); if (!r) return 5; if (n) r[0] = p->words[0]; return finish(r, o); }}
static __always_inline int reserve(struct order *o, struct payload *p)
{{
	switch (o->size) {{
	{" ".join(f"RESERVED({size})" for size in CONSTANTS if size)}
	}}
	return 6;
}}
/* Two records at once, finished in the other order. */
static __always_inline int two(struct order *o, struct payload *p)
{{
	__u64 *first = bpf_ringbuf_reserve(&buffer, 24, 0), *second;
	if (!first)
		return 7;
	second = bpf_ringbuf_reserve(&buffer, 16, 0);
	if (!second) {{
		bpf_ringbuf_discard(first, 0);
		return 8;
	}}
	first[0] = 1; first[1] = p->words[0]; second[0] = 2;
	bpf_ringbuf_submit(second, 0);
	return finish(first, o);
}}
static __always_inline int dynamic(struct order *o, struct payload *p, int beyond)
{{
	struct bpf_dynptr ptr;
	__u64 word = p->words[0], back = 0;
	long failed = ringbuf_reserve_dynptr(&buffer, o->size, o->extra, &ptr), written, read;

	written = dynptr_write(&ptr, beyond ? o->size : 0, &word, 8, 0);
	read = dynptr_read(&back, 8, &ptr, beyond ? o->size - 7 : 0, 0);
	if (o->discard)
		ringbuf_discard_dynptr(&ptr, o->flags);
	else
		ringbuf_submit_dynptr(&ptr, o->flags);
	return (failed & 0x3ff) | (written & 0x3ff) << 10 | (read & 0x3ff) << 20 | (__u32)(!failed && !read && back != word) << 30;
}}
static __always_inline int slice(struct order *o, struct payload *p)
{{
	struct bpf_dynptr ptr;
	long failed = ringbuf_reserve_dynptr(&buffer, o->size, 0, &ptr);
	__u64 *data = dynptr_data(&ptr, 8, 16);

	if (data)
		data[1] = p->words[0];
	ringbuf_submit_dynptr(&ptr, 0);
	return (failed & 0x3ff) | (data ? 0x400 : 0);
}}
/* What a query says while a record is reserved. */
static __always_inline int inside(struct order *o)
{{
	__u64 *record = bpf_ringbuf_reserve(&buffer, 40, 0), found = ringbuf_query(&buffer, o->size);
	if (record)
		bpf_ringbuf_discard(record, 0);
	return found;
}}
SEC("xdp") int work(struct xdp_md *ctx)
{{
	__u32 zero = 0;
	struct order *o = bpf_map_lookup_elem(&order, &zero);
	struct payload *p = bpf_map_lookup_elem(&payload, &zero);
	if (!o || !p)
		return 1;
	p->words[0]++;
	switch (o->kind) {{
	case {OUTPUT}: return o->size > sizeof *p ? 2 : bpf_ringbuf_output(&buffer, p, o->size, o->flags);
	case {RESERVE}: return reserve(o, p);
	case {TWO}: return two(o, p);
	case {DYNPTR}: return dynamic(o, p, 0);
	case {DYNPTR_BEYOND}: return dynamic(o, p, 1);
	case {DYNPTR_DATA}: return slice(o, p);
	case {QUERY}: return ringbuf_query(&buffer, o->size);
	case {QUERY_INSIDE}: return inside(o);
	}}
	return 3;
}}
"""


class Pipe:
    """A machine with the program, its buffer, and orders for it."""

    def __init__(self, machine: Machine):
        self.machine, self.view = machine, machine.buffer()

    def do(self, kind: int, size: int = 8, flags: int = 0, *, discard: bool = False, extra: int = 0) -> int:
        """One run; what it returned."""
        self.machine.maps["order"].update(bytes(4), struct.pack("<5Q", kind, size, flags, discard, extra))
        return self.machine.run()

    def facts(self) -> list[int]:
        """All that can be asked about."""
        return [self.do(QUERY, what) for what in (AVAIL_DATA, RING_SIZE, CONS_POS, PROD_POS, 4, 1 << 40)]

    def state(self) -> tuple:
        """Positions and every byte between them."""
        view: RingbufView = self.view
        return view.consumer_pos, view.producer_pos, view.stream(view.consumer_pos, view.producer_pos)
