/*
 * trace.c - lines of bpf_trace_printk on their way from a worker to whoever shows them.
 *
 * A line looks as in the kernel's trace_pipe, so what parses that parses this. It goes into a pipe in one non-blocking write of less than PIPE_BUF bytes: never
 * torn, never mixed with another CPU's. When nobody reads, lines are dropped, as the kernel's ring drops them; a program never waits.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "held.h"

enum trace_sizes { TRACE_LINE = 2048 };

void held_trace(struct vm_cpu *cpu, const char *line, uint32_t len)
{
	struct net_worker *worker = cpu->hook_data;
	uint64_t now = shm_clock_ns(CLOCK_MONOTONIC);
	char text[TRACE_LINE];
	int used;

	worker->trace_lines++;
	if (worker->trace_fd < 0)
		return;
	used = snprintf(text, sizeof(text), "%16s-%-7d [%03u] ..... %5llu.%06llu: bpf_trace_printk: %.*s\n", "shmbpf", (int)worker->stats->pid, cpu->cpu,
			(unsigned long long)(now / 1000000000), (unsigned long long)(now / 1000 % 1000000), (int)len, line);
	if (used >= (int)sizeof(text)) {
		used = sizeof(text) - 1;
		text[used - 1] = '\n';
	}
	if (write(worker->trace_fd, text, (size_t)used) < 0)
		worker->trace_lost++;
}
