/*
 * net.h - how packets reach programs: captures, flow hashing, the receive queues of a virtual device, and the loop of a worker.
 *
 *   capture file --cap_next--> net_feed (RSS) --> queue of CPU n (shared memory) --> net_work: program(s) --> verdict --> statistics, output files
 *
 * One queue per CPU: many producers one after the other (owner lock), one consumer (the holder of the CPU's lease). Packets of a flow go to one queue in
 * order. A queue entry either carries its packet bytes or points into a capture that the workers have mapped too (no copy).
 */
#ifndef SHMBPF_NET_H
#define SHMBPF_NET_H

#include "vm.h"

/* ---- captures ------------------------------------------------------------------------------------------------------------------------------- */

enum cap_limits {
	CAP_MAX_INTERFACES = 1024,    /* pcapng interfaces remembered per section */
	CAP_MAX_PACKET = 262144,      /* larger captured lengths end the capture with a warning */
	CAP_MAX_BLOCK = 1048576,      /* likewise for any pcapng block, so that a stream needs a window of no more than twice that */
};

/* LINKTYPE_* numbers that reach programs; all but Ethernet get a made-up Ethernet header while they are copied into a queue. */
enum cap_linktype {
	CAP_LINK_NULL = 0,
	CAP_LINK_ETHERNET = 1,
	CAP_LINK_RAW = 101,
	CAP_LINK_LOOP = 108,
	CAP_LINK_SLL = 113,
	CAP_LINK_IPV4 = 228,
	CAP_LINK_IPV6 = 229,
	CAP_LINK_SLL2 = 276,
};

struct cap_packet {
	uint64_t off;                 /* of the packet bytes in the window */
	uint64_t ts_ns;               /* since 1970; 0 when the format has none (pcapng simple packets) */
	uint32_t caplen;              /* bytes here */
	uint32_t len;                 /* bytes on the wire, >= caplen */
	uint32_t linktype;            /* LINKTYPE_*: 1 = Ethernet */
	uint32_t interface;
};

struct cap_interface {
	uint32_t linktype;
	uint32_t snaplen;
	uint64_t ts_units;            /* time stamp units per second */
	int64_t ts_offset;            /* seconds */
};

/* Reads pcap (both byte orders, us and ns) and pcapng from a window of memory: a mapped file, or the part of a stream that has arrived. */
struct cap_reader {
	const uint8_t *base;
	uint64_t bytes;               /* of the window */
	uint64_t pos;                 /* next byte to parse */
	uint64_t stream_off;          /* file offset of base[0], for messages */
	uint64_t packets;             /* given out */
	uint64_t truncated;           /* packets with caplen < len */
	uint64_t record_pos;          /* where the packet given out last starts */
	uint32_t final;               /* no more bytes will come: an incomplete record is a broken tail, else -EAGAIN */
	uint32_t format;              /* enum cap_format */
	uint32_t swapped;             /* the file's byte order is not ours */
	uint32_t nanos;               /* pcap: time stamps in ns, not us */
	uint32_t interface_cnt;       /* seen in this section; the first CAP_MAX_INTERFACES are remembered */
	uint32_t record_bytes;        /* pcap: size of a record header */
	uint32_t len_order;           /* pcap: 0 = caplen, len; 1 = whichever is smaller is caplen (2.3); 2 = len, caplen (before 2.3) */
	uint32_t ended;               /* cap_next gives `result` for good */
	int32_t result;
	uint32_t pad;
	struct cap_interface interface[1024];
	char warning[200];            /* why it ended early; empty for a clean end */
};

enum cap_format { CAP_FORMAT_UNKNOWN = 0, CAP_FORMAT_PCAP = 1, CAP_FORMAT_PCAPNG = 2 };

/* Clears everything; then set base and bytes (and final). To give more bytes: bytes before pos may go (lower pos, raise stream_off), more may follow. */
void cap_init(struct cap_reader *reader);
/* 1: a packet. 0: the end (clean, or with reader->warning). -EAGAIN: give more bytes. -EINVAL: not a capture at all (warning says why). */
int cap_next(struct cap_reader *reader, struct cap_packet *packet);
/* Puts the packet that cap_next gave last back: it will come again. */
void cap_unread(struct cap_reader *reader, const struct cap_packet *packet);

/* ---- RSS ------------------------------------------------------------------------------------------------------------------------------------ */

enum net_spread { NET_SPREAD_FLOW = 0, NET_SPREAD_ROUNDROBIN = 1, NET_SPREAD_CPU0 = 2 };

/* Toeplitz hash of an Ethernet frame's flow (IPv4/IPv6 addresses, TCP/UDP/SCTP ports; VLAN tags skipped; fragments by addresses only). With the symmetric key
 * both directions of a connection get the same value. 0 for anything that is not IP. */
uint32_t net_rss_hash(const uint8_t *frame, uint32_t len);
/* The hash itself over any input and key (at least len + 4 bytes): what net_rss_hash's tables are made from. */
uint32_t net_toeplitz(const uint8_t *key, const uint8_t *input, uint32_t len);
/* Queue of a hash among `cpus`. */
uint32_t net_rss_queue(uint32_t hash, uint32_t cpus);

/* ---- device --------------------------------------------------------------------------------------------------------------------------------- */

enum net_limits {
	NET_MAX_SOURCES = 64,         /* mapped captures of one run */
	NET_QUEUE_BYTES = 1048576,    /* data bytes of one queue, a power of two */
	NET_VERDICTS = 12,            /* verdict counters per hook; see net_verdict_name */
	NET_HOOKS = 5,                /* enum vm_hook */
	NET_FAULT_KINDS = 64,         /* different faults a CPU keeps apart; the rest is counted together */
	NET_BATCH = 32,               /* entries a producer collects before it publishes them */
	NET_OUT_FILES = 64,           /* output files of one worker */
	NET_TIMED_ALL = 64,
	NET_TIMED_EVERY = 32,
};

/* One entry of a queue, 8-byte aligned, never wrapping; followed by `inline_bytes` packet bytes (padded to 8) when source is NET_INLINE. */
struct net_entry {
	uint32_t bytes;               /* of this entry with its packet bytes; 0 = skip to the start of the ring */
	uint32_t source;              /* index of a mapped capture, or NET_INLINE */
	uint32_t caplen;
	uint32_t len;
	uint64_t off;                 /* in the capture */
	uint64_t ts_ns;
	uint32_t hash;
	uint32_t flags;
};

enum net_entry_source { NET_INLINE = 0x7fffffff };

/* Producer and consumer words on cache lines of their own. Positions count bytes and never wrap. */
struct net_queue {
	uint32_t lock;                /* owner word: one producer at a time */
	uint32_t pad0[15];
	uint64_t head;                /* producer: bytes published (release) */
	uint64_t packets_in;
	uint32_t head_word;           /* futex: incremented when entries are published while the consumer sleeps */
	uint32_t consumer_sleeps;
	uint64_t pad1[5];
	uint64_t tail;                /* consumer: bytes consumed (release) */
	uint64_t packets_out;
	uint32_t tail_word;           /* futex: incremented when room appears while a producer sleeps */
	uint32_t producer_sleeps;
	uint64_t pad2[5];
};

/* Control block of a device segment: [queue data per CPU][struct net_queue per CPU][struct shm_dev]. */
struct shm_dev {
	struct shm_head head;         /* name = device name ("shm0"), type = ifindex */
	uint32_t queue_cnt;
	uint32_t queue_bytes;
	uint32_t attached[5];         /* program id per enum vm_hook, 0 = none; atomic: workers follow at the next packet */
	uint32_t attach_gen;          /* incremented after each change */
	uint32_t round;               /* round-robin position */
	uint32_t closed;              /* 1: no packet will come any more (end of a run's source) */
	uint64_t pad[4];
};

/* ---- a runtime's statistics ----------------------------------------------------------------------------------------------------------------- */

enum run_state { RUN_CPU_DOWN = 0, RUN_CPU_STARTING = 1, RUN_CPU_IDLE = 2, RUN_CPU_BUSY = 3 };

/* Written by the worker that holds the CPU's lease, relaxed; read by anybody. Survives the worker. */
struct run_cpu {
	uint64_t packets;
	uint64_t bytes;
	uint64_t runs[5];             /* program runs per hook */
	uint64_t verdicts[5][12];     /* per hook, by net_verdict_index */
	uint64_t run_ns;              /* time in programs: the first NET_TIMED_ALL packets, then every NET_TIMED_EVERY-th counted that many times */
	uint64_t faults;
	uint64_t lost;                /* packets in hand when a worker died */
	uint64_t events_sent;         /* records its programs put into rings, and those that found no room; as of the last packet */
	uint64_t events_lost;
	uint64_t out_packets;
	uint64_t out_errors;          /* output packets that could not be written */
	uint32_t pid;
	uint32_t state;               /* enum run_state */
	uint32_t restarts;
	uint32_t prog_id;             /* running now, 0 = none */
	uint32_t insn;                /* last helper call or program start seen */
	uint32_t ctl_word;            /* futex: the supervisor has a message for the worker */
	uint32_t in_flight;           /* low bits of the queue position of the packet in hand, with bit 0 set; stale once tail has moved on; 0 = none */
	int32_t out_errno;            /* of the last failed output */
	uint64_t trace_lost;          /* lines of trace_printk that the supervisor was too slow for */
	uint64_t pad[9];
};

/*
 * The faults of one CPU by kind: same program, same instruction, same code. Written by the worker that holds the CPU's lease: `first` is filled before
 * `kind_cnt` takes it in (release) and never changes again, so a reader that goes by kind_cnt (acquire) never sees a half-written one, and a worker that is
 * killed while it fills one leaves nothing visible. Counts are relaxed and belong to the CPU, not to the worker: they survive it.
 */
struct run_fault {
	uint64_t count;               /* times this kind came */
	struct vm_fault first;        /* as it was the first time */
};

struct run_faults {
	uint32_t kind_cnt;            /* at most NET_FAULT_KINDS */
	uint32_t reserved;
	uint64_t others;              /* faults of kinds there was no room for */
	struct run_fault kind[64];
};

/* Control block of a run segment: [struct run_cpu per CPU][struct run_faults per CPU][struct shm_run]. */
struct shm_run {
	struct shm_head head;
	uint32_t cpu_cnt;
	uint32_t reserved;
	uint32_t supervisor_pid;
	uint32_t stop;                /* 1: workers finish the packet in hand and return */
	uint64_t started_ns;          /* CLOCK_MONOTONIC */
	uint64_t first_packet_ns;
	uint64_t pad[4];
};

uint64_t net_dev_bytes(uint32_t cpus);
int net_dev_format(uint8_t *base, uint64_t bytes, uint32_t id, const char *name, uint32_t ifindex, uint32_t cpus);
struct shm_dev *net_dev_of(uint8_t *base, uint64_t bytes);
struct net_queue *net_dev_queue(struct shm_dev *dev, uint8_t *base, uint32_t cpu);
uint8_t *net_dev_data(struct shm_dev *dev, uint8_t *base, uint32_t cpu);

uint64_t net_run_bytes(uint32_t cpus);
int net_run_format(uint8_t *base, uint64_t bytes, uint32_t id, uint32_t cpus, uint32_t pid);
struct shm_run *net_run_of(uint8_t *base, uint64_t bytes);
struct run_cpu *net_run_cpu(uint8_t *base, uint32_t cpu);
/* NULL for a CPU that the segment has no room for. */
struct run_faults *net_run_faults(uint8_t *base, uint64_t bytes, uint32_t cpu);
/* kind_cnt, read so that the kinds it counts can be read after it. */
uint32_t net_run_fault_kinds(const struct run_faults *faults);
/* Counts a fault under its kind. For the worker of that CPU only. */
void net_run_note_fault(struct run_faults *faults, const struct vm_fault *fault);

/* Feeding: entries put into one queue but not published yet. */
struct net_batch {
	uint64_t head;                /* where the next entry goes */
	uint64_t tail;                /* the consumer's position when last read */
	uint64_t orphan_ns;           /* since when the queue is full and its CPU is nobody's; 0 = it is not */
	uint32_t entries;             /* unpublished */
	uint32_t locked;              /* the queue's lock is ours */
};

/* The private state of one producer. */
struct net_feed {
	struct shm_client *client;
	uint8_t *dev_base;
	struct shm_dev *dev;
	uint32_t spread;              /* enum net_spread */
	uint32_t source;              /* index of the mapped capture, or NET_INLINE to copy */
	uint64_t packets;             /* fed */
	uint64_t bytes;
	uint64_t skipped;             /* not Ethernet, or too large */
	uint64_t max_packets;         /* 0 = no limit */
	uint64_t rate_pps;            /* 0 = as fast as it goes */
	uint32_t realtime;            /* keep the capture's own timing */
	uint32_t stop;                /* set from outside (signal handler): return soon */
	uint64_t first_ts_ns;         /* capture time of the packet sent at start_ns (realtime) */
	uint64_t start_ns;            /* 0 = not started */
	uint64_t waits;               /* times a queue was full */
	uint64_t orphan_ns;           /* how long a full queue may be without a consumer before -EPIPE (default 5 s) */
	uint64_t dev_bytes;
	uint32_t queue_cnt;           /* private copy */
	uint32_t pad;
	struct net_batch batch[256];
};

/* Sets the defaults (copy packets, spread by flow). 0, or -EINVAL for a device segment that is damaged. */
int net_feed_init(struct net_feed *feed, struct shm_client *client, uint8_t *dev_base, uint64_t dev_bytes);
/*
 * Feeds until the reader ends, feed->stop, the limit, or `slice_ns` have passed; all that was fed is published on return. 1: slice over or stopped, go on;
 * 0: the reader ended, or max_packets are through; -EAGAIN: the stream needs bytes; -EINVAL: not a capture; -EPIPE: a queue's consumer is gone (dead lease,
 * nobody restarts it). Never drops a packet: one that did not fit is read again by the next call.
 */
int net_feed_capture(struct net_feed *feed, struct cap_reader *reader, uint64_t slice_ns);
/* One Ethernet frame, copied. 0; -EAGAIN: the queue stayed full for `wait_ns`; -EMSGSIZE; -EPIPE as above. */
int net_feed_packet(struct net_feed *feed, const uint8_t *bytes, uint32_t caplen, uint32_t len, uint64_t ts_ns, uint64_t wait_ns);
/* No packet will come any more: workers return NET_WORK_CLOSED once their queue is empty. */
void net_dev_close(uint8_t *dev_base, struct shm_dev *dev);
/* Makes CPU n's worker look at stop, ctl_word and the attached programs now, even if it sleeps. */
void net_dev_kick(uint8_t *dev_base, struct shm_dev *dev, uint32_t cpu);
/* Attaches a program id (0 = detach) and tells the workers. */
void net_dev_attach(uint8_t *dev_base, struct shm_dev *dev, uint32_t hook, uint32_t prog_id);
/* 1 when every queue is empty; the tail moves only when a packet is finished, so none is in flight either. */
int net_dev_drained(uint8_t *dev_base, struct shm_dev *dev);

/* Output files: one pcapng per verdict in a directory, appended to by all workers (whole blocks, O_APPEND). */
struct net_out;
struct net_out *net_out_new(int dirfd);
/* Buffers one packet for FILE.pcapng. 0 or -errno of the write that failed; -EMFILE: more than NET_OUT_FILES names. */
int net_out_packet(struct net_out *out, const char *file, const uint8_t *bytes, uint32_t caplen, uint32_t len, uint64_t ts_ns, uint32_t cpu);
int net_out_flush(struct net_out *out);
/* Packets that were given to net_out_packet but could not be written. */
uint64_t net_out_lost(const struct net_out *out);
void net_out_free(struct net_out *out);

/* Where a CPU's lines of trace_printk go: a pipe that takes whole lines and never blocks. */
struct net_trace {
	int32_t fd;                   /* -1 = nobody wants them */
	uint32_t pid;                 /* shown in each line */
	uint64_t lines;               /* printed */
	uint64_t lost;                /* of these, lines that the pipe had no room for */
};

/* Lines of a CPU that no worker drives (a program run in this process) go to trace->fd from now on. Both stay the caller's. */
void net_trace_follow(struct vm_cpu *cpu, struct net_trace *trace);

/* Working: the private state of one CPU's loop. */
struct net_worker {
	struct vm_cpu *cpu;
	uint8_t *dev_base;
	struct shm_dev *dev;
	uint8_t *run_base;
	struct shm_run *run;
	struct run_cpu *stats;
	struct run_faults *faults;
	struct net_out *out;          /* NULL = keep nothing */
	const uint8_t *source[64];    /* mapped captures */
	uint64_t source_bytes[64];
	struct vm_prog *prog[5];      /* per hook, as of attach_gen */
	uint32_t attach_gen;
	uint32_t ctl_seen;            /* value of stats->ctl_word already handled */
	struct net_trace trace;
	struct vm_error error;        /* of the last program that could not be opened */
	struct net_queue *queue;
	uint8_t *data;                /* of the queue */
	uint64_t run_bytes;
	uint64_t out_lost;            /* net_out_lost already counted */
	uint64_t events_sent;         /* of cpu->events_sent and events_lost, what stats has already */
	uint64_t events_lost;
	uint64_t clock_ns;            /* what reading the clock costs, taken off each sample */
	uint64_t ts_ns;               /* capture time of the packet in hand, for its copies */
	uint64_t taken;               /* packets by this worker */
	uint32_t ifindex;
	uint32_t prog_id[5];          /* ids behind prog[] */
};

/* Takes over CPU `cpu->cpu`: a packet its last worker died with is counted in `lost` and skipped. -EINVAL: damaged segments, or no such CPU in them. */
int net_worker_init(struct net_worker *worker, struct vm_cpu *cpu, uint8_t *dev_base, uint64_t dev_bytes, uint8_t *run_base, uint64_t run_bytes);

enum net_work_reason { NET_WORK_STOP = 0, NET_WORK_CTL = 1, NET_WORK_CLOSED = 2, NET_WORK_PROG_ERROR = 3 };
/* Processes packets until told otherwise; returns enum net_work_reason. Sleeps (futex, at most `idle_ns` at a time) when the queue is empty. */
int net_work(struct net_worker *worker, uint64_t idle_ns);

/* Where a packet goes in the end: the output file it is written to. */
enum net_fate { NET_FATE_PASS = 0, NET_FATE_DROP = 1, NET_FATE_TX = 2, NET_FATE_REDIRECT = 3, NET_FATE_ABORTED = 4 };

/* "pass", "drop", ...: counter `index` of a hook; NULL past the last. And the counter and the fate of a return code, and the counter of a faulted run. */
const char *net_verdict_name(uint32_t hook, uint32_t index);
uint32_t net_verdict_index(uint32_t hook, uint64_t ret);
uint32_t net_verdict_aborted(uint32_t hook);
uint32_t net_verdict_fate(uint32_t hook, uint64_t ret);
const char *net_fate_name(uint32_t fate);

#endif
