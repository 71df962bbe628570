/*
 * shm.h - segments, clients, locks: what every process of a namespace agrees on.
 *
 *   a segment (one POSIX shm object)              the namespace's control segment ("ctl")
 *   +--------------------------+ 0                +------------------------+ 0
 *   | data: what Linux's mmap  |                  | slot bytes, one per    |  OFD write locks on file bytes, not content:
 *   |  of the object would show|                  |  client; CPU lease     |  byte i = client slot i,
 *   +--------------------------+ page             |  bytes; create lock    |  SHM_LEASE_BYTE + n = CPU n, ...
 *   | links, states, locks     |                  +------------------------+ page
 *   +--------------------------+ page             | struct shm_slot[]      |
 *   | control block: shm_head  |                  +------------------------+ page
 *   | + the kind's own struct  |                  | struct shm_ctl         |
 *   +--------------------------+ bytes            +------------------------+ bytes
 *
 * Invariants: every segment has its final size and its full content before `magic` is stored (release); it is never resized. Program-writable
 * bytes never share a page with links, locks or the control block. Everything in here is untrusted input to whoever maps it: sizes are copied
 * once into private memory, indexes are checked at each use.
 */
#ifndef SHMBPF_SHM_H
#define SHMBPF_SHM_H

#include "base.h"

enum shm_limits {
	SHM_PAGE = 4096,
	SHM_MAX_CPUS = 256,
	SHM_MAX_CLIENTS = 1024,       /* client slots of a namespace; fits the 11 slot bits of an owner word */
	SHM_LEASE_BYTE = 1024,        /* file byte of CPU 0's lease in the control segment */
	SHM_CREATE_BYTE = 2048,       /* held while an object is created or garbage is collected */
	SHM_RUNTIME_BYTE = 2049,      /* held by the one runtime of the namespace */
	SHM_NAME_BYTES = 16,          /* BPF_OBJ_NAME_LEN */
	SHM_NO_CPU = 0xffff,          /* shm_client.cpu of a process that holds no CPU lease */
	SHM_PREFIX_BYTES = 128,
};

enum shm_kind {
	SHM_KIND_CTL = 1,
	SHM_KIND_MAP = 2,
	SHM_KIND_PROG = 3,
	SHM_KIND_RING = 4,
	SHM_KIND_LINK = 5,
	SHM_KIND_DEV = 6,             /* receive queues of a virtual device */
	SHM_KIND_RUN = 7,             /* per-CPU statistics and the fault log of a runtime */
};

/* The first 128 bytes of a control block, which is the last page of its segment. Written once, before `magic`. */
struct shm_head {
	uint64_t magic;               /* SHM magic number, stored last (release); 0 = being made */
	uint64_t abi;                 /* layout fingerprint of the build that made it */
	uint64_t bytes;               /* size of the whole file */
	uint64_t created_ns;          /* CLOCK_BOOTTIME */
	uint32_t kind;                /* enum shm_kind */
	uint32_t type;                /* map type, program type, ...: the kind's own number */
	uint32_t id;                  /* unique in its kind and namespace, never reused */
	uint32_t ncpu;                /* possible CPUs of the namespace when made */
	uint32_t uid;                 /* creator */
	uint32_t ctl_bytes;           /* size of this control block: SHM_PAGE */
	char name[16];                /* NUL-terminated */
	uint64_t reserved[7];
};

/* One client of the namespace: a process, or a worker. The slot is alive while somebody holds an OFD write lock on its file byte. */
struct shm_slot {
	uint32_t gen;                 /* incremented at each attach; 20 bits used; owner words of earlier generations are dead */
	uint32_t pid;                 /* for messages only */
	uint32_t cpu;                 /* leased CPU or SHM_NO_CPU */
	uint32_t reserved;
	uint64_t start_ns;            /* CLOCK_BOOTTIME of the attach */
	char role[16];                /* "cpu 2", "supervisor", "map dump" */
	uint64_t pad[3];
};

/* The namespace's control block. */
struct shm_ctl {
	struct shm_head head;
	uint32_t possible_cpus;       /* 0 = not fixed yet; per-CPU objects have one slot for each */
	uint32_t next_map_id;         /* next ids to give, atomic fetch-add, never reused */
	uint32_t next_prog_id;
	uint32_t next_btf_id;
	uint32_t next_link_id;
	uint32_t next_other_id;
	uint32_t runtime_pid;         /* supervisor holding SHM_RUNTIME_BYTE, for messages */
	uint32_t run_id;              /* id of its SHM_KIND_RUN segment */
	uint64_t deaths;              /* clients found dead while holding a lock */
	uint64_t pad[4];
};

/*
 * A lock word: 0 = free, else (waiters:1 | slot+1:11 | generation:20). The low 31 bits are the owner id. It protects what its structure says;
 * it is stolen only from the dead, and who steals runs the structure's recover() before going on. Order: bucket, then free list; never two of a kind.
 */
enum shm_owner_bits {
	SHM_OWNER_GEN_BITS = 20,
	SHM_OWNER_SLOT_BITS = 11,
};

/*
 * Elements of a pool (hash tables): where each one is. A pool has one free list for each CPU and one more for clients without a CPU; beside its chain a list
 * keeps one spare, which only a replacement may use, so replacing never fails when the map is full and max_entries is exact.
 *
 *   FREE(list) --pop--> OWNED(client) --reachable--> LINKED --about to be unlinked--> OWNED(client) --put--> FREE(list)
 *
 * OWNED brackets every moment in which reachability may change; LINKED is written only while the element is certainly reachable. State values below
 * SHM_ELEM_LIMIT are these; others are owner ids.
 */
enum shm_elem_state {
	SHM_ELEM_LINKED = 1,
	SHM_ELEM_FREE = 0x1000,       /* + list */
	SHM_ELEM_SPARE = 0x2000,      /* + list */
	SHM_ELEM_LIMIT = 0x100000,    /* the smallest owner id: slot 0, generation 0 */
};

struct shm_link {
	uint32_t state;
	uint32_t next;                /* next of its chain, or 0x80000000 | bucket at the end; kept while free, so late readers still find their way */
	uint32_t hash;                /* hash of the key; while FREE: next of its free list */
	uint32_t seq;                 /* odd while key and value are being written */
};

struct shm_bucket {
	uint32_t lock;                /* protects the chain and all values reached through it against replacement */
	uint32_t head;                /* first element, or 0x80000000 | bucket */
};

struct shm_freelist {
	uint32_t lock;                /* protects this struct and every element in state FREE(list) or SPARE(list); taken after a bucket's lock */
	uint32_t head;                /* first free element, 0xffffffff = empty */
	uint32_t spare;               /* element in state SPARE(list), 0xffffffff = lost to a death */
	uint32_t hint;                /* list from which elements were taken last when this one was empty */
	uint32_t puts;                /* elements ever put in; tells a scan of all lists that it has missed one */
	uint32_t pad[11];
};

/* Process-private: this process's (or this worker's) place in a namespace. Never shared with a forked child: the child attaches anew. */
struct shm_client {
	uint8_t *base;                /* the mapped control segment */
	struct shm_ctl *ctl;
	struct shm_slot *slots;
	int32_t fd;                   /* own file description of the control segment: carries the OFD locks */
	uint32_t slot;
	uint32_t owner;               /* owner id for lock words: slot+1 and generation */
	uint32_t cpu;                 /* leased CPU, or SHM_NO_CPU */
	uint32_t ncpu;                /* possible CPUs */
	uint32_t pid;                 /* getpid() at attach: a mismatch means "inherited over fork" */
	uint64_t busy_ns;             /* how long to wait for a live owner before -EBUSY (default 250 ms) */
	uint64_t steals;              /* locks taken over from the dead */
	uint32_t blocker;             /* owner word behind the last -EBUSY: shm_owner_pid() names it */
	uint32_t reserved;
	char prefix[128];             /* "shmbpf.<uid>.<ns>": of segments opened by id; set after attaching, empty = none can be */
};

/*
 * Makes a client of the control segment behind `fd`: opens it anew (`fd` stays the caller's and may be closed), locks a free slot, and CPU `cpu` unless
 * SHM_NO_CPU. -EUSERS: no free slot; -EBUSY: the CPU is leased. After a fork the child's copy of `me` is dead: every lock gives -ECHILD until it attaches anew.
 * `me` stays at its address, and is detached before its memory goes: the fork handler writes to it.
 */
int shm_client_attach(struct shm_client *me, int fd, uint64_t bytes, uint32_t cpu, const char *role);
void shm_client_detach(struct shm_client *me);
/* 1 while the owner word's process lives, 0 when it is dead (exact, never a guess by time). */
int shm_owner_alive(struct shm_client *me, uint32_t owner);
/* PID behind an owner word, 0 when unknown; for messages. */
uint32_t shm_owner_pid(const struct shm_client *me, uint32_t owner);
/* 1 when CPU n's lease is held by a live process. */
int shm_cpu_leased(struct shm_client *me, uint32_t cpu);

/* 0: locked. 1: locked, taken over from a dead owner: recover the structure first. -EBUSY: a live owner kept it. -EDEADLK: it is ours already. -ECHILD: see attach. */
int shm_lock(struct shm_client *me, uint32_t *word);
/* As shm_lock, but gives -EBUSY at once when a live owner has it. */
int shm_trylock(struct shm_client *me, uint32_t *word);
void shm_unlock(struct shm_client *me, uint32_t *word);

/* Segment plumbing. `fd` is an open description of a shm object of `bytes`; the mapping keeps its flock. */
int shm_map_fd(int fd, uint64_t bytes, int writable, uint8_t **base);
void shm_unmap(uint8_t *base, uint64_t bytes);
/* Opens /dev/shm/<name>, takes flock(LOCK_SH), checks owner, mode, size, magic, ABI and kind. Returns the fd or -errno. */
int shm_open_segment(const char *name, uint32_t kind, uint8_t **base, uint64_t *bytes);
/* Checks the head of a mapped segment; copies it to `out`. 0, -EAGAIN (not published), -EPROTO (other ABI), -EINVAL. */
int shm_check_head(const uint8_t *base, uint64_t bytes, uint32_t kind, struct shm_head *out);
/* Fills the head and stores the magic last. */
void shm_publish(struct shm_head *head);
uint64_t shm_abi_fingerprint(void);
uint64_t shm_magic(void);
uint32_t shm_new_id(uint32_t *counter);
/* Size of a control segment, and its initialisation in fresh zeroed memory. */
uint64_t shm_ctl_bytes(void);
void shm_ctl_init(uint8_t *base, uint64_t bytes);
struct shm_ctl *shm_ctl_of(uint8_t *base, uint64_t bytes);

uint64_t shm_clock_ns(int32_t clock_id);

/* From now on this process survives the truncation of a file it has mapped: pages that are gone read as zeros and are counted. 0 or -errno. */
int shm_guard_bus(void);
uint64_t shm_bus_errors(void);

/* futex on a word of shared memory; 0, -ETIMEDOUT, -EAGAIN, -EINTR. */
int shm_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns);
int shm_wake(uint32_t *word, int32_t count);

/* Kill points (builds with SHMBPF_POINTS only): SIGKILL ourselves at the n-th pass of the named point. -ENOSYS in release builds. */
int shm_point_arm(const char *name, uint64_t nth);
uint64_t shm_point_hits(void);
/* Name of the i-th known point, NULL past the end. */
const char *shm_point_name(uint32_t index);

#endif
