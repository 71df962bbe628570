/*
 * held.c - one packet's way through the attached programs.
 *
 *   XDP --pass--> TC --pass--> ACT --pass--> SOCKET --accept--> pass.pcapng
 *    |             |            |              |
 *    +-------------+------------+--------------+--> drop, tx, redirect-<ifindex>, aborted
 *
 * Hooks without a program are stepped over. The packet bytes are copied once, in front of the first program; XDP hands its (changed) packet and metadata on to an
 * skb, and the skb hooks share that skb with its mark, cb and VLAN tag, as in Linux. Statistics are written by this worker only: relaxed stores, no locked
 * instructions.
 */
#define _GNU_SOURCE
#include <string.h>
#include <time.h>

#include "held.h"
#include "out.h"
#include "queue.h"

enum held_sizes { HELD_META_MAX = 256, HELD_NAME = 32 };

static const uint32_t HOOK_ORDER[] = { VM_HOOK_XDP, VM_HOOK_TC, VM_HOOK_ACT, VM_HOOK_SOCKET };

/* How far the packet has come. */
struct held_state {
	uint32_t loaded;              /* the CPU's packet memory has it: hook of the last program, 0 = not yet */
	uint32_t fate;                /* enum net_fate */
	uint32_t keep;                /* bytes a socket filter keeps */
};

/* ---- output ---- */

static void count_output(struct net_worker *worker, int err)
{
	struct run_cpu *stats = worker->stats;
	uint64_t lost = net_out_lost(worker->out);

	if (err)
		__atomic_store_n(&stats->out_errno, err, __ATOMIC_RELAXED);
	if (lost != worker->out_lost)
		queue_count(&stats->out_errors, lost - worker->out_lost);
	worker->out_lost = lost;
}

/* The CPU counts its events itself, requests to run a program included; statistics follow. */
static void count_events(struct net_worker *worker)
{
	const struct vm_cpu *cpu = worker->cpu;

	if (cpu->events_sent != worker->events_sent)
		queue_count(&worker->stats->events_sent, cpu->events_sent - worker->events_sent);
	if (cpu->events_lost != worker->events_lost)
		queue_count(&worker->stats->events_lost, cpu->events_lost - worker->events_lost);
	worker->events_sent = cpu->events_sent;
	worker->events_lost = cpu->events_lost;
}

void held_flush(struct net_worker *worker)
{
	count_events(worker);
	if (worker->out)
		count_output(worker, net_out_flush(worker->out));
}

static void redirect_name(char *name, uint32_t ifindex)
{
	char digits[10];
	uint32_t cnt = 0, at = 9;

	memcpy(name, "redirect-", 9);
	do
		digits[cnt++] = (char)('0' + ifindex % 10);
	while (ifindex /= 10);
	while (cnt)
		name[at++] = digits[--cnt];
	name[at] = '\0';
}

/* The VLAN tag that the skb keeps beside its bytes, ready for the wire. NULL: none, or no skb yet. */
static const uint8_t *skb_tag(const struct vm_cpu *cpu, uint8_t tag[4])
{
	uint16_t proto = (uint16_t)cpu->skb.vlan_proto, tci = __builtin_bswap16((uint16_t)cpu->skb.vlan_tci);

	if (cpu->hook == VM_HOOK_XDP || !cpu->skb.vlan_present)
		return NULL;
	memcpy(tag, &proto, 2);
	memcpy(tag + 2, &tci, 2);
	return tag;
}

static void write_frame(struct net_worker *worker, const char *name, const struct out_frame *frame)
{
	queue_count(&worker->stats->out_packets, 1);
	count_output(worker, out_packet(worker->out, name, frame, worker->ts_ns, worker->cpu->cpu));
}

void held_emit(struct vm_cpu *cpu, uint32_t ifindex, uint32_t flags, const uint8_t *data, uint32_t len)
{
	struct net_worker *worker = cpu->hook_data;
	struct out_frame frame = { .bytes = data, .caplen = len, .len = len };
	uint8_t tag[4];
	char name[HELD_NAME];

	(void)flags;
	if (!worker->out)
		return;
	frame.tag = skb_tag(cpu, tag);
	redirect_name(name, ifindex);
	write_frame(worker, name, &frame);
}

static void write_held(struct net_worker *worker, const struct held_packet *held, const struct held_state *state)
{
	const struct vm_packet *packet = &worker->cpu->packet;
	struct out_frame frame = { .bytes = held->bytes, .caplen = held->caplen, .len = held->len };
	uint8_t tag[4];
	char name[HELD_NAME];

	if (state->loaded) {
		frame.bytes = packet->data;
		frame.caplen = (uint32_t)(packet->tail - packet->data);
		frame.len = frame.caplen + (held->len - held->caplen);
		frame.tag = skb_tag(worker->cpu, tag);
	}
	if (frame.caplen > state->keep)
		frame.caplen = state->keep;
	if (state->fate != NET_FATE_REDIRECT) {
		write_frame(worker, net_fate_name(state->fate), &frame);
		return;
	}
	redirect_name(name, packet->redirect_ifindex);
	write_frame(worker, name, &frame);
}

/* ---- programs ---- */

/* XDP's packet becomes an skb: bytes and metadata stay as the program left them. */
static int load_behind_xdp(struct vm_cpu *cpu, uint32_t hook)
{
	struct vm_packet *packet = &cpu->packet;
	uint8_t meta[HELD_META_MAX];
	uint64_t meta_bytes = packet->meta < packet->data ? (uint64_t)(packet->data - packet->meta) : 0;
	int err;

	if (meta_bytes > sizeof(meta))
		meta_bytes = 0;
	memcpy(meta, packet->data - meta_bytes, meta_bytes);
	err = vm_packet_load(cpu, hook, packet->data, (uint32_t)(packet->tail - packet->data), 1);
	if (err || !meta_bytes)
		return err;
	packet->meta = packet->data - meta_bytes;
	memcpy(packet->meta, meta, meta_bytes);
	vm_packet_sync(cpu);
	return 0;
}

/* Makes the packet and the context ready for a program at `hook`. */
static int prepare(struct net_worker *worker, const struct held_packet *held, uint32_t hook, struct held_state *state)
{
	struct vm_cpu *cpu = worker->cpu;
	int err = 0;

	if (!state->loaded)
		err = vm_packet_load(cpu, hook, held->bytes, held->caplen, 1);
	else if (state->loaded == VM_HOOK_XDP)
		err = load_behind_xdp(cpu, hook);
	else
		cpu->hook = hook;
	if (err)
		return err;
	cpu->packet.redirect_set = 0;
	cpu->packet.tstamp = held->ts_ns;
	if (hook == VM_HOOK_XDP) {
		cpu->xdp.ingress_ifindex = worker->ifindex;
		cpu->xdp.rx_queue_index = cpu->cpu;
	} else if (!state->loaded || state->loaded == VM_HOOK_XDP) {
		cpu->skb.ifindex = worker->ifindex;
		cpu->skb.ingress_ifindex = worker->ifindex;
		cpu->skb.queue_mapping = cpu->cpu + 1;   /* skb_record_rx_queue() */
		cpu->skb.hash = held->hash;
		cpu->packet.hash_set = held->hash != 0;
		cpu->skb.tstamp = held->ts_ns;
	}
	state->loaded = hook;
	return 0;
}

static void log_fault(struct net_worker *worker)
{
	net_run_note_fault(worker->faults, &worker->cpu->fault);
	queue_count(&worker->stats->faults, 1);
}

static int timed(const struct net_worker *worker)
{
	return worker->taken <= NET_TIMED_ALL || worker->taken % NET_TIMED_EVERY == 0;
}

static void count_time(struct net_worker *worker, uint64_t start)
{
	uint64_t ns = shm_clock_ns(CLOCK_MONOTONIC) - start;

	ns = ns > worker->clock_ns ? ns - worker->clock_ns : 0;
	queue_count(&worker->stats->run_ns, worker->taken <= NET_TIMED_ALL ? ns : ns * NET_TIMED_EVERY);
}

/* Runs the hook's program on the loaded packet. 0 and the return code, or a fault code. */
static int run_program(struct net_worker *worker, uint32_t hook, uint64_t *ret)
{
	struct vm_cpu *cpu = worker->cpu;
	struct run_cpu *stats = worker->stats;
	void *ctx = hook == VM_HOOK_XDP ? (void *)&cpu->xdp : (void *)&cpu->skb;
	uint64_t start = timed(worker) ? shm_clock_ns(CLOCK_MONOTONIC) : 0;
	int fault;

	__atomic_store_n(&stats->prog_id, worker->prog_id[hook], __ATOMIC_RELAXED);
	fault = vm_run(cpu, worker->prog[hook], ctx, ret);
	if (start)
		count_time(worker, start);
	queue_count(&stats->runs[hook], 1);
	return fault == VM_FAULT_ABORTED ? 0 : fault;
}

/* One hook: its program's verdict becomes the packet's fate. */
static void run_hook(struct net_worker *worker, const struct held_packet *held, uint32_t hook, struct held_state *state)
{
	uint64_t ret = 0, *verdicts = worker->stats->verdicts[hook];
	int fault = 0, err = prepare(worker, held, hook, state);

	if (!err)
		fault = run_program(worker, hook, &ret);
	if (fault)
		log_fault(worker);
	if (err || fault) {   /* err: a packet that cannot be loaded (larger than packet memory) reaches no program */
		queue_count(&verdicts[net_verdict_aborted(hook)], 1);
		state->fate = NET_FATE_ABORTED;
		return;
	}
	queue_count(&verdicts[net_verdict_index(hook, ret)], 1);
	state->fate = net_verdict_fate(hook, ret);
	if (state->fate == NET_FATE_REDIRECT && !worker->cpu->packet.redirect_set)
		state->fate = NET_FATE_DROP;
	if (hook == VM_HOOK_SOCKET && state->fate == NET_FATE_PASS)
		state->keep = (uint32_t)ret;
}

void held_run(struct net_worker *worker, const struct held_packet *held)
{
	struct held_state state = { .fate = NET_FATE_PASS, .keep = UINT32_MAX };
	uint32_t i, hook;

	worker->taken++;
	worker->ts_ns = held->ts_ns;
	for (i = 0; i < sizeof(HOOK_ORDER) / sizeof(HOOK_ORDER[0]) && state.fate == NET_FATE_PASS; i++) {
		hook = HOOK_ORDER[i];
		if (worker->prog[hook])
			run_hook(worker, held, hook, &state);
	}
	queue_count(&worker->stats->packets, 1);
	queue_count(&worker->stats->bytes, held->len);
	count_events(worker);
	if (worker->out)
		write_held(worker, held, &state);
}
