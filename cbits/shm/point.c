/*
 * point.c - arming of kill points. State is the process's own: a test arms it in the child that is to die.
 */
#define _GNU_SOURCE
#include "point.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const char *const point_names[SHM_POINTS] = {
#define POINT(name) #name,
#include "points.def"
#undef POINT
};

const char *shm_point_name(uint32_t index)
{
	return index < SHM_POINTS ? point_names[index] : NULL;
}

#ifdef SHMBPF_POINTS
static uint32_t armed = SHM_POINTS;
static uint64_t left;
static uint64_t hits;

void shm_point_pass(enum shm_point point)
{
	__atomic_add_fetch(&hits, 1, __ATOMIC_RELAXED);
	if (__atomic_load_n(&armed, __ATOMIC_RELAXED) != (uint32_t)point)
		return;
	if (__atomic_sub_fetch(&left, 1, __ATOMIC_RELAXED) == 0)
		kill(getpid(), SIGKILL);
}

int shm_point_arm(const char *name, uint64_t nth)
{
	for (uint32_t i = 0; i < SHM_POINTS; i++) {
		if (strcmp(name, point_names[i]) != 0)
			continue;
		left = nth;
		armed = i;
		return 0;
	}
	return -ENOENT;
}

uint64_t shm_point_hits(void)
{
	return __atomic_load_n(&hits, __ATOMIC_RELAXED);
}
#else
int shm_point_arm(const char *name, uint64_t nth)
{
	(void)name, (void)nth;
	return -ENOSYS;
}

uint64_t shm_point_hits(void)
{
	return 0;
}
#endif
