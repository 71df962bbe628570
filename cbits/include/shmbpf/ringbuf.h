/*
 * ringbuf.h - BPF ring buffers (BPF_MAP_TYPE_RINGBUF: programs to user space) and user ring buffers (BPF_MAP_TYPE_USER_RINGBUF: user space to programs).
 *
 *   +--------------------------------+ 0
 *   | consumer_pos                   |   written by the consumer; producers read it once for each decision and trust it for nothing but room
 *   +--------------------------------+ 4096
 *   | producer_pos, pending_pos      |   written by producers, under the lock
 *   +--------------------------------+ 8192
 *   | data, max_entries bytes        |   records; programs reach those they have reserved, nothing else in here
 *   +--------------------------------+ page
 *   | struct shm_ringbuf             |   lock, state, counters, who waits: no bytes of Linux's
 *   +--------------------------------+
 *
 * The first three parts are byte for byte what Linux shows at the same mmap offsets. Linux also shows the data a second time behind itself, so that no
 * record wraps; a file cannot repeat its pages, so whoever opens the map maps the data pages twice. A reader that only knows the public protocol does the
 * same with the segment's file: one page at 0 (writable), one at 4096, `max_entries` bytes at 8192, and those again behind them.
 *
 * A record is {u32 len, u32 second} and its payload, padded to 8 bytes. `len` has BPF_RINGBUF_BUSY_BIT from reserve to commit, `second` holds the owner word of
 * who has reserved it meanwhile, then what Linux keeps there (the record's distance in pages from the ring). Both change in one 8-byte store.
 */
#ifndef SHMBPF_RINGBUF_H
#define SHMBPF_RINGBUF_H

#include "map.h"
#include "ring.h"

/* UAPI. */
enum bpf_ringbuf_header {
	BPF_RINGBUF_HDR_SZ = 8,
	BPF_RINGBUF_DISCARD_BIT = 0x40000000,
	BPF_RINGBUF_BUSY_BIT = 0x80000000,
};

enum bpf_ringbuf_flags { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };

enum bpf_ringbuf_query { BPF_RB_AVAIL_DATA = 0, BPF_RB_RING_SIZE = 1, BPF_RB_CONS_POS = 2, BPF_RB_PROD_POS = 3 };

enum ringbuf_layout {
	RINGBUF_PRODUCER_OFF = 4096,
	RINGBUF_DATA_OFF = 8192,
	RINGBUF_MAX_SAMPLE = 0x3fffffff,  /* UINT_MAX / 4 */
	RINGBUF_PAGE_OFF = 3,             /* `second` of records in the first data page */
	RINGBUF_ABORTED = 0x20000000,     /* in `second` of a discarded record: its producer died before it committed */
	USER_RINGBUF_MAX_SAMPLES = 131072,  /* BPF_MAX_USER_RINGBUF_SAMPLES: of one drain */
	USER_RINGBUF_MAX_SAMPLE = 0xffffff,  /* what a dynptr can hold */
};

/* Bits of shm_wake.armed besides enum wake_kind. */
enum ringbuf_wake_bits {
	RINGBUF_WAKE_STALLED = 0x100, /* the sleeper knows of the open record at the head: told when that is finished, whatever the flags say */
};

/* What producers agree on; replaced as a whole by the store of `state_now`. */
struct ringbuf_state {
	uint64_t prod;                /* producer_pos; the word in the producer page follows */
	uint64_t pending;             /* start of the oldest record not yet seen finished; everything before it is counted below */
	uint64_t sent;                /* committed records before `pending` */
	uint64_t aborted;             /* records before `pending` whose producers died */
};

struct shm_ringbuf {
	uint32_t lock;                /* protects the other state, the headers from `prod` on, and the producer page */
	uint32_t state_now;           /* 0 or 1: which state holds */
	uint64_t lost;                /* records that found no room; atomic */
	uint32_t drain;               /* user ring buffers: lock word of who drains, who alone writes consumer_pos and the next two */
	uint32_t reserved;
	uint64_t drained;             /* user ring buffers: samples shown to programs */
	uint64_t drain_aborted;       /* user ring buffers: samples of dead producers passed over */
	uint64_t pad[3];
	struct ringbuf_state state[2];
	struct shm_wake wake;         /* ring buffers: consumers; user ring buffers: producers that wait for room */
};

struct ringbuf_counts {
	uint64_t sent;                /* committed, not discarded. User ring buffers: shown to programs */
	uint64_t lost;
	uint64_t aborted;
};

/*
 * Room for `size` bytes that nobody sees before ringbuf_commit(); NULL: no room (counted as lost). Never blocks on a slow producer or consumer. In a map
 * of another type: NULL.
 */
uint8_t *ringbuf_reserve(struct map *map, struct shm_client *me, uint64_t size);
/* Ends a reservation: shows the record (or a gap that readers skip), and wakes by Linux's rules (enum bpf_ringbuf_flags). */
void ringbuf_commit(struct map *map, struct shm_client *me, uint8_t *sample, uint64_t flags, uint32_t discard);
/* Both in one. -EINVAL: unknown flags. -EAGAIN: no room. */
int ringbuf_output(struct map *map, struct shm_client *me, const void *data, uint64_t size, uint64_t flags);
/* enum bpf_ringbuf_query; 0 for another number. */
uint64_t ringbuf_query(const struct map *map, uint64_t what);
/* Exact, whoever died when. -EBUSY: a live producer kept the lock. */
int ringbuf_count(struct map *map, struct shm_client *me, struct ringbuf_counts *counts);
/* Who waits for this map; NULL for other types. */
struct shm_wake *ringbuf_wake_of(const struct map *map);

/*
 * Consumer, of which a ring has one at a time. Reads and consumes up to `room` records as far as their payloads fit `buffer`; the number read. Discarded records are
 * skipped, a head reserved by the dead is discarded. -ENOSPC: the next one alone needs more than `buffer_bytes`. -EUCLEAN: consumer_pos (or a header) made no sense;
 * unread records are skipped, the next call goes on.
 */
int ringbuf_read(struct map *map, struct shm_client *me, struct ring_record *records, uint32_t room, uint8_t *buffer, uint64_t buffer_bytes);
/* Finished records in one piece, headers and discarded ones included: up to `limit` bytes (at least one record) at *start. Their number of bytes, 0, or as above. */
int64_t ringbuf_peek(struct map *map, struct shm_client *me, uint64_t limit, const uint8_t **start);
/* Gives back what ringbuf_peek() has shown. */
void ringbuf_consume(struct map *map, uint64_t bytes);
/* Bytes between the two positions, open and discarded records included: what makes poll() say POLLIN on Linux. */
uint64_t ringbuf_unread(const struct map *map);
/* 1: the next record is reserved and not committed. Its producer may die and wake nobody: a waiter looks again after some milliseconds. */
uint32_t ringbuf_stalled(const struct map *map);
/* A descriptor that polls readable `ns` nanoseconds after it was set (0: never), for such a waiter. Closed with close(2). */
int ringbuf_alarm_open(void);
int ringbuf_alarm_set(int fd, uint64_t ns);

/* Producer in user space, any number of them. -ENOSPC: no room now. -E2BIG: never. -EUCLEAN: the positions make no sense. -EBUSY: a live producer kept the lock. */
int user_ringbuf_write(struct map *map, struct shm_client *me, const void *data, uint64_t size);
/* Free bytes; a sample takes 8 more than its size, rounded up to 8. */
uint64_t user_ringbuf_room(const struct map *map);
/* bpf_user_ringbuf_drain(): -EBUSY: somebody else drains. */
int user_ringbuf_begin(struct map *map, struct shm_client *me);
/* The next sample. -ENODATA: no more; -EAGAIN: passed over a discarded one; -EINVAL, -E2BIG: its producer has written nonsense. */
int user_ringbuf_next(struct map *map, struct shm_client *me, uint8_t **sample, uint32_t *size);
/* Gives back the sample shown last. */
void user_ringbuf_release(struct map *map, uint32_t size);
void user_ringbuf_end(struct map *map, struct shm_client *me, uint32_t wake);

#endif
