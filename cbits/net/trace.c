/*
 * trace.c - lines of bpf_trace_printk on their way from a CPU to whoever shows them.
 *
 * A line looks as in the kernel's trace_pipe, so what parses that parses this. It goes into a pipe in one non-blocking write of less than PIPE_BUF bytes: never
 * torn, never mixed with another CPU's. When nobody reads, lines are dropped and counted, as the kernel's ring drops them; a program never waits.
 *
 * A worker's pipe ends in the supervisor, which hands the lines to all that follow; that of a program run in its caller's process ends there.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "held.h"
#include "queue.h"

enum trace_sizes { TRACE_LINE = 2048 };

/* 0; 1 when the line is lost. */
static int put_line(struct net_trace *trace, uint32_t cpu, const char *line, uint32_t len)
{
	uint64_t now = shm_clock_ns(CLOCK_MONOTONIC);
	char text[TRACE_LINE];
	int used;

	trace->lines++;
	if (trace->fd < 0)
		return 0;
	used = snprintf(text, sizeof(text), "%16s-%-7d [%03u] ..... %5llu.%06llu: bpf_trace_printk: %.*s\n", "shmbpf", (int)trace->pid, cpu,
			(unsigned long long)(now / 1000000000), (unsigned long long)(now / 1000 % 1000000), (int)len, line);
	if (used >= (int)sizeof(text)) {
		used = sizeof(text) - 1;
		text[used - 1] = '\n';
	}
	if (write(trace->fd, text, (size_t)used) >= 0)
		return 0;
	trace->lost++;
	return 1;
}

void held_trace(struct vm_cpu *cpu, const char *line, uint32_t len)
{
	struct net_worker *worker = cpu->hook_data;

	if (put_line(&worker->trace, cpu->cpu, line, len))
		queue_count(&worker->stats->trace_lost, 1);
}

static void local_trace(struct vm_cpu *cpu, const char *line, uint32_t len)
{
	put_line(cpu->hook_data, cpu->cpu, line, len);
}

void net_trace_follow(struct vm_cpu *cpu, struct net_trace *trace)
{
	cpu->trace = local_trace;
	cpu->hook_data = trace;
}
