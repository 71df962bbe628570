/*
 * bus.c - a mapped file that somebody truncates must not kill us.
 *
 * Touching a page behind the new end of a file raises SIGBUS. The handler puts a page of zeros there and goes on: data of that one file are wrong from then on, and
 * the count tells whoever looks. Segments are never truncated by us (they have their final size before they are published); captures may be, by whoever writes them.
 */
#include "shmbpf/shm.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t bus_errors;

static void on_bus(int number, siginfo_t *info, void *context)
{
	void *page = (void *)((uintptr_t)info->si_addr & ~(uintptr_t)(SHM_PAGE - 1));
	int saved = errno;

	(void)context;
	/* BUS_ADRERR: nothing is behind this page. Anything else is a bug of ours: die as usual */
	if (info->si_code != BUS_ADRERR ||
	    mmap(page, SHM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		signal(number, SIG_DFL);
	__atomic_fetch_add(&bus_errors, 1, __ATOMIC_RELAXED);
	errno = saved;
}

int shm_guard_bus(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_bus;
	action.sa_flags = SA_SIGINFO;
	return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

uint64_t shm_bus_errors(void)
{
	return __atomic_load_n(&bus_errors, __ATOMIC_RELAXED);
}
