/*
 * ring.h - event rings: the perf ring a consumer puts into a slot of a perf event array, and what wakes whoever waits for events.
 *
 * A perf ring is a segment of its own (kind RING), made by its consumer for one CPU:
 *
 *   +--------------------------------+ 0
 *   | struct perf_event_mmap_page    |   exactly what Linux's mmap of a perf event shows: a reader written for it maps 1 + 2^n pages of the file and finds
 *   +--------------------------------+ page   its way. The consumer may write these two parts; the producer trusts nothing in them.
 *   | data, 2^n pages                |
 *   +--------------------------------+
 *   | struct shm_wake                |   both sides: who waits
 *   +--------------------------------+
 *   | struct shm_ring                |   the producer's: head, counters. Written by the holder of the CPU's lease alone
 *   +--------------------------------+ bytes
 *
 * One producer, the CPU; so no lock. Its state exists twice; a record is committed by one store that says which of the two holds, so head and counters always
 * agree and a death leaves either the whole record or nothing of it. data_head is published after that, from the state: whoever writes next repairs it.
 */
#ifndef SHMBPF_RING_H
#define SHMBPF_RING_H

#include "shm.h"

enum ring_limits {
	RING_MAX_PAGES = 65536,       /* data pages: 256 MiB */
	RING_RECORD_MAX = 65528,      /* the header's size is 16 bits, a multiple of 8 */
	RING_PAYLOAD_MAX = 65516,     /* largest payload of a record with nothing but PERF_SAMPLE_RAW */
};

/* UAPI (include/uapi/linux/perf_event.h): the first page. Times and counts of hardware events are 0 here. */
struct perf_event_mmap_page {
	uint32_t version;
	uint32_t compat_version;
	uint32_t lock;
	uint32_t index;
	int64_t offset;
	uint64_t time_enabled;
	uint64_t time_running;
	uint64_t capabilities;        /* bit 1: bit 0 says nothing */
	uint16_t pmc_width;
	uint16_t time_shift;
	uint32_t time_mult;
	uint64_t time_offset;
	uint64_t time_zero;
	uint32_t size;                /* bytes of the fields up to here and their successors: 96 */
	uint32_t reserved_1;
	uint64_t time_cycles;
	uint64_t time_mask;
	uint8_t reserved[928];
	uint64_t data_head;           /* bytes ever produced (counted downwards with RING_BACKWARD); producer */
	uint64_t data_tail;           /* bytes ever consumed; consumer */
	uint64_t data_offset;
	uint64_t data_size;
	uint64_t aux_head;
	uint64_t aux_tail;
	uint64_t aux_offset;
	uint64_t aux_size;
};

struct perf_event_header {
	uint32_t type;                /* enum perf_event_type */
	uint16_t misc;
	uint16_t size;                /* bytes, this header included */
};

enum perf_event_type { PERF_RECORD_LOST = 2, PERF_RECORD_SAMPLE = 9 };

enum perf_event_sample_format {
	PERF_SAMPLE_IP = 0x1,
	PERF_SAMPLE_TID = 0x2,
	PERF_SAMPLE_TIME = 0x4,
	PERF_SAMPLE_ADDR = 0x8,
	PERF_SAMPLE_ID = 0x40,
	PERF_SAMPLE_CPU = 0x80,
	PERF_SAMPLE_PERIOD = 0x100,
	PERF_SAMPLE_STREAM_ID = 0x200,
	PERF_SAMPLE_RAW = 0x400,
	PERF_SAMPLE_IDENTIFIER = 0x10000,
};

/* Bits of ring_attr.flags: what perf_event_attr and the kind of mapping decide on Linux. */
enum ring_flags {
	RING_WATERMARK = 1,           /* `wakeup` is bytes, not events */
	RING_SAMPLE_ID_ALL = 2,       /* LOST records carry TID, TIME, ID, ... too */
	RING_BACKWARD = 4,            /* write_backward */
	RING_OVERWRITE = 8,           /* the read-only mapping: data_tail does not count, old records are overwritten */
	RING_DISABLED = 16,           /* made disabled: output fails until it is enabled */
};

/* What perf_event_open(PERF_COUNT_SW_BPF_OUTPUT) and mmap are told. */
struct ring_attr {
	uint64_t sample_type;         /* enum perf_event_sample_format */
	uint32_t cpu;                 /* the CPU that may write */
	uint32_t pages;               /* of data, a power of two */
	uint32_t wakeup;              /* wake after so many events, or bytes; 0 = when half of the ring is unread */
	uint32_t flags;               /* enum ring_flags */
	uint64_t reserved;
};

/* Who waits. Producers look at `armed` after they have published, waiters set it before they look for the last time: one of them sees the other. */
struct shm_wake {
	uint32_t armed;               /* enum wake_kind bits of sleeping consumers; taken back by the producer that wakes them */
	uint32_t seq;                 /* futex word, incremented at each wake-up */
	uint64_t pad[7];
};

enum wake_kind {
	WAKE_FD = 1,                  /* by a byte in the pipe <prefix>.wake/<segment>, which polls readable then */
	WAKE_FUTEX = 2,               /* by futex on `seq` */
};

/* One of the two states. Whole after each commit. */
struct ring_state {
	uint64_t head;                /* bytes produced; the ring position of the next record */
	uint64_t sent;                /* records that are or were in the ring, LOST records not counted */
	uint64_t lost_told;           /* of `lost`, how many a LOST record has told of */
	uint64_t wakeup;              /* as struct perf_buffer's */
	uint64_t events;              /* since the last wake-up by count */
	uint64_t pad[3];
};

struct shm_ring {
	struct shm_head head;
	struct ring_attr attr;        /* immutable */
	uint32_t state_now;           /* 0 or 1: which of `state` holds; the store that commits */
	uint32_t paused;              /* PERF_EVENT_IOC_PAUSE_OUTPUT; consumer */
	uint32_t enabled;             /* consumer */
	uint32_t unmapped;            /* 1: the consumer has let go; nobody will read */
	uint32_t consumer;            /* owner word of who made it */
	uint32_t reserved;
	uint64_t lost;                /* records that did not fit, ever; producer, only grows */
	struct ring_state state[2];
};

/* A ring as one process sees it, producer or consumer. */
struct ring {
	uint8_t *base;
	uint64_t bytes;
	struct perf_event_mmap_page *page;
	uint8_t *data;
	uint64_t data_bytes;
	struct shm_wake *wake;
	struct shm_ring *ctl;
	struct ring_attr attr;        /* a private copy */
	uint32_t id;
	int32_t fd;                   /* of the segment, -1 = not ours to close */
	int32_t wake_fd;              /* of the pipe, -1 = not open */
	uint32_t reserved;
	uint64_t broken;              /* consumer: times the data made no sense and was skipped */
};

/* What goes into a record: `data` and then `extra`, the appended packet bytes. */
struct ring_sample {
	const uint8_t *data;
	uint64_t data_bytes;
	const uint8_t *extra;
	uint64_t extra_bytes;
	uint32_t pid;                 /* of the CPU's process, for PERF_SAMPLE_TID */
	uint32_t cpu;
};

/* One record read. `off` is in the reader's buffer. */
struct ring_record {
	uint32_t type;                /* enum perf_event_type */
	uint32_t cpu;                 /* of the ring */
	uint64_t time_ns;             /* CLOCK_MONOTONIC; 0 without PERF_SAMPLE_TIME */
	uint64_t lost;                /* LOST: how many */
	uint64_t off;                 /* payload, padding included, as on Linux */
	uint32_t bytes;
	uint32_t misc;
};

/* 0, or -EINVAL: pages are no power of two or too many, unknown sample type bits, unknown flags. -ENODEV: cpu >= ncpu. */
int ring_plan(const struct ring_attr *attr, uint32_t ncpu, uint64_t *bytes);
/* Initialises and publishes a ring in a fresh zeroed mapping. */
int ring_format(uint8_t *base, uint64_t bytes, const struct ring_attr *attr, uint32_t ncpu, uint32_t id, uint32_t consumer);
/* Opens a mapped, published segment. -EINVAL when sizes disagree. */
int ring_attach(struct ring *ring, uint8_t *base, uint64_t bytes);
/* By id, through me->prefix; `fd` and mapping are the ring's. ring_close undoes it. */
int ring_open(struct ring *ring, struct shm_client *me, uint32_t id);
void ring_close(struct ring *ring);

/*
 * Writes one record; only for the holder of the CPU's lease. Linux v6.12 kernel/trace/bpf_trace.c, __bpf_perf_event_output():
 * -EOPNOTSUPP: another CPU's or disabled; -ENOSPC: no room, paused, unmapped (the loss is counted); and -E2BIG for a record over RING_RECORD_MAX, where Linux
 * corrupts its ring.
 */
int ring_output(struct ring *ring, struct shm_client *me, const struct ring_sample *sample);
uint64_t ring_sent(const struct ring *ring);
uint64_t ring_lost(const struct ring *ring);

/*
 * Reads and consumes up to `room` records as far as their payloads fit `buffer`; the number read. Of a RING_OVERWRITE | RING_BACKWARD ring: the newest first,
 * nothing is consumed. -EOPNOTSUPP: overwritten forwards, no record boundary is known.
 */
int ring_read(struct ring *ring, struct ring_record *records, uint32_t room, uint8_t *buffer, uint64_t buffer_bytes);
/* Whole unread records in one piece, headers included: *bytes of them at *start (in the ring, or in `bounce` when one wraps: 65,536 bytes). 0: nothing unread. */
int ring_peek(struct ring *ring, uint8_t *bounce, const uint8_t **start, uint64_t *bytes);
void ring_consume(struct ring *ring, uint64_t bytes);
/* Unread bytes. */
uint64_t ring_unread(const struct ring *ring);

/* Says who waits; 1: there is something already (or was: do not sleep). `unread` is asked after arming. */
void wake_arm(struct shm_wake *wake, uint32_t kind);
/* Producer, after publishing. `wake_fd` is opened through me->prefix and `name` ("ring.7") when first needed. */
void wake_up(struct shm_wake *wake, struct shm_client *me, const char *kind_word, uint32_t id, int32_t *wake_fd);
/* Waits on the futex until the sequence differs from `seen`. 0, -ETIMEDOUT, -EINTR. */
int wake_wait(struct shm_wake *wake, uint32_t seen, uint64_t timeout_ns);

int ring_check(struct ring *ring, char *why, uint32_t why_bytes);
/* Publishes what a dead producer had committed; 1 = something was repaired. Only for the holder of the CPU's lease, or when nobody holds it. */
int ring_recover(struct ring *ring);

/* ---- slots of a perf event array (cbits/maps/perf_event_array.c) --------------------------------------------------------------------------- */

struct map;

/* A slot's ring id, 0 = empty. A slot whose setter has died counts as empty and is emptied, unless the map preserves elements. */
uint32_t perf_array_slot(struct map *map, struct shm_client *me, uint32_t index);
/* The ring in a slot, opened when first needed and kept open until the slot changes. NULL with *error: -E2BIG (index), -ENOENT (empty). */
struct ring *perf_array_ring(struct map *map, struct shm_client *me, uint32_t index, int *error);
/* Empties the slots whose setters are dead; how many. */
uint32_t perf_array_sweep(struct map *map, struct shm_client *me);
/* Empties the slot if it still holds this ring, set by this client. */
void perf_array_withdraw(struct map *map, struct shm_client *me, uint32_t index, uint32_t ring_id);

#endif
