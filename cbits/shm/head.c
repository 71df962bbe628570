/*
 * head.c - the head of every segment, and the fingerprint by which builds with different layouts refuse each other's segments.
 */
#define _GNU_SOURCE
#include "atomic.h"
#include "shmbpf/map.h"
#include "shmbpf/net.h"
#include "shmbpf/ringbuf.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x01304650424d4853ull   /* "SHMBPF0" and the version of the head itself */

uint64_t shm_magic(void)
{
	return MAGIC;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

uint64_t shm_abi_fingerprint(void)
{
	static const uint32_t layout[] = {
#define S(type) sizeof(struct type)
#define F(type, field) offsetof(struct type, field)
		S(shm_head), F(shm_head, bytes), F(shm_head, kind), F(shm_head, ncpu), F(shm_head, name),
		S(shm_slot), F(shm_slot, pid), F(shm_slot, start_ns), F(shm_slot, role),
		S(shm_ctl), F(shm_ctl, possible_cpus), F(shm_ctl, next_map_id), F(shm_ctl, runtime_pid), F(shm_ctl, deaths),
		S(shm_link), F(shm_link, next), F(shm_link, hash), F(shm_link, seq),
		S(shm_bucket), F(shm_bucket, head), S(shm_freelist), F(shm_freelist, spare), F(shm_freelist, puts),
		S(map_attr), F(map_attr, flags), F(map_attr, map_extra), F(map_attr, btf_bytes), F(map_attr, spin_lock_off), F(map_attr, name),
		S(shm_map), F(shm_map, attr), F(shm_map, frozen), F(shm_map, seed), F(shm_map, owner_prog_type), F(shm_map, spares_filled),
		S(ring_attr), S(shm_wake), S(ring_state), F(ring_state, lost_told), S(shm_ring), F(shm_ring, lost), F(shm_ring, state), S(perf_event_mmap_page),
		S(ringbuf_state), F(ringbuf_state, sent), S(shm_ringbuf), F(shm_ringbuf, lost), F(shm_ringbuf, state), F(shm_ringbuf, wake),
		S(prog_line), S(prog_func), S(shm_prog), F(shm_prog, insn_cnt), F(shm_prog, tag), F(shm_prog, run_cnt),
		S(net_queue), F(net_queue, head), F(net_queue, tail), S(net_entry), F(net_entry, off), S(shm_dev), F(shm_dev, attached),
		S(run_cpu), F(run_cpu, verdicts), F(run_cpu, pid), S(shm_run), S(run_faults), F(run_faults, kind), S(vm_fault), NET_QUEUE_BYTES,
#undef S
#undef F
		SHM_PAGE, SHM_MAX_CPUS, SHM_MAX_CLIENTS, SHM_LEASE_BYTE, SHM_OWNER_GEN_BITS,
	};
	uint64_t h = MAGIC;

	for (size_t i = 0; i < sizeof(layout) / sizeof(layout[0]); i++)
		h = mix(h, layout[i]);
	return h;
}

void shm_publish(struct shm_head *head)
{
	head->abi = shm_abi_fingerprint();
	head->created_ns = shm_clock_ns(CLOCK_BOOTTIME);
	head->uid = (uint32_t)geteuid();
	head->ctl_bytes = SHM_PAGE;
	head->name[SHM_NAME_BYTES - 1] = 0;
	shm_store_release(&head->magic, MAGIC);
}

int shm_check_head(const uint8_t *base, uint64_t bytes, uint32_t kind, struct shm_head *out)
{
	const struct shm_head *head;

	if (bytes < SHM_PAGE || bytes % SHM_PAGE)
		return -EINVAL;
	head = (const struct shm_head *)(base + bytes - SHM_PAGE);
	if (shm_load_acquire(&head->magic) != MAGIC)
		return shm_load(&head->magic) == 0 ? -EAGAIN : -EINVAL;
	memcpy(out, head, sizeof(*out));
	if (out->abi != shm_abi_fingerprint())
		return -EPROTO;
	if (out->bytes != bytes || out->kind != kind || out->ctl_bytes != SHM_PAGE)
		return -EINVAL;
	out->name[SHM_NAME_BYTES - 1] = 0;
	return 0;
}

uint32_t shm_new_id(uint32_t *counter)
{
	return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}
