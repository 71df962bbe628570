/*
 * work.c - the loop of one CPU: take the next packet of its queue, have it run, move on; follow attached programs; sleep when there is nothing.
 *
 * A packet is "in hand" from the store of `in_flight` (its queue position, bit 0 set) until `tail` moves past it. Who takes over from a killed worker finds
 * in_flight naming exactly the position of tail if that worker died with a packet: then this packet, which may have run half, is counted as lost and skipped, so
 * a packet that kills its worker cannot kill the next one, too. in_flight that names another position is stale: that packet was finished.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "held.h"
#include "queue.h"

enum work_pace { WORK_SPINS = 64, WORK_WAKE_EVERY = 64, WORK_CLOCK_PROBES = 16 };

/* ---- the queue's end ---- */

/* Bytes from `tail` to the next entry's start when the ring's end is skipped there, else 0. */
static uint64_t skip_bytes(const struct net_worker *worker, uint64_t tail)
{
	uint64_t place = tail & QUEUE_MASK;

	return __atomic_load_n((const uint32_t *)(worker->data + place), __ATOMIC_RELAXED) ? 0 : NET_QUEUE_BYTES - place;
}

/* Reads the entry at `tail` into a private copy. 1: a packet, *next is behind it; 0: the queue is damaged. */
static int read_entry(const struct net_worker *worker, uint64_t tail, uint64_t head, struct net_entry *entry, uint64_t *next)
{
	uint64_t place = tail & QUEUE_MASK, room = NET_QUEUE_BYTES - place;

	if (room > head - tail)
		room = head - tail;
	if (head - tail > NET_QUEUE_BYTES || tail % 8 || room < sizeof(*entry))
		return 0;
	memcpy(entry, worker->data + place, sizeof(*entry));
	if (entry->bytes < sizeof(*entry) || entry->bytes > room || entry->bytes % 8)
		return 0;
	*next = tail + entry->bytes;
	return 1;
}

/* Where the packet bytes of an entry are; NULL when it names bytes that are not there. */
static const uint8_t *entry_packet(const struct net_worker *worker, uint64_t tail, const struct net_entry *entry)
{
	if (entry->source == NET_INLINE)
		return entry->caplen <= entry->bytes - sizeof(*entry) ? worker->data + (tail & QUEUE_MASK) + sizeof(*entry) : NULL;
	if (entry->source >= NET_MAX_SOURCES || !worker->source[entry->source])
		return NULL;
	if (entry->caplen > CAP_MAX_PACKET || entry->off > worker->source_bytes[entry->source] ||
	    entry->caplen > worker->source_bytes[entry->source] - entry->off)
		return NULL;
	return worker->source[entry->source] + entry->off;
}

/* Fetches the start of the packet behind this one while this one runs: in a mapped capture it is far away. */
static void prefetch_next(const struct net_worker *worker, uint64_t next, uint64_t head)
{
	const struct net_entry *entry = (const struct net_entry *)(worker->data + (next & QUEUE_MASK));
	const uint8_t *packet;
	int line;

	if (next == head || (next & QUEUE_MASK) > NET_QUEUE_BYTES - sizeof(*entry) || entry->source >= NET_MAX_SOURCES)
		return;
	packet = worker->source[entry->source] + entry->off;   /* only a hint: never dereferenced here */
	for (line = 0; line < 6; line++)
		__builtin_prefetch(packet + 64 * line);
}

static void drop_packet(struct net_worker *worker, uint64_t next)
{
	queue_count(&worker->stats->lost, 1);
	__atomic_store_n(&worker->queue->tail, next, __ATOMIC_RELEASE);
}

/* Position of the next entry, behind the skipped end of the ring if need be; equal to *head when there is none. */
static uint64_t next_position(struct net_worker *worker, uint64_t *head)
{
	uint64_t tail = __atomic_load_n(&worker->queue->tail, __ATOMIC_RELAXED), skip;

	*head = queue_head(worker->queue);
	if (tail == *head)
		return tail;
	skip = skip_bytes(worker, tail & ~7ULL);
	if (skip && skip <= *head - tail) {
		tail += skip;
		__atomic_store_n(&worker->queue->tail, tail, __ATOMIC_RELEASE);
	}
	return tail;
}

/* Takes and finishes one packet. 1, or 0 when the queue is empty. */
static int work_packet(struct net_worker *worker)
{
	struct held_packet held;
	struct net_entry entry;
	uint64_t head, next, tail = next_position(worker, &head);

	if (tail == head)
		return 0;
	if (!read_entry(worker, tail, head, &entry, &next)) {
		drop_packet(worker, head);
		return 1;
	}
	held.bytes = entry_packet(worker, tail, &entry);
	if (!held.bytes) {
		drop_packet(worker, next);
		return 1;
	}
	held.caplen = entry.caplen;
	held.len = entry.len < entry.caplen ? entry.caplen : entry.len;
	held.ts_ns = entry.ts_ns;
	held.hash = entry.hash;
	prefetch_next(worker, next, head);
	__atomic_store_n(&worker->stats->in_flight, (uint32_t)tail | 1, __ATOMIC_RELEASE);
	held_run(worker, &held);
	__atomic_store_n(&worker->queue->packets_out, worker->queue->packets_out + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&worker->queue->tail, next, __ATOMIC_RELEASE);
	return 1;
}

/* Skips the packet that the last worker of this CPU died with. */
static void skip_in_hand(struct net_worker *worker)
{
	struct net_entry entry;
	uint64_t head, next, tail = next_position(worker, &head);
	uint32_t hand = __atomic_load_n(&worker->stats->in_flight, __ATOMIC_ACQUIRE);

	if (tail != head && hand == ((uint32_t)tail | 1))
		drop_packet(worker, read_entry(worker, tail, head, &entry, &next) ? next : head);
	__atomic_store_n(&worker->stats->in_flight, 0, __ATOMIC_RELEASE);
}

/* ---- programs ---- */

/* Opens the program attached to a hook. 0, or -EINVAL with worker->error. */
static int follow_hook(struct net_worker *worker, uint32_t hook)
{
	uint32_t id = __atomic_load_n(&worker->dev->attached[hook], __ATOMIC_ACQUIRE);
	struct vm_prog *prog = NULL;

	if (id == worker->prog_id[hook])
		return 0;
	worker->prog[hook] = NULL;
	worker->prog_id[hook] = id;
	if (!id)
		return 0;
	prog = vm_registry_prog(worker->cpu->registry, id, &worker->error);
	if (!prog)
		return -EINVAL;
	if (vm_prog_hook(prog) != hook) {
		worker->error.insn = 0;
		snprintf(worker->error.text, sizeof(worker->error.text), "program id %u is for another hook than the one it is attached to", id);
		return -EINVAL;
	}
	worker->prog[hook] = prog;
	return 0;
}

/* 0, or -EINVAL when a program cannot be opened: packets then go past its hook. */
static int follow_programs(struct net_worker *worker, uint32_t gen)
{
	uint32_t hook;
	int err = 0;

	worker->attach_gen = gen;   /* read before the ids: a change in between makes us look again */
	for (hook = 0; hook < NET_HOOKS; hook++)
		if (follow_hook(worker, hook))
			err = -EINVAL;
	return err;
}

/* Why the loop should be left, -1 to go on. */
static int look_around(struct net_worker *worker)
{
	uint32_t gen = __atomic_load_n(&worker->dev->attach_gen, __ATOMIC_ACQUIRE);

	if (__atomic_load_n(&worker->run->stop, __ATOMIC_RELAXED))
		return NET_WORK_STOP;
	if (__atomic_load_n(&worker->stats->ctl_word, __ATOMIC_ACQUIRE) != worker->ctl_seen)
		return NET_WORK_CTL;
	if (gen != worker->attach_gen && follow_programs(worker, gen))
		return NET_WORK_PROG_ERROR;
	return -1;
}

/* ---- the loop ---- */

static void set_state(struct net_worker *worker, uint32_t state)
{
	__atomic_store_n(&worker->stats->state, state, __ATOMIC_RELAXED);
	if (state != RUN_CPU_BUSY)
		__atomic_store_n(&worker->stats->prog_id, 0, __ATOMIC_RELAXED);
}

static int queue_empty(const struct net_worker *worker)
{
	return queue_head(worker->queue) == __atomic_load_n(&worker->queue->tail, __ATOMIC_RELAXED);
}

static int spin_briefly(const struct net_worker *worker)
{
	int i;

	for (i = 0; i < WORK_SPINS; i++) {
		if (!queue_empty(worker))
			return 1;
#if defined(__x86_64__)
		__builtin_ia32_pause();
#endif
	}
	return 0;
}

/* Nothing to do: output is written, producers are woken, then we sleep until something is published or somebody kicks us. A reason to leave, or -1. */
static int idle(struct net_worker *worker, uint64_t idle_ns)
{
	struct net_queue *queue = worker->queue;
	uint32_t seen;
	int reason;

	queue_wake(&queue->tail_word, &queue->producer_sleeps);
	if (spin_briefly(worker))
		return -1;
	held_flush(worker);
	set_state(worker, RUN_CPU_IDLE);
	seen = queue_announce(&queue->head_word, &queue->consumer_sleeps);
	reason = look_around(worker);
	if (reason < 0 && queue_empty(worker)) {
		if (__atomic_load_n(&worker->dev->closed, __ATOMIC_ACQUIRE) && queue_empty(worker))
			reason = NET_WORK_CLOSED;
		else
			shm_wait(&queue->head_word, seen, idle_ns);
	}
	__atomic_store_n(&queue->consumer_sleeps, 0, __ATOMIC_RELAXED);
	return reason;
}

static void first_packet(struct net_worker *worker)
{
	uint64_t none = 0;

	__atomic_compare_exchange_n(&worker->run->first_packet_ns, &none, shm_clock_ns(CLOCK_MONOTONIC), 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Works while there are packets. A reason to leave, or -1 when the queue is empty. */
static int work_packets(struct net_worker *worker)
{
	struct net_queue *queue = worker->queue;
	uint32_t since = 0;
	int reason;

	while ((reason = look_around(worker)) < 0) {
		if (!worker->taken && !queue_empty(worker))
			first_packet(worker);
		if (!work_packet(worker))
			return -1;
		if (++since % WORK_WAKE_EVERY)
			continue;
		/* a producer is woken when half of the ring is free: one wake-up for many packets */
		if (queue_head(queue) - queue_tail(queue) <= NET_QUEUE_BYTES / 2)
			queue_wake(&queue->tail_word, &queue->producer_sleeps);
	}
	return reason;
}

int net_work(struct net_worker *worker, uint64_t idle_ns)
{
	int reason;

	do {
		set_state(worker, RUN_CPU_BUSY);
		reason = work_packets(worker);
		if (reason < 0)
			reason = idle(worker, idle_ns);
	} while (reason < 0);
	held_flush(worker);
	queue_wake(&worker->queue->tail_word, &worker->queue->producer_sleeps);
	set_state(worker, RUN_CPU_IDLE);
	return reason;
}

/* What two readings of the clock cost at least: each timed run contains one. */
static uint64_t clock_cost(void)
{
	uint64_t best = UINT64_MAX, start, ns;
	int i;

	for (i = 0; i < WORK_CLOCK_PROBES; i++) {
		start = shm_clock_ns(CLOCK_MONOTONIC);
		ns = shm_clock_ns(CLOCK_MONOTONIC) - start;
		if (ns < best)
			best = ns;
	}
	return best;
}

int net_worker_init(struct net_worker *worker, struct vm_cpu *cpu, uint8_t *dev_base, uint64_t dev_bytes, uint8_t *run_base, uint64_t run_bytes)
{
	memset(worker, 0, sizeof(*worker));
	worker->dev = net_dev_of(dev_base, dev_bytes);
	worker->run = net_run_of(run_base, run_bytes);
	if (!worker->dev || !worker->run || cpu->cpu >= worker->run->head.ncpu)
		return -EINVAL;
	worker->queue = net_dev_queue(worker->dev, dev_base, cpu->cpu);
	worker->data = net_dev_data(worker->dev, dev_base, cpu->cpu);
	worker->faults = net_run_faults(run_base, run_bytes, cpu->cpu);
	if (!worker->queue || !worker->faults || run_bytes < net_run_bytes(cpu->cpu + 1))
		return -EINVAL;
	worker->cpu = cpu;
	worker->dev_base = dev_base;
	worker->run_base = run_base;
	worker->run_bytes = run_bytes;
	worker->stats = net_run_cpu(run_base, cpu->cpu);
	worker->ifindex = worker->dev->head.type;
	worker->attach_gen = worker->dev->attach_gen - 1;   /* anything else than now: look at once */
	worker->ctl_seen = __atomic_load_n(&worker->stats->ctl_word, __ATOMIC_ACQUIRE);
	worker->clock_ns = clock_cost();
	worker->trace.fd = -1;
	worker->trace.pid = (uint32_t)getpid();
	worker->events_sent = cpu->events_sent;
	worker->events_lost = cpu->events_lost;
	cpu->emit = held_emit;
	cpu->trace = held_trace;
	cpu->hook_data = worker;
	skip_in_hand(worker);
	__atomic_store_n(&worker->queue->consumer_sleeps, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&worker->stats->pid, (uint32_t)getpid(), __ATOMIC_RELAXED);
	set_state(worker, RUN_CPU_IDLE);
	return 0;
}
