/*
 * wake.c - waking whoever sleeps until there is an event, without asking the kernel when nobody does.
 *
 *   consumer                              producer
 *   armed |= kind          (seq_cst)      publish the record
 *   look for records again                fence (seq_cst)
 *   sleep in poll() or futex              armed != 0: armed = 0, seq++, write to the pipe, FUTEX_WAKE
 *
 * Either the consumer sees the record or the producer sees it armed. A wake-up takes the arming back, so a consumer costs its producers one system call for
 * each time it slept. A consumer that dies armed costs one in all.
 *
 * The pipe is a FIFO with a name, so that unrelated processes find it: <prefix>.wake/<segment>, made by the consumer. Producers open it for reading too: then
 * a write never raises SIGPIPE and an open never waits. Nothing depends on what stands in it; a full pipe is readable all the same.
 */
#define _GNU_SOURCE
#include "shm/atomic.h"
#include "shmbpf/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

void wake_arm(struct shm_wake *wake, uint32_t kind)
{
	__atomic_fetch_or(&wake->armed, kind, __ATOMIC_SEQ_CST);
}

static int open_pipe(const struct shm_client *me, const char *kind_word, uint32_t id)
{
	char path[256];
	struct stat st;
	int fd;

	if (!me->prefix[0] || snprintf(path, sizeof(path), "/dev/shm/%s.wake/%s.%u", me->prefix, kind_word, id) >= (int)sizeof(path))
		return -EINVAL;
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode) || st.st_uid != geteuid() || st.st_nlink == 0) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

static __attribute__((noinline)) void wake_sleepers(struct shm_wake *wake, struct shm_client *me, const char *kind_word, uint32_t id, int32_t *wake_fd)
{
	uint32_t kinds = __atomic_exchange_n(&wake->armed, 0, __ATOMIC_SEQ_CST);

	if (kinds & WAKE_FUTEX) {
		__atomic_fetch_add(&wake->seq, 1, __ATOMIC_RELEASE);
		shm_wake(&wake->seq, INT_MAX);
	}
	if (!(kinds & WAKE_FD))
		return;
	if (*wake_fd < 0)
		*wake_fd = open_pipe(me, kind_word, id);
	if (*wake_fd >= 0 && write(*wake_fd, "", 1) < 0 && errno != EAGAIN) {
		close(*wake_fd);
		*wake_fd = -1;
	}
}

void wake_up(struct shm_wake *wake, struct shm_client *me, const char *kind_word, uint32_t id, int32_t *wake_fd)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (shm_unlikely(shm_load(&wake->armed)))
		wake_sleepers(wake, me, kind_word, id, wake_fd);
}

int wake_wait(struct shm_wake *wake, uint32_t seen, uint64_t timeout_ns)
{
	int err = shm_load_acquire(&wake->seq) != seen ? 0 : shm_wait(&wake->seq, seen, timeout_ns);

	return err == -EAGAIN ? 0 : err;
}
