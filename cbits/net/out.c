/*
 * out.c - output files: what programs let through, dropped or sent elsewhere, as pcapng that every tool reads.
 *
 *   pass.pcapng   [section header][interface: Ethernet, ns][packet block]...      packet blocks appended by all workers, in 64 KiB writes
 *
 * A file comes into being complete with its header: it is written under another name and linked in; who finds it there already appends. Blocks are appended
 * whole, under flock(2): a write that did not fit (full disk) is cut off again, so the file stays readable whatever happens. Only a worker killed in the
 * middle of write(2) can leave a piece; the next one who writes sees that the file does not end with a packet block, and cuts the piece off.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "out.h"

enum out_sizes {
	OUT_NAME = 32,
	OUT_HEADER = 28 + 32,
	OUT_BLOCK = 32 + 12,          /* packet block without packet bytes: frame, fields, queue option, end of options */
	OUT_FLUSH = 65536,
	OUT_BUFFER = OUT_FLUSH + CAP_MAX_PACKET + 64,
	OUT_ADDRESSES = 12,
	OUT_TAG = 4,
};

struct out_file {
	char name[OUT_NAME];
	int fd;
	uint32_t used;                /* bytes of `buffer` */
	uint32_t packets;             /* in `buffer` */
	uint8_t *buffer;              /* NULL until the first packet */
};

struct net_out {
	int dirfd;
	uint32_t file_cnt;
	uint64_t lost;
	struct out_file file[NET_OUT_FILES];
};

struct net_out *net_out_new(int dirfd)
{
	struct net_out *out = calloc(1, sizeof(*out));

	if (!out)
		return NULL;
	out->dirfd = dirfd;
	return out;
}

uint64_t net_out_lost(const struct net_out *out)
{
	return out->lost;
}

/* ---- making a file ---- */

static uint32_t write_header(uint8_t *at)
{
	static const uint32_t section[] = { 0x0a0d0d0a, 28, 0x1a2b3c4d, 1 /* version 1.0, little end first */, 0xffffffff, 0xffffffff, 28 };
	static const uint32_t interface[] = { 1, 32, CAP_LINK_ETHERNET, 0, 0x00010009 /* if_tsresol, 1 byte */, 9, 0, 32 };

	memcpy(at, section, sizeof(section));
	memcpy(at + sizeof(section), interface, sizeof(interface));
	return sizeof(section) + sizeof(interface);
}

/* Makes `path` with its header in it, all or nothing. 0 also when somebody else was first. */
static int create_file(int dirfd, const char *path)
{
	uint8_t header[OUT_HEADER];
	uint32_t bytes = write_header(header);
	char draft[OUT_NAME + 64];
	ssize_t done;
	int fd, err = 0;

	/* nobody else's draft, nor one that was left behind: that may be the finished file's other name by now */
	snprintf(draft, sizeof(draft), ".%s.%d.%llx", path, (int)gettid(), (unsigned long long)shm_clock_ns(CLOCK_MONOTONIC));
	fd = openat(dirfd, draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return -errno;
	done = write(fd, header, bytes);
	if (done != (ssize_t)bytes)
		err = done < 0 ? -errno : -ENOSPC;
	close(fd);
	if (!err && linkat(dirfd, draft, dirfd, path, 0) && errno != EEXIST) {
		err = -errno;
		/* a file system without hard links (vfat) can still do this */
		if (!renameat2(dirfd, draft, dirfd, path, RENAME_NOREPLACE) || errno == EEXIST)
			err = 0;
	}
	unlinkat(dirfd, draft, 0);
	return err;
}

static int open_file(int dirfd, struct out_file *file)
{
	char path[OUT_NAME + 8];
	int err;

	snprintf(path, sizeof(path), "%s.pcapng", file->name);
	file->fd = openat(dirfd, path, O_RDWR | O_APPEND | O_CLOEXEC);
	if (file->fd < 0 && errno == ENOENT) {
		err = create_file(dirfd, path);
		if (err)
			return err;
		file->fd = openat(dirfd, path, O_RDWR | O_APPEND | O_CLOEXEC);
	}
	return file->fd < 0 ? -errno : 0;
}

/* ---- appending ---- */

/* 1 when the file of `size` bytes ends with a block: its last word is a length, and that far back the same length stands behind a block type of ours. */
static int ends_whole(int fd, off_t size)
{
	uint32_t length, start[2];

	if (size < OUT_HEADER || pread(fd, &length, 4, size - 4) != 4)
		return 0;
	if (length < 12 || length % 4 || (off_t)length > size || pread(fd, start, 8, size - (off_t)length) != 8)
		return 0;
	return start[1] == length && (start[0] == 6 || start[0] == 1);
}

/* Cuts off what a killed worker left behind: walks the blocks to the last whole one. */
static off_t cut_tail(int fd, off_t size)
{
	uint32_t start[2];
	off_t at = 0;

	while (size - at >= 12 && pread(fd, start, 8, at) == 8) {
		if (start[1] < 12 || start[1] % 4 || (off_t)start[1] > size - at)
			break;
		at += start[1];
	}
	if (at < OUT_HEADER)
		return -EILSEQ;   /* not a file of ours: leave it alone */
	return ftruncate(fd, at) ? -errno : at;
}

/* Appends whole blocks or nothing; the lock is released by the caller. */
static int append_locked(struct out_file *file)
{
	struct stat st;
	off_t size;
	uint32_t done = 0;
	ssize_t n;
	int err = 0;

	if (fstat(file->fd, &st))
		return -errno;
	size = ends_whole(file->fd, st.st_size) ? st.st_size : cut_tail(file->fd, st.st_size);
	if (size < 0)
		return (int)size;
	while (done < file->used && !err) {
		n = write(file->fd, file->buffer + done, file->used - done);
		if (n > 0)
			done += (uint32_t)n;
		else if (n == 0 || errno != EINTR)
			err = n == 0 ? -ENOSPC : -errno;
	}
	if (err && ftruncate(file->fd, size))
		return -errno;
	return err;
}

static int flush_file(struct net_out *out, struct out_file *file)
{
	int err = 0;

	if (!file->used)
		return 0;
	if (file->fd < 0)
		err = open_file(out->dirfd, file);
	if (!err) {
		while (flock(file->fd, LOCK_EX) && errno == EINTR)
			;
		err = append_locked(file);
		flock(file->fd, LOCK_UN);
	}
	if (err)
		out->lost += file->packets;
	file->used = 0;
	file->packets = 0;
	return err;
}

int net_out_flush(struct net_out *out)
{
	int err, first = 0;
	uint32_t i;

	for (i = 0; i < out->file_cnt; i++) {
		err = flush_file(out, &out->file[i]);
		if (!first)
			first = err;
	}
	return first;
}

/* ---- packets ---- */

static struct out_file *find_file(struct net_out *out, const char *name)
{
	struct out_file *file;
	uint32_t i;

	for (i = 0; i < out->file_cnt; i++)
		if (!strcmp(out->file[i].name, name))
			return &out->file[i];
	if (out->file_cnt == NET_OUT_FILES || strlen(name) >= OUT_NAME)
		return NULL;
	file = &out->file[out->file_cnt];
	file->buffer = malloc(OUT_BUFFER);   /* untouched pages cost nothing */
	if (!file->buffer)
		return NULL;
	strcpy(file->name, name);
	file->fd = -1;
	out->file_cnt++;
	return file;
}

/* Copies the packet, putting the tag of 4 bytes behind its two addresses. */
static void copy_tagged(uint8_t *at, const uint8_t *bytes, uint32_t caplen, const uint8_t *tag)
{
	memcpy(at, bytes, OUT_ADDRESSES);
	memcpy(at + OUT_ADDRESSES, tag, OUT_TAG);
	memcpy(at + OUT_ADDRESSES + OUT_TAG, bytes + OUT_ADDRESSES, caplen - OUT_ADDRESSES);
}

int out_packet(struct net_out *out, const char *name, const struct out_frame *frame, uint64_t ts_ns, uint32_t cpu)
{
	struct out_file *file = find_file(out, name);
	uint32_t tag = frame->tag && frame->caplen >= OUT_ADDRESSES ? OUT_TAG : 0;
	uint32_t caplen = frame->caplen + tag, len = frame->len < frame->caplen ? caplen : frame->len + tag;
	uint32_t padded = (caplen + 3) & ~3u, block = OUT_BLOCK + padded;
	uint32_t fields[7] = { 6, block, 0, (uint32_t)(ts_ns >> 32), (uint32_t)ts_ns, caplen, len };
	uint32_t options[4] = { 0x00040006 /* epb_queue, 4 bytes */, cpu, 0, block };
	uint8_t *at;

	if (!file || frame->caplen > CAP_MAX_PACKET) {
		out->lost++;
		return file ? -EMSGSIZE : -EMFILE;
	}
	at = file->buffer + file->used;
	memcpy(at, fields, sizeof(fields));
	at += sizeof(fields);
	if (tag)
		copy_tagged(at, frame->bytes, frame->caplen, frame->tag);
	else
		memcpy(at, frame->bytes, caplen);
	memset(at + caplen, 0, padded - caplen);
	memcpy(at + padded, options, sizeof(options));
	file->used += block;
	file->packets++;
	return file->used >= OUT_FLUSH ? flush_file(out, file) : 0;
}

int net_out_packet(struct net_out *out, const char *file, const uint8_t *bytes, uint32_t caplen, uint32_t len, uint64_t ts_ns, uint32_t cpu)
{
	struct out_frame frame = { .bytes = bytes, .caplen = caplen, .len = len };

	return out_packet(out, file, &frame, ts_ns, cpu);
}

void net_out_free(struct net_out *out)
{
	uint32_t i;

	if (!out)
		return;
	net_out_flush(out);
	for (i = 0; i < out->file_cnt; i++) {
		if (out->file[i].fd >= 0)
			close(out->file[i].fd);
		free(out->file[i].buffer);
	}
	free(out);
}
