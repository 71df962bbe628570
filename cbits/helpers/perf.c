/*
 * perf.c - bpf_perf_event_output(): an event into the perf ring of a slot, packet bytes appended if the flags ask for them.
 *
 * Linux v6.12 kernel/trace/bpf_trace.c, __bpf_perf_event_output() and bpf_event_output(); net/core/filter.c, bpf_skb_event_output() and
 * bpf_xdp_event_output(). The order in which errors are found is theirs.
 */
#include "helpers.h"
#include "shmbpf/ring.h"

enum perf_flags {
	BPF_F_INDEX_SHIFT = 32,       /* above the index: how many packet bytes to append */
};

static const uint64_t INDEX_MASK = 0xffffffffull, CTXLEN_MASK = 0xfffffull << BPF_F_INDEX_SHIFT;

/*
 * The ring is full: does anybody read it? Asked here only, because the answer costs a system call. If its consumer is dead the slot is empty from the next event
 * on; this one was lost to the ring and is counted there, so what programs are told and what rings have counted agree.
 */
static int64_t no_room(struct vm_cpu *cpu, struct map *map, uint32_t index)
{
	cpu->events_lost++;
	perf_array_slot(map, cpu->client, index);
	return -ENOSPC;
}

static int64_t output(struct vm_cpu *cpu, struct map *map, uint64_t flags, const struct ring_sample *sample)
{
	uint32_t index = (flags & INDEX_MASK) == INDEX_MASK ? cpu->cpu : (uint32_t)flags;
	int err = 0;
	struct ring *ring = perf_array_ring(map, cpu->client, index, &err);

	if (!ring)
		return err;
	err = ring_output(ring, cpu->client, sample);
	if (err == -ENOSPC)
		return no_room(cpu, map, index);
	cpu->events_sent += err == 0;
	return err;
}

uint64_t bpf_perf_event_output(struct vm_cpu *cpu, uint64_t ctx, uint64_t map, uint64_t flags, uint64_t data, uint64_t size)
{
	struct ring_sample sample = { host(data), size, cpu->packet.data, flags >> BPF_F_INDEX_SHIFT, cpu->client->pid, cpu->cpu };

	if (flags & ~(INDEX_MASK | CTXLEN_MASK))
		return result(-EINVAL);
	if (sample.extra_bytes > (uint64_t)(cpu->packet.tail - cpu->packet.data))
		return result(-EFAULT);
	return result(output(cpu, host(map), flags, &sample));
}
