/*
 * cpu.h - one simulated CPU, as helpers see it: who it is, the packet it holds, the memory a program may touch.
 *
 * All of this is private to the worker process (or to whoever holds the CPU's lease), except where a field says otherwise.
 */
#ifndef SHMBPF_CPU_H
#define SHMBPF_CPU_H

#include "map.h"
#include "bpf.h"
#include "prog.h"

/* Where a program runs. Decides context, verdict names, the abort verdict and which helpers exist. */
enum vm_hook {
	VM_HOOK_NONE = 0,
	VM_HOOK_SOCKET = 1,
	VM_HOOK_TC = 2,
	VM_HOOK_ACT = 3,
	VM_HOOK_XDP = 4,
};

enum vm_hook_bits {
	HOOK_BIT_SOCKET = 2,
	HOOK_BIT_TC = 4,
	HOOK_BIT_ACT = 8,
	HOOK_BIT_XDP = 16,
	HOOK_BITS_TC = 12,
	HOOK_BITS_SKB = 14,
	HOOK_BITS_ALL = 30,
};

/* ctx.def: 1 = read, 2 = write, 4 = packet pointer, 8 = whole field only (no narrow loads). */
enum vm_ctx_access { CTX_R = 1, CTX_RW = 3, CTX_R_WHOLE = 9, CTX_PTR = 13 };

/*
 * Memory a program may touch. region[0..2] are the CPU's own (stack, packet, context); region[VM_REGION_MAP + n] is the map whose `region` is n.
 * `room[w][l]` is the number of offsets at which a load (w = 0) or store (w = 1) of 1 << l bytes fits: 0 where none is allowed. So one comparison
 * decides the common case; `check` says what else an offset must satisfy.
 */
enum vm_region_kind { VM_REGION_STACK = 0, VM_REGION_PACKET = 1, VM_REGION_CTX = 2, VM_REGION_MAP = 3 };

enum vm_region_check {
	VM_CHECK_NONE = 0,
	VM_CHECK_ALIGNED = 1,         /* naturally aligned accesses are fine, others may leave the element */
	VM_CHECK_FULL = 2,            /* elements with padding or a spin lock, context fields */
};

struct vm_region {
	uint64_t base;
	uint64_t room[8];             /* [write * 4 + log2(size)] */
	uint64_t bytes;
	uint64_t reciprocal;          /* 2^64 / stride + 1 */
	const uint8_t *allowed;       /* context: per byte offset, bit write * 4 + log2(size); NULL elsewhere */
	struct map *map;              /* VM_REGION_MAP */
	uint32_t stride;              /* != 0: elements `stride` apart, of which the first `elem` bytes may be touched */
	uint32_t elem;
	uint32_t spin_lock_off;       /* offset of 4 bytes in the element that loads and stores may not touch, or MAP_NO_SPIN_LOCK */
	uint16_t kind;                /* enum vm_region_kind */
	uint16_t check;               /* enum vm_region_check */
	uint64_t pad;                 /* 128 bytes: instructions name a region by its byte offset */
};

enum vm_limits {
	VM_MAX_MAPS = 1024,           /* maps one CPU can have open */
	VM_MAX_REGIONS = 1027,
	VM_STACK_BYTES = 512,
	VM_MAX_FRAMES = 8,
	VM_SCRATCH_BYTES = 512,
	VM_MAX_SPANS = 64,            /* records a program may hold reserved at a time */
	VM_MAX_DYNPTRS = 576,         /* one for each 8 bytes of stack and scratch memory */
	VM_MAX_TAIL_CALLS = 33,
	VM_MAX_LOOPS = 8388608,       /* BPF_MAX_LOOPS: bpf_loop and may_goto */
	VM_HEADROOM = 256,            /* XDP_PACKET_HEADROOM: from hard_start to data when an XDP program starts */
	VM_XDP_FRAME_BYTES = 40,      /* sizeof(struct xdp_frame): first bytes of that headroom, which XDP helpers leave alone */
	VM_PACKET_MAX = 262144,       /* largest packet (a capture's caplen cap) */
	VM_PACKET_ARENA = 397312,     /* headroom, growth room in front and behind */
};

/*
 * The packet in hand. Memory is one arena below 4 GiB, so the 32-bit pointers of the contexts are real addresses. Always linear.
 *
 *   arena   hard_start        meta     data                     tail        hard_end
 *   |          |  headroom    |  meta   |  packet bytes           |  tailroom  |
 */
struct vm_packet {
	uint8_t *arena;
	uint8_t *hard_start;          /* lowest address adjust_head / change_head may reach */
	uint8_t *hard_end;            /* highest end adjust_tail / change_tail may reach */
	uint8_t *meta;                /* XDP/tc metadata: [meta, data) */
	uint8_t *data;
	uint8_t *tail;                /* end of packet */
	uint32_t mac_len;             /* skb: bytes from data to the network header at hook entry */
	uint32_t redirect_ifindex;    /* set by bpf_redirect */
	uint32_t redirect_flags;
	uint32_t redirect_set;        /* 1 between bpf_redirect() and the verdict */
	uint32_t is_l2;               /* skb: data starts at the MAC header */
	uint32_t csum_complete;       /* skb->ip_summed == CHECKSUM_COMPLETE */
	uint32_t csum;                /* skb->csum while csum_complete */
	uint32_t hash_set;            /* skb->hash is valid */
	uint32_t encapsulation;
	uint32_t frame_bytes;         /* XDP: bytes from hard_start to the end of the frame, skb_shared_info excluded */
	uint64_t tstamp;              /* capture time, ns since 1970 */
	int32_t transport_off;        /* skb: bytes from data to the transport header, 0 = not known; 0 at hook entry */
	uint32_t csum_unnecessary;    /* skb->ip_summed == CHECKSUM_UNNECESSARY; 0 at hook entry */
	uint32_t csum_level;          /* skb->csum_level while csum_unnecessary */
	uint32_t reserved;
};

/* Why a run was stopped. */
enum vm_fault_code {
	VM_OK = 0,
	VM_FAULT_MEMORY = 1,          /* load/store outside of every region, or a store to read-only memory */
	VM_FAULT_OPCODE = 2,
	VM_FAULT_BUDGET = 3,          /* instruction budget spent */
	VM_FAULT_STACK = 4,           /* more than 8 frames */
	VM_FAULT_HELPER = 5,          /* a helper's argument is bad */
	VM_FAULT_CTX = 6,             /* context field that may not be touched like that */
	VM_FAULT_CALLBACK = 7,
	VM_FAULT_LOCK = 8,            /* exit or helper call while holding a spin lock; unlock without lock */
	VM_FAULT_ABORTED = 9,         /* LD_ABS/LD_IND past the packet: ends the program with 0, not counted as a fault */
};

struct vm_fault {
	uint32_t code;                /* enum vm_fault_code */
	uint32_t cpu;
	uint32_t prog_id;
	uint32_t insn;                /* index of the instruction in its program */
	uint64_t addr;                /* memory address involved */
	uint32_t size;
	uint32_t write;
	char detail[160];             /* one sentence, without CPU/program/instruction */
};

struct vm_prog;
struct vm_registry;

struct vm_cpu;

/* Memory a program holds for a while: a record it has reserved in a ring buffer, a sample it is shown by bpf_user_ringbuf_drain(). */
struct vm_span {
	uint64_t base;
	uint64_t bytes;
	struct map *map;              /* whose record it is */
	uint32_t writable;
	uint32_t kind;                /* enum vm_span_kind */
};

enum vm_span_kind { VM_SPAN_FREE = 0, VM_SPAN_RECORD = 1, VM_SPAN_DYNPTR_RECORD = 2, VM_SPAN_SAMPLE = 3 };

/* A dynptr. What lies on the program's stack is an opaque cookie; this is what it stands for, found by the address of the 16 bytes. */
struct vm_dynptr {
	uint64_t cookie;              /* of this use; 0 = not initialised. The stack bytes must still hold it */
	uint64_t base;                /* 0 = a null dynptr */
	uint32_t bytes;
	uint32_t span;                /* index of its record in cpu->span + 1, 0 = plain memory */
	uint32_t read_only;
	uint32_t reserved;
};

/* clone_redirect and redirect-like helpers hand finished copies to the hook; `len` bytes at `data`. */
typedef void (*vm_emit_fn)(struct vm_cpu *cpu, uint32_t ifindex, uint32_t flags, const uint8_t *data, uint32_t len);
/* trace_printk: one formatted line, without newline. */
typedef void (*vm_trace_fn)(struct vm_cpu *cpu, const char *line, uint32_t len);

struct vm_cpu {
	struct shm_client *client;
	struct vm_registry *registry;
	uint32_t cpu;
	uint32_t region_cnt;
	struct vm_region region[1027];
	uint8_t *stack;               /* VM_MAX_FRAMES * VM_STACK_BYTES; frame 0 is at the top */
	uint8_t *scratch;             /* VM_SCRATCH_BYTES behind the stack: programs may read and write it; helpers put callback arguments there */
	const uint32_t *map_regions;  /* of the running program: indexes in `region` of the maps it refers to */
	uint32_t map_region_cnt;
	uint32_t other_cpus;          /* the running program calls map_lookup_percpu_elem: other CPUs' values are reachable too */
	uint64_t serial;              /* unique in this process: programs note by it that their maps are in `region` */
	uint32_t frame;               /* of the running program; valid while a helper runs */
	uint32_t tail_calls;          /* in this run */
	struct vm_packet packet;
	struct xdp_md xdp;            /* the context of XDP programs */
	struct __sk_buff skb;         /* the context of skb programs */
	uint32_t hook;                /* enum vm_hook of the running program */
	uint32_t in_callback;
	uint32_t *spin_lock;          /* the one bpf_spin_lock held */
	struct vm_prog *prog;         /* running program (changes on tail call) */
	uint64_t budget;              /* instructions left in this run */
	uint64_t budget_limit;        /* at the start of a run */
	uint64_t random;              /* state of get_prandom_u32 */
	/* calls a subprogram of the running program (bpf_loop, for_each): 0, or a fault code: the helper then returns at once */
	int (*call)(struct vm_cpu *cpu, uint64_t func, const uint64_t args[5], uint64_t *ret);
	vm_emit_fn emit;
	vm_trace_fn trace;
	void *hook_data;              /* of emit and trace */
	struct vm_fault fault;
	uint64_t faults;
	uint64_t tail_misses;         /* tail calls to an empty slot, or one that could not be opened */
	uint64_t events_sent;         /* records put into perf rings and ring buffers (discarded ones not counted) */
	uint64_t events_lost;         /* records that found no room */
	uint64_t dynptr_serial;       /* the last cookie given */
	uint32_t span_cnt;            /* indexes below this may be in use */
	uint32_t span_used;           /* spans in use; must be 0 again when a run ends */
	struct vm_span span[64];
	struct vm_dynptr dynptr[576];
};

/* A CPU's memory: stack, packet arena below 4 GiB. `client` stays the caller's. -ENOMEM, -EADDRNOTAVAIL (nothing free below 4 GiB). */
struct vm_cpu *vm_cpu_new(struct shm_client *client, struct vm_registry *registry, uint32_t cpu);
void vm_cpu_free(struct vm_cpu *cpu);

/* Tells the regions and the running context where the packet is now; every helper that moves packet bytes ends with this. */
void vm_packet_sync(struct vm_cpu *cpu);
/* Makes `len` bytes, MAC header first, the packet of a run at `hook`: copies them behind the usual headroom and fills the context as BPF_PROG_TEST_RUN does.
 * is_l2 = 0 (skb hooks): the program's packet starts behind the MAC header. -EINVAL: no such hook; -E2BIG: more than VM_PACKET_MAX. */
int vm_packet_load(struct vm_cpu *cpu, uint32_t hook, const uint8_t *bytes, uint32_t len, uint32_t is_l2);

/* Host address of `size` bytes a program may read (or write), or NULL. Sets no fault. */
uint8_t *vm_memory(struct vm_cpu *cpu, uint64_t addr, uint64_t size, uint32_t write);
/* Makes a map's values reachable for programs of this CPU; idempotent. -ENOSPC: VM_MAX_MAPS are open. */
int vm_region_add_map(struct vm_cpu *cpu, struct map *map);
/* Context access of `size` bytes at `off` for a hook: 1 = allowed. */
int vm_ctx_allowed(uint32_t hook, uint32_t off, uint32_t size, uint32_t write);
uint32_t vm_ctx_bytes(uint32_t hook);

#endif
