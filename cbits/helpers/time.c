/*
 * time.c - the clocks. All of them are the host's own, so times of different CPUs and of the host's tools compare.
 */
#include <time.h>

#include "helpers.h"

enum {
	HZ = 250,                     /* the distributions' usual CONFIG_HZ; programs learn no other */
	TICK_NS = 1000000000 / HZ,
};

/* jiffies start five minutes before their 32-bit wrap (Linux v6.12 include/linux/jiffies.h, INITIAL_JIFFIES). */
static const uint64_t initial_jiffies = (uint32_t)(-300 * HZ);

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t bpf_ktime_get_ns(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t bpf_ktime_get_boot_ns(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return clock_ns(CLOCK_BOOTTIME);
}

uint64_t bpf_ktime_get_coarse_ns(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return clock_ns(CLOCK_MONOTONIC_COARSE);
}

uint64_t bpf_ktime_get_tai_ns(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return clock_ns(CLOCK_TAI);
}

uint64_t bpf_jiffies64(struct vm_cpu *cpu, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return initial_jiffies + clock_ns(CLOCK_MONOTONIC) / TICK_NS;
}
