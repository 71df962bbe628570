/*
 * device.c - the two segments of the packet path: a device's receive queues, and a runtime's statistics with its fault log.
 *
 *   device   [ring bytes of CPU 0 .. n-1][struct net_queue of CPU 0 .. n-1, page-padded][struct shm_dev, one page]
 *   run      [struct run_cpu of CPU 0 .. n-1, page-padded][struct run_faults of CPU 0 .. n-1, page-padded][struct shm_run, one page]
 *
 * All offsets follow from the number of CPUs, and the file size must agree with it; nothing else of a segment is believed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "shmbpf/net.h"

_Static_assert(sizeof(struct net_queue) == 192, "three cache lines");
_Static_assert(sizeof(struct net_entry) % 8 == 0, "entries stay aligned");
_Static_assert(sizeof(struct shm_dev) <= SHM_PAGE && sizeof(struct shm_run) <= SHM_PAGE, "one page of control block");
_Static_assert(sizeof(struct run_cpu) % 64 == 0, "CPUs share no cache line");

static uint64_t pages(uint64_t bytes)
{
	return (bytes + SHM_PAGE - 1) & ~(uint64_t)(SHM_PAGE - 1);
}

static int cpus_valid(uint32_t cpus)
{
	return cpus > 0 && cpus <= SHM_MAX_CPUS;
}

static void fill_head(struct shm_head *head, uint64_t bytes, uint32_t kind, uint32_t id, uint32_t cpus)
{
	head->bytes = bytes;
	head->kind = kind;
	head->id = id;
	head->ncpu = cpus;
	head->ctl_bytes = SHM_PAGE;
}

uint64_t net_dev_bytes(uint32_t cpus)
{
	if (!cpus_valid(cpus))
		return 0;
	return (uint64_t)cpus * NET_QUEUE_BYTES + pages(cpus * sizeof(struct net_queue)) + SHM_PAGE;
}

int net_dev_format(uint8_t *base, uint64_t bytes, uint32_t id, const char *name, uint32_t ifindex, uint32_t cpus)
{
	struct shm_dev *dev = (struct shm_dev *)(base + bytes - SHM_PAGE);
	size_t name_bytes = strnlen(name, SHM_NAME_BYTES);

	if (!cpus_valid(cpus) || bytes != net_dev_bytes(cpus) || name_bytes == SHM_NAME_BYTES)
		return -EINVAL;
	fill_head(&dev->head, bytes, SHM_KIND_DEV, id, cpus);
	memcpy(dev->head.name, name, name_bytes + 1);
	dev->head.type = ifindex;
	dev->queue_cnt = cpus;
	dev->queue_bytes = NET_QUEUE_BYTES;
	shm_publish(&dev->head);
	return 0;
}

struct shm_dev *net_dev_of(uint8_t *base, uint64_t bytes)
{
	struct shm_head head;

	if (shm_check_head(base, bytes, SHM_KIND_DEV, &head) || !cpus_valid(head.ncpu) || bytes != net_dev_bytes(head.ncpu))
		return NULL;
	return (struct shm_dev *)(base + bytes - SHM_PAGE);
}

/* CPUs of a device by the distance between its start and its control block: what the mapping has room for, whatever is written in it. */
static uint32_t dev_cpus(const struct shm_dev *dev, const uint8_t *base)
{
	uint64_t before = (uint64_t)((const uint8_t *)dev - base);

	return (uint32_t)(before / (NET_QUEUE_BYTES + sizeof(struct net_queue)));
}

struct net_queue *net_dev_queue(struct shm_dev *dev, uint8_t *base, uint32_t cpu)
{
	uint32_t cpus = dev_cpus(dev, base);

	if (cpu >= cpus)
		return NULL;
	return (struct net_queue *)(base + (uint64_t)cpus * NET_QUEUE_BYTES) + cpu;
}

uint8_t *net_dev_data(struct shm_dev *dev, uint8_t *base, uint32_t cpu)
{
	return cpu < dev_cpus(dev, base) ? base + (uint64_t)cpu * NET_QUEUE_BYTES : NULL;
}

int net_dev_drained(uint8_t *dev_base, struct shm_dev *dev)
{
	struct net_queue *queue;
	uint32_t cpu;

	for (cpu = 0; (queue = net_dev_queue(dev, dev_base, cpu)); cpu++)
		if (__atomic_load_n(&queue->head, __ATOMIC_ACQUIRE) != __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE))
			return 0;
	return 1;
}

void net_dev_kick(uint8_t *dev_base, struct shm_dev *dev, uint32_t cpu)
{
	struct net_queue *queue = net_dev_queue(dev, dev_base, cpu);

	if (!queue)
		return;
	__atomic_fetch_add(&queue->head_word, 1, __ATOMIC_SEQ_CST);
	shm_wake(&queue->head_word, INT_MAX);
}

static void kick_all(uint8_t *dev_base, struct shm_dev *dev)
{
	uint32_t cpu, cpus = dev_cpus(dev, dev_base);

	for (cpu = 0; cpu < cpus; cpu++)
		net_dev_kick(dev_base, dev, cpu);
}

void net_dev_close(uint8_t *dev_base, struct shm_dev *dev)
{
	__atomic_store_n(&dev->closed, 1, __ATOMIC_SEQ_CST);
	kick_all(dev_base, dev);
}

void net_dev_attach(uint8_t *dev_base, struct shm_dev *dev, uint32_t hook, uint32_t prog_id)
{
	if (hook >= NET_HOOKS)
		return;
	__atomic_store_n(&dev->attached[hook], prog_id, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&dev->attach_gen, 1, __ATOMIC_SEQ_CST);
	kick_all(dev_base, dev);
}

/* ---- run segment ---- */

static uint64_t faults_off(uint32_t cpus)
{
	return pages(cpus * sizeof(struct run_cpu));
}

uint64_t net_run_bytes(uint32_t cpus)
{
	if (!cpus_valid(cpus))
		return 0;
	return faults_off(cpus) + pages(cpus * sizeof(struct run_faults)) + SHM_PAGE;
}

int net_run_format(uint8_t *base, uint64_t bytes, uint32_t id, uint32_t cpus, uint32_t pid)
{
	struct shm_run *run = (struct shm_run *)(base + bytes - SHM_PAGE);

	if (!cpus_valid(cpus) || bytes != net_run_bytes(cpus))
		return -EINVAL;
	fill_head(&run->head, bytes, SHM_KIND_RUN, id, cpus);
	memcpy(run->head.name, "run", 4);
	run->cpu_cnt = cpus;
	run->supervisor_pid = pid;
	run->started_ns = shm_clock_ns(1 /* CLOCK_MONOTONIC */);
	shm_publish(&run->head);
	return 0;
}

struct shm_run *net_run_of(uint8_t *base, uint64_t bytes)
{
	struct shm_head head;

	if (shm_check_head(base, bytes, SHM_KIND_RUN, &head) || !cpus_valid(head.ncpu) || bytes != net_run_bytes(head.ncpu))
		return NULL;
	return (struct shm_run *)(base + bytes - SHM_PAGE);
}

struct run_cpu *net_run_cpu(uint8_t *base, uint32_t cpu)
{
	return (struct run_cpu *)base + cpu;
}

struct run_faults *net_run_faults(uint8_t *base, uint64_t bytes, uint32_t cpu)
{
	struct shm_head head;

	/* one private copy of the head: the CPU count that agrees with the file's size is the one that is used */
	if (shm_check_head(base, bytes, SHM_KIND_RUN, &head) || bytes != net_run_bytes(head.ncpu) || cpu >= head.ncpu)
		return NULL;
	return (struct run_faults *)(base + faults_off(head.ncpu)) + cpu;
}

uint32_t net_run_fault_kinds(const struct run_faults *faults)
{
	return __atomic_load_n(&faults->kind_cnt, __ATOMIC_ACQUIRE);
}

static int same_kind(const struct vm_fault *a, const struct vm_fault *b)
{
	return a->prog_id == b->prog_id && a->insn == b->insn && a->code == b->code;
}

static void count_one(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

void net_run_note_fault(struct run_faults *faults, const struct vm_fault *fault)
{
	uint32_t cnt = __atomic_load_n(&faults->kind_cnt, __ATOMIC_RELAXED), i;

	for (i = 0; i < cnt && i < NET_FAULT_KINDS; i++)
		if (same_kind(&faults->kind[i].first, fault)) {
			count_one(&faults->kind[i].count);
			return;
		}
	if (cnt >= NET_FAULT_KINDS) {
		count_one(&faults->others);
		return;
	}
	faults->kind[cnt].first = *fault;
	faults->kind[cnt].first.detail[sizeof(fault->detail) - 1] = '\0';
	__atomic_store_n(&faults->kind[cnt].count, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&faults->kind_cnt, cnt + 1, __ATOMIC_RELEASE);
}
