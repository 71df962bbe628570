/*
 * client.c - who is alive: slots of the control segment held by OFD write locks.
 *
 * A client's slot is one byte of the control segment's file under an open-file-description lock. The kernel drops that lock when the last descriptor of the
 * description goes, which is after the dying process has lost its memory, so "lock gone" means "no more stores". Descriptions are shared over fork: a child
 * would keep its parent's slot alive for ever. So at fork the child closes them and its copies of the clients become unusable (owner 0).
 */
#define _GNU_SOURCE
#include "atomic.h"
#include "shmbpf/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GEN_MASK ((1u << SHM_OWNER_GEN_BITS) - 1)

/* Clients attached by this process, for the fork handler, which must not take a lock another thread may have held. */
static struct shm_client *attached[SHM_MAX_CLIENTS];
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void forget_after_fork(void)
{
	for (uint32_t i = 0; i < SHM_MAX_CLIENTS; i++) {
		struct shm_client *client = attached[i];

		if (!client)
			continue;
		close(client->fd);
		client->fd = -1;
		client->owner = 0;
		attached[i] = NULL;
	}
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forget_after_fork);
}

static int remember(struct shm_client *me)
{
	pthread_once(&fork_once, watch_forks);
	for (uint32_t i = 0; i < SHM_MAX_CLIENTS; i++) {
		struct shm_client *none = NULL;

		if (__atomic_compare_exchange_n(&attached[i], &none, me, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return 0;
	}
	return -EUSERS;
}

static void forget(struct shm_client *me)
{
	for (uint32_t i = 0; i < SHM_MAX_CLIENTS; i++)
		if (__atomic_load_n(&attached[i], __ATOMIC_ACQUIRE) == me)
			__atomic_store_n(&attached[i], NULL, __ATOMIC_RELEASE);
}

uint64_t shm_ctl_bytes(void)
{
	return SHM_PAGE + (uint64_t)SHM_MAX_CLIENTS * sizeof(struct shm_slot) + SHM_PAGE;
}

struct shm_ctl *shm_ctl_of(uint8_t *base, uint64_t bytes)
{
	return bytes == shm_ctl_bytes() ? (struct shm_ctl *)(base + bytes - SHM_PAGE) : NULL;
}

void shm_ctl_init(uint8_t *base, uint64_t bytes)
{
	struct shm_ctl *ctl = shm_ctl_of(base, bytes);

	if (!ctl)
		return;
	ctl->next_map_id = ctl->next_prog_id = ctl->next_btf_id = ctl->next_link_id = ctl->next_other_id = 1;
	ctl->head.kind = SHM_KIND_CTL;
	ctl->head.bytes = bytes;
}

/* fcntl() on one byte: command F_OFD_SETLK or F_OFD_GETLK. 0 or -errno; for GETLK 1 = somebody else has it. */
static int byte_lock(int fd, int command, short type, uint32_t byte)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	if (fcntl(fd, command, &lock) < 0)
		return -errno;
	return command == F_OFD_GETLK && lock.l_type != F_UNLCK;
}

static int take_slot(struct shm_client *me)
{
	for (uint32_t slot = 0; slot < SHM_MAX_CLIENTS; slot++) {
		int err = byte_lock(me->fd, F_OFD_SETLK, F_WRLCK, slot);

		if (err == 0) {
			me->slot = slot;
			return 0;
		}
		if (err != -EAGAIN && err != -EACCES)
			return err;
	}
	return -EUSERS;
}

static void name_slot(struct shm_client *me, const char *role)
{
	struct shm_slot *slot = &me->slots[me->slot];
	uint32_t gen = shm_load(&slot->gen) + 1;

	snprintf(slot->role, sizeof(slot->role), "%s", role ? role : "");
	shm_store(&slot->pid, me->pid);
	shm_store(&slot->cpu, me->cpu);
	shm_store(&slot->start_ns, shm_clock_ns(CLOCK_BOOTTIME));
	/* from here on owner words of the slot's last holder are dead */
	shm_store_release(&slot->gen, gen);
	me->owner = (me->slot + 1) << SHM_OWNER_GEN_BITS | (gen & GEN_MASK);
}

static int open_again(int fd)
{
	char path[40];
	int mine;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	mine = open(path, O_RDWR | O_CLOEXEC);
	if (mine < 0)
		return -errno;
	if (flock(mine, LOCK_SH | LOCK_NB) < 0) {
		int err = -errno;

		close(mine);
		return err;
	}
	return mine;
}

static int take_places(struct shm_client *me, uint32_t cpu)
{
	int err = take_slot(me);

	if (err || cpu == SHM_NO_CPU)
		return err;
	if (cpu >= me->ncpu)
		return -EINVAL;
	err = byte_lock(me->fd, F_OFD_SETLK, F_WRLCK, SHM_LEASE_BYTE + cpu);
	return err == -EAGAIN || err == -EACCES ? -EBUSY : err;
}

int shm_client_attach(struct shm_client *me, int fd, uint64_t bytes, uint32_t cpu, const char *role)
{
	int err;

	memset(me, 0, sizeof(*me));
	me->fd = open_again(fd);
	if (me->fd < 0)
		return me->fd;
	/* mapped through the caller's description: a mapping inherited by a child must not keep our locks alive */
	err = bytes == shm_ctl_bytes() ? shm_map_fd(fd, bytes, 1, &me->base) : -EINVAL;
	if (err) {
		close(me->fd);
		return err;
	}
	me->ctl = shm_ctl_of(me->base, bytes);
	me->slots = (struct shm_slot *)(me->base + SHM_PAGE);
	me->ncpu = shm_load_acquire(&me->ctl->possible_cpus);
	me->ncpu = me->ncpu > SHM_MAX_CPUS ? SHM_MAX_CPUS : me->ncpu;
	me->cpu = cpu;
	me->pid = (uint32_t)getpid();
	me->busy_ns = 250000000u;
	err = take_places(me, cpu);
	if (!err)
		err = remember(me);
	if (err) {
		shm_unmap(me->base, bytes);
		close(me->fd);
		return err;
	}
	name_slot(me, role);
	return 0;
}

void shm_client_detach(struct shm_client *me)
{
	if (!me->base)
		return;
	forget(me);
	if (me->owner)
		shm_store(&me->slots[me->slot].pid, 0);
	me->owner = 0;
	shm_unmap(me->base, shm_ctl_bytes());
	if (me->fd >= 0)
		close(me->fd);
	memset(me, 0, sizeof(*me));
	me->fd = -1;
}

int shm_owner_alive(struct shm_client *me, uint32_t owner)
{
	uint32_t slot = (owner >> SHM_OWNER_GEN_BITS) - 1;

	if (slot >= SHM_MAX_CLIENTS)
		return 0;
	if ((shm_load_acquire(&me->slots[slot].gen) & GEN_MASK) != (owner & GEN_MASK))
		return 0;
	if (slot == me->slot)         /* our own description's lock never conflicts with itself */
		return 1;
	return byte_lock(me->fd, F_OFD_GETLK, F_WRLCK, slot) != 0;
}

uint32_t shm_owner_pid(const struct shm_client *me, uint32_t owner)
{
	uint32_t slot = (owner >> SHM_OWNER_GEN_BITS & ((1u << SHM_OWNER_SLOT_BITS) - 1)) - 1;

	if (slot >= SHM_MAX_CLIENTS || (shm_load(&me->slots[slot].gen) & GEN_MASK) != (owner & GEN_MASK))
		return 0;
	return shm_load(&me->slots[slot].pid);
}

int shm_cpu_leased(struct shm_client *me, uint32_t cpu)
{
	if (cpu >= SHM_MAX_CPUS)
		return 0;
	if (cpu == me->cpu && me->owner)
		return 1;
	return byte_lock(me->fd, F_OFD_GETLK, F_WRLCK, SHM_LEASE_BYTE + cpu) == 1;
}
