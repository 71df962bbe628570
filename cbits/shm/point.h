/*
 * point.h - kill points: SHM_POINT(name) marks a place where dying must hurt nobody. Nothing in release builds; with SHMBPF_POINTS the armed point raises
 * SIGKILL at its n-th pass, which is how tests walk through every half-done state of every structure.
 */
#ifndef SHMBPF_SHM_POINT_H
#define SHMBPF_SHM_POINT_H

#include "shmbpf/shm.h"

enum shm_point {
#define POINT(name) SHM_POINT_##name,
#include "points.def"
#undef POINT
	SHM_POINTS
};

#ifdef SHMBPF_POINTS
void shm_point_pass(enum shm_point point);
#define SHM_POINT(name) shm_point_pass(SHM_POINT_##name)
#else
#define SHM_POINT(name) ((void)0)
#endif

#endif
