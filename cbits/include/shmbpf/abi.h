/*
 * abi.h - the one definition. Everything that Python, compiled code or another process knows about this library is declared below;
 * shmbpf/_build.py preprocesses this file for cffi, and the layout fingerprint in each segment is computed from it.
 */
#ifndef SHMBPF_ABI_H
#define SHMBPF_ABI_H

#include "base.h"
#include "shm.h"
#include "ring.h"
#include "map.h"
#include "ringbuf.h"
#include "bpf.h"
#include "prog.h"
#include "cpu.h"
#include "helper.h"
#include "vm.h"
#include "net.h"
#include "bench.h"

#endif
