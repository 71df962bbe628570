/*
 * map.h - the generic map: one C function per operation, called alike by the interpreter, by compiled programs and by Python.
 *
 * The segment of a map:
 *
 *   +----------------------------------+ 0
 *   | values (and keys): the bytes a   |   array: exactly what mmap of a BPF_F_MMAPABLE array shows
 *   |  program may touch               |   per-CPU types: one block per CPU, page-aligned, so CPUs share no cache line
 *   +----------------------------------+ page
 *   | links: states, next, buckets,    |   never program-writable
 *   |  free lists, their lock words    |
 *   +----------------------------------+ page
 *   | BTF of key and value (optional)  |   a self-contained BTF blob, immutable
 *   +----------------------------------+ page
 *   | struct shm_map                   |
 *   +----------------------------------+ bytes
 *
 * All offsets follow from (type, key_size, value_size, max_entries, flags, ncpu, btf_bytes) alone; an opener recomputes them and requires the file size to agree.
 */
#ifndef SHMBPF_MAP_H
#define SHMBPF_MAP_H

#include "shm.h"

enum map_cap {
	MAP_CAP_PERCPU = 1,           /* one value per CPU */
	MAP_CAP_INDEXED = 2,          /* key is a u32 index; every index exists */
	MAP_CAP_VALUE_PTR = 4,        /* lookup gives programs a pointer to the value */
	MAP_CAP_SPIN_LOCK = 8,        /* values may hold a struct bpf_spin_lock */
	MAP_CAP_LOOKUP_DELETE = 16,
	MAP_CAP_BATCH_DELETE = 32,
	MAP_CAP_HOLDS_PROGS = 64,     /* values are program ids */
	MAP_CAP_HOLDS_RINGS = 128,    /* values are ids of perf rings */
	MAP_CAP_RINGBUF = 256,        /* records from programs to user space */
	MAP_CAP_USER_RINGBUF = 512,   /* records from user space to programs */
};

/* UAPI: flags of map creation and of element operations. */
enum bpf_map_flags {
	BPF_F_NO_PREALLOC = 0x1,
	BPF_F_NO_COMMON_LRU = 0x2,
	BPF_F_NUMA_NODE = 0x4,
	BPF_F_RDONLY = 0x8,
	BPF_F_WRONLY = 0x10,
	BPF_F_STACK_BUILD_ID = 0x20,
	BPF_F_ZERO_SEED = 0x40,
	BPF_F_RDONLY_PROG = 0x80,
	BPF_F_WRONLY_PROG = 0x100,
	BPF_F_CLONE = 0x200,
	BPF_F_MMAPABLE = 0x400,
	BPF_F_PRESERVE_ELEMS = 0x800,
	BPF_F_INNER_MAP = 0x1000,
};

enum bpf_elem_flags {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
	BPF_F_LOCK = 4,
};

/* What BPF_MAP_CREATE is given. */
struct map_attr {
	uint32_t type;
	uint32_t key_size;            /* bytes */
	uint32_t value_size;          /* bytes */
	uint32_t max_entries;
	uint32_t flags;               /* enum bpf_map_flags */
	uint32_t ncpu;                /* possible CPUs of the namespace */
	uint64_t map_extra;
	uint32_t btf_id;              /* 0 = no type information */
	uint32_t btf_key_type_id;
	uint32_t btf_value_type_id;
	uint32_t btf_bytes;           /* size of the BTF blob kept in the segment */
	uint32_t spin_lock_off;       /* offset of struct bpf_spin_lock in the value, MAP_NO_SPIN_LOCK = none */
	uint32_t reserved;
	char name[16];
};

enum map_limits {
	MAP_NO_SPIN_LOCK = 0x7fffffff,
	MAP_AREAS = 6,                /* areas of a layout; 0 = values (at file offset 0) */
};

/* Where everything is, in bytes from the start of the segment. Derived, never stored. */
struct map_layout {
	uint64_t off[6];              /* type-private areas; off[0] == 0 is what programs may touch */
	uint64_t bytes[6];
	uint64_t btf_off;
	uint64_t ctl_off;
	uint64_t total;
};

/* Control block of a map segment. */
struct shm_map {
	struct shm_head head;
	struct map_attr attr;         /* immutable */
	uint32_t frozen;              /* 1: no more writes from the syscall side (BPF_MAP_FREEZE); atomic */
	uint32_t seed;                /* of the hash function; immutable */
	uint32_t owner_prog_type;     /* program arrays: fixed by the first program stored (type + 1); atomic */
	uint32_t owner_attach_type;
	uint64_t recovered;           /* structures repaired after a death */
	uint64_t swept;               /* elements returned to the free lists after a death */
	uint32_t spares_missed;       /* hash: how often a free list was found without its spare, which had died with somebody; atomic, only grows */
	uint32_t spares_filled;       /* hash: `spares_missed` when all lists had theirs again; while they differ nothing is inserted */
	uint64_t pad[3];
};

struct map;

/* The operations of one map type. Buffers are checked by the caller; sizes are the map's. Errors are -errno, as bpf(2) and the helpers give them. */
struct map_ops {
	const char *name;             /* bpftool's word: "percpu_hash" */
	uint32_t type;
	uint32_t caps;                /* enum map_cap */
	int (*alloc_check)(const struct map_attr *attr);                       /* Linux's errno for a bad map_create */
	int (*layout)(const struct map_attr *attr, struct map_layout *out);    /* bytes[] of the areas, overflow-checked; map.c places them */
	void (*init)(struct map *map);                                         /* fresh zeroed segment -> empty map */
	int (*open)(struct map *map);                                          /* handle fields of this type from the layout */
	void (*close)(struct map *map);                                        /* undoes what open() and later use made in this process; NULL: nothing */
	/* program side: pointer to the running CPU's value or NULL */
	void *(*lookup)(struct map *map, struct shm_client *me, const void *key);
	void *(*lookup_cpu)(struct map *map, struct shm_client *me, const void *key, uint32_t cpu);
	int (*update)(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags);
	int (*remove)(struct map *map, struct shm_client *me, const void *key);
	/* syscall side: values are map_value_bytes() long */
	int (*copy)(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
	int (*store)(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags);
	int (*take)(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
	int (*next_key)(struct map *map, struct shm_client *me, const void *key, void *next);
	/* NULL: no batches (524). Fills keys and values from *position on; and_delete removes what it returns */
	int (*batch)(struct map *map, struct shm_client *me, uint32_t start, uint64_t *position, void *keys, void *values, uint32_t *count, uint64_t elem_flags, uint32_t and_delete);
	/* atomic add, see map_add_value; arguments are checked */
	int (*add)(struct map *map, struct shm_client *me, const void *key, uint32_t cpu, uint32_t offset, uint32_t width, uint64_t delta, uint64_t *result);
	/* for_each_map_elem: the next element from *position on (0 = start; moved behind it), its key and the value of CPU me->cpu in place; -ENOENT: no more. NULL: no such walk */
	int (*each)(struct map *map, struct shm_client *me, uint64_t *position, const void **key, void **value);
	/* health */
	int (*check)(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes); /* 0, or -EUCLEAN with a reason */
	int (*recover)(struct map *map, struct shm_client *me);                /* returns what the dead left behind; count of repairs */
};

/* A map as one process sees it: a mapped segment and private copies of its immutable sizes. */
struct map {
	const struct map_ops *ops;
	uint8_t *base;
	uint64_t bytes;
	struct shm_map *ctl;
	uint8_t *values;              /* base + off[0]: program-writable bytes */
	uint64_t values_bytes;
	uint64_t cpu_bytes;           /* per-CPU types: size of one CPU's block in `values`, else 0 */
	uint32_t type;
	uint32_t id;
	uint32_t key_size;
	uint32_t value_size;
	uint32_t value_stride;        /* distance of two elements of `values` (of one CPU's block) */
	uint32_t max_entries;
	uint32_t flags;
	uint32_t ncpu;
	uint32_t spin_lock_off;
	uint32_t region;              /* index in the registry: vm regions and instructions name maps by it */
	int32_t fd;
	uint32_t mask;                /* hash: buckets - 1 */
	uint32_t seed;
	uint32_t elems;               /* hash: elements in the pool, spares included */
	uint8_t *keys;                /* hash: keys (program-readable area of off[0], or an area of its own) */
	uint32_t key_stride;
	uint32_t flat_entries;        /* max_entries when lookup.h may index `values` by the key, else 0 */
	uint32_t percpu_entries;      /* the same for the block of each CPU */
	uint8_t *links;               /* type-private: element states */
	uint8_t *buckets;             /* type-private */
	uint8_t *lists;               /* type-private: free lists */
	void *own;                    /* type-private memory of this process, freed by close() */
	int32_t wake_fd;              /* rings: pipe that wakes consumers, -1 = not open */
	struct map_layout layout;
};

/* The row of a type, or NULL when it does not exist here. */
const struct map_ops *map_ops_of(uint32_t type);
/* bpftool's word for any Linux map type ("lpm_trie"), NULL for an unknown number. */
const char *map_type_name(uint32_t type);

/* Checks `attr` as BPF_MAP_CREATE does and computes the layout. 0, -EINVAL, -E2BIG, -EOPNOTSUPP (type unknown here), ... */
int map_plan(const struct map_attr *attr, struct map_layout *out);
/* Initialises and publishes a map in a fresh zeroed mapping of layout.total bytes; btf may be NULL. */
int map_format(uint8_t *base, const struct map_attr *attr, uint32_t id, const void *btf);
/* Opens a mapped, published segment: validates it and fills the handle. -EINVAL when sizes and layout disagree. */
int map_attach(struct map *map, uint8_t *base, uint64_t bytes);

/* Lets go of what the handle has in this process besides the mapping, which stays the caller's. */
void map_detach(struct map *map);

/* Bytes of a value as bpf(2) copies it: value_size, or round_up(value_size, 8) * possible CPUs. */
uint64_t map_value_bytes(const struct map *map);

/* bpf(2): value buffers of map_value_bytes(). key NULL = first key in map_next_key only. */
int map_lookup_elem(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
int map_update_elem(struct map *map, struct shm_client *me, const void *key, const void *value, uint64_t flags);
int map_delete_elem(struct map *map, struct shm_client *me, const void *key);
int map_get_next_key(struct map *map, struct shm_client *me, const void *key, void *next);
int map_lookup_and_delete_elem(struct map *map, struct shm_client *me, const void *key, void *value, uint64_t flags);
int map_freeze(struct map *map, struct shm_client *me);
/* Batches (reference: F.3). *count in: room, out: done. `position` is the opaque out_batch, `start` 1 at the first call. */
int map_lookup_batch(struct map *map, struct shm_client *me, uint32_t start, uint64_t *position, void *keys, void *values, uint32_t *count, uint64_t elem_flags, uint32_t and_delete);
int map_update_batch(struct map *map, struct shm_client *me, const void *keys, const void *values, uint32_t *count, uint64_t elem_flags);
int map_delete_batch(struct map *map, struct shm_client *me, const void *keys, uint32_t *count);
/* Atomic add to the `width`-byte integer at `offset` of an element's value (of CPU `cpu` for per-CPU types); *result = the new value. */
int map_add_value(struct map *map, struct shm_client *me, const void *key, uint32_t cpu, uint32_t offset, uint32_t width, uint64_t delta, uint64_t *result);

int map_check(struct map *map, struct shm_client *me, char *why, uint32_t why_bytes);
int map_recover(struct map *map, struct shm_client *me);

/* Program arrays: resolve a slot to a program id, 0 = empty. */
uint32_t prog_array_slot(struct map *map, uint32_t index);
/*
 * Stores a program. The first one fixes type and attach type of the array for good: -EINVAL for another. (map_update_elem takes a bare program id and asks
 * nothing about the program.)
 */
int prog_array_store(struct map *map, uint32_t index, uint32_t prog_id, uint32_t prog_type, uint32_t attach_type, uint64_t flags);
/* A program of this type uses the array. 0, or -EINVAL when it belongs to programs of another type. */
int prog_array_own(struct map *map, uint32_t prog_type, uint32_t attach_type);

#endif
