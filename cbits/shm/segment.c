/*
 * segment.c - mapping and opening of segments.
 *
 * Names live in a sticky directory that everybody may write: whatever is found under a name is checked before it is used. An opener first takes
 * flock(LOCK_SH), which keeps garbage collectors away, and then looks whether the name still is the file's.
 */
#define _GNU_SOURCE
#include "shmbpf/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int shm_map_fd(int fd, uint64_t bytes, int writable, uint8_t **base)
{
	void *at;

	if (bytes == 0 || bytes % SHM_PAGE || bytes > SIZE_MAX / 2)
		return -EINVAL;
	at = mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	/* where shmem may use huge pages on advice, a map of millions of entries saves its TLB misses; elsewhere this does nothing */
	if (bytes >= 4u << 20)
		madvise(at, bytes, MADV_HUGEPAGE);
	*base = at;
	return 0;
}

void shm_unmap(uint8_t *base, uint64_t bytes)
{
	if (base)
		munmap(base, bytes);
}

/* Is the open file what we would have made ourselves? */
static int check_file(int fd, uint64_t *bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_uid != geteuid() || st.st_mode & 077)
		return -EPERM;
	if (st.st_nlink == 0)
		return -ENOENT;
	if (st.st_size < SHM_PAGE || st.st_size % SHM_PAGE)
		return -EINVAL;
	*bytes = (uint64_t)st.st_size;
	return 0;
}

static int open_name(const char *name, uint64_t *bytes)
{
	char path[256];
	int fd, err;

	if (name[0] == '/')
		name++;
	if (strchr(name, '/') || snprintf(path, sizeof(path), "/dev/shm/%s", name) >= (int)sizeof(path))
		return -EINVAL;
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	/* a collector that looks at it has the exclusive lock for a moment; if it decides to unlink it, check_file() sees that */
	while ((err = flock(fd, LOCK_SH) < 0 ? -errno : 0) == -EINTR)
		;
	if (!err)
		err = check_file(fd, bytes);
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int shm_open_segment(const char *name, uint32_t kind, uint8_t **base, uint64_t *bytes)
{
	struct shm_head head;
	int fd, err;

	fd = open_name(name, bytes);
	if (fd < 0)
		return fd;
	err = shm_map_fd(fd, *bytes, 1, base);
	if (!err) {
		err = shm_check_head(*base, *bytes, kind, &head);
		if (err)
			shm_unmap(*base, *bytes);
	}
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}
