/*
 * held.h - the packet a worker has in hand. Private to cbits/net.
 */
#ifndef SHMBPF_NET_HELD_H
#define SHMBPF_NET_HELD_H

#include "shmbpf/net.h"

struct held_packet {
	const uint8_t *bytes;         /* in the ring or in a mapped capture */
	uint32_t caplen;
	uint32_t len;
	uint64_t ts_ns;
	uint32_t hash;
};

/* Takes the packet through the attached programs to its end: verdicts, faults, statistics, output. */
void held_run(struct net_worker *worker, const struct held_packet *held);
/* Brings the statistics up to date and writes out what is buffered, counting what could not be written. */
void held_flush(struct net_worker *worker);
/* vm_cpu.emit: a copy made by clone_redirect. */
void held_emit(struct vm_cpu *cpu, uint32_t ifindex, uint32_t flags, const uint8_t *data, uint32_t len);
/* vm_cpu.trace: a line of trace_printk, without its newline. */
void held_trace(struct vm_cpu *cpu, const char *line, uint32_t len);

#endif
