// SPDX-License-Identifier: Apache-2.0
/* Programs that send 64-byte events in a loop, for the kernel's figures beside ours. events.o is made by
 *
 *   clang-19 -O2 -g -fdebug-compilation-dir=. -target bpf -mcpu=v3 -c events.bpf.c -o events.o */
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]

enum { EVENTS = 2048, CURRENT_CPU = 0xffffffff };

struct __sk_buff;

static long (*const bpf_perf_event_output)(void *ctx, void *map, __u64 flags, void *data, __u64 size) = (void *)25;
static long (*const bpf_ringbuf_output)(void *ringbuf, void *data, __u64 size, __u64 flags) = (void *)130;

struct {
	__uint(type, 4); /* PERF_EVENT_ARRAY */
	__uint(key_size, 4);
	__uint(value_size, 4);
	__uint(max_entries, 256);
} events SEC(".maps");

struct {
	__uint(type, 27); /* RINGBUF */
	__uint(max_entries, 1 << 18);
} buffer SEC(".maps");

/* Both return how many events were refused. */
SEC("tc") int perf_output(struct __sk_buff *ctx)
{
	__u64 data[8] = {1};
	__u32 refused = 0;

	for (int i = 0; i < EVENTS; i++)
		refused += bpf_perf_event_output(ctx, &events, CURRENT_CPU, data, sizeof(data)) != 0;
	return refused;
}

SEC("tc") int ringbuf_output(struct __sk_buff *ctx)
{
	__u64 data[8] = {1};
	__u32 refused = 0;

	for (int i = 0; i < EVENTS; i++)
		refused += bpf_ringbuf_output(&buffer, data, sizeof(data), 0) != 0;
	return refused;
}

char _license[] SEC("license") = "GPL";
