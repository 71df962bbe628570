"""A program that sends events, as tests of their consumers want it: what it sends is in the packet."""

from __future__ import annotations

import struct

from support.compile import compile_bpf

#: packet: u32 how many events, u32 slot (0xffffffff: the CPU's), then 16 bytes: struct event
SOURCE = """
#include "bpf_api.h"
enum color { RED = 1, GREEN = 2 };
struct event { __u32 number; enum color color; char name[8]; };
const struct event *kept __attribute__((unused)); /* compilers leave out types that only local variables have */
struct order { __u32 count, slot; struct event event; };
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 8); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } buffer SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, __u32); __uint(max_entries, 1); } plain SEC(".maps");
SEC("xdp") int send(struct xdp_md *ctx)
{
	struct order *order = (void *)(long)ctx->data;
	struct event event;
	__u32 i, zero = 0, *value = bpf_map_lookup_elem(&plain, &zero);

	if ((void *)(order + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	event = order->event;
	for (i = 0; i < 4096 && i < order->count; i++) {
		bpf_perf_event_output(ctx, &events, order->slot, &event, sizeof event);
		event.number++;
	}
	if (value)
		*value += i;
	return XDP_PASS;
}
SEC("xdp") int log_it(struct xdp_md *ctx)
{
	struct order *order = (void *)(long)ctx->data;

	if ((void *)(order + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	bpf_ringbuf_output(&buffer, &order->event, sizeof order->event, 0);
	return XDP_PASS;
}
SEC("xdp") int say(struct xdp_md *ctx)
{
	struct order *order = (void *)(long)ctx->data;
	char text[] = "number %d";
	__u32 i;

	if ((void *)(order + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	for (i = 0; i < 4096 && i < order->count; i++)
		bpf_trace_printk(text, sizeof text, order->event.number + i);
	return XDP_PASS;
}
char _license[] SEC("license") = "GPL";
"""


def eventful_object():
    """The object file of SOURCE."""
    return compile_bpf(SOURCE)


def order(number: int = 1, *, count: int = 1, slot: int = 0xFFFFFFFF, color: int = 2, name: bytes = b"hello") -> bytes:
    """A packet that makes `send` send `count` events, numbered from `number`."""
    return struct.pack("<IIII8s", count, slot, number, color, name) + bytes(40)


def event_bytes(number: int, color: int = 2, name: bytes = b"hello") -> bytes:
    """struct event."""
    return struct.pack("<II8s", number, color, name)
