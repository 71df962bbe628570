/*
 * feed.c - a producer: packets of a capture go into the receive queues of a device.
 *
 * Entries are collected per queue and published NET_BATCH at a time (and before every sleep, at the end of a slice, and on return), so the consumer's cache line
 * and its futex are touched rarely. The lock of a queue is held from the first unpublished entry to the publication. Before we wait for anything (a lock, room,
 * the time of the next packet) everything is published and unlocked: a producer never waits while another one could wait for it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <time.h>

#include "frame.h"
#include "queue.h"

static const uint64_t FEED_WAIT_NS = 10000000;        /* longest sleep on a full queue: then look at stop and at the consumer's lease */
static const uint64_t FEED_ORPHAN_NS = 5000000000;

enum feed_steps { FEED_MORE = 2, FEED_CLOCK_EVERY = 64 };

static struct net_queue *feed_queue(const struct net_feed *feed, uint32_t cpu)
{
	return (struct net_queue *)(feed->dev_base + (uint64_t)feed->queue_cnt * NET_QUEUE_BYTES) + cpu;
}

static uint64_t now_ns(void)
{
	return shm_clock_ns(CLOCK_MONOTONIC);
}

int net_feed_init(struct net_feed *feed, struct shm_client *client, uint8_t *dev_base, uint64_t dev_bytes)
{
	memset(feed, 0, sizeof(*feed));
	feed->client = client;
	feed->dev_base = dev_base;
	feed->dev_bytes = dev_bytes;
	feed->dev = net_dev_of(dev_base, dev_bytes);
	if (!feed->dev)
		return -EINVAL;
	while (feed->queue_cnt < SHM_MAX_CPUS && net_dev_queue(feed->dev, dev_base, feed->queue_cnt))
		feed->queue_cnt++;
	feed->source = NET_INLINE;
	feed->spread = NET_SPREAD_FLOW;
	feed->orphan_ns = FEED_ORPHAN_NS;
	return 0;
}

/* ---- batches ---- */

/* Shows the consumer all entries of our batch, and gives the queue back. */
static void batch_publish(struct net_feed *feed, uint32_t cpu)
{
	struct net_batch *batch = &feed->batch[cpu];
	struct net_queue *queue = feed_queue(feed, cpu);

	if (!batch->locked)
		return;
	queue_count(&queue->packets_in, batch->entries);
	__atomic_store_n(&queue->head, batch->head, __ATOMIC_RELEASE);
	batch->entries = 0;
	batch->locked = 0;
	shm_unlock(feed->client, &queue->lock);
	queue_wake(&queue->head_word, &queue->consumer_sleeps);
}

static void publish_all(struct net_feed *feed)
{
	uint32_t cpu;

	for (cpu = 0; cpu < feed->queue_cnt; cpu++)
		batch_publish(feed, cpu);
}

/* Takes the queue's lock, released by batch_publish. Stealing it from the dead needs no repair: what they had not published does not exist. */
static int batch_open(struct net_feed *feed, uint32_t cpu)
{
	struct net_batch *batch = &feed->batch[cpu];
	struct net_queue *queue = feed_queue(feed, cpu);
	int err;

	if (batch->locked)
		return 0;
	err = shm_trylock(feed->client, &queue->lock);
	if (err == -EBUSY) {
		publish_all(feed);
		err = shm_lock(feed->client, &queue->lock);
	}
	if (err < 0)
		return err;
	batch->head = queue_head(queue) & ~7ULL;   /* a scribbled head must not make us write across the end of the ring */
	batch->tail = queue_tail(queue);
	batch->locked = 1;
	return 0;
}

static int room_for(uint64_t head, uint64_t tail, uint32_t need)
{
	uint64_t used = head - tail;

	if (need > NET_QUEUE_BYTES - (head & QUEUE_MASK))
		need += (uint32_t)(NET_QUEUE_BYTES - (head & QUEUE_MASK));
	return used <= NET_QUEUE_BYTES && need <= NET_QUEUE_BYTES - used;
}

/* Space for an entry of `need` bytes, in one piece; NULL when the queue is full. */
static struct net_entry *batch_reserve(struct net_feed *feed, uint32_t cpu, uint32_t need)
{
	struct net_batch *batch = &feed->batch[cpu];
	uint8_t *ring = feed->dev_base + (uint64_t)cpu * NET_QUEUE_BYTES;
	uint64_t left = NET_QUEUE_BYTES - (batch->head & QUEUE_MASK);
	struct net_entry *entry;

	if (!room_for(batch->head, batch->tail, need)) {
		batch->tail = queue_tail(feed_queue(feed, cpu));
		if (!room_for(batch->head, batch->tail, need))
			return NULL;
	}
	if (need > left) {
		((struct net_entry *)(ring + (batch->head & QUEUE_MASK)))->bytes = 0;
		batch->head += left;
	}
	entry = (struct net_entry *)(ring + (batch->head & QUEUE_MASK));
	batch->head += need;
	batch->entries++;
	return entry;
}

/* -EPIPE when the CPU has been nobody's for too long; its supervisor restarts a worker much sooner. */
static int consumer_gone(struct net_feed *feed, uint32_t cpu, uint64_t now)
{
	struct net_batch *batch = &feed->batch[cpu];

	if (shm_cpu_leased(feed->client, cpu)) {
		batch->orphan_ns = 0;
		return 0;
	}
	if (!batch->orphan_ns)
		batch->orphan_ns = now;
	return now - batch->orphan_ns >= feed->orphan_ns ? -EPIPE : 0;
}

/* Sleeps until the queue may have room. 0: try again; -EAGAIN: `deadline` has come, or we shall stop; -EPIPE. */
static int wait_for_room(struct net_feed *feed, uint32_t cpu, uint32_t need, uint64_t deadline)
{
	struct net_queue *queue = feed_queue(feed, cpu);
	uint64_t now = now_ns(), wait_ns;
	uint32_t seen;
	int err;

	publish_all(feed);
	if (__atomic_load_n(&feed->stop, __ATOMIC_RELAXED) || now >= deadline)
		return -EAGAIN;
	err = consumer_gone(feed, cpu, now);
	if (err)
		return err;
	seen = queue_announce(&queue->tail_word, &queue->producer_sleeps);
	if (room_for(queue_head(queue), queue_tail(queue), need))
		return 0;
	feed->waits++;
	wait_ns = deadline - now < FEED_WAIT_NS ? deadline - now : FEED_WAIT_NS;
	return shm_wait(&queue->tail_word, seen, wait_ns) == -EINTR ? -EAGAIN : 0;
}

/* ---- packets ---- */

static uint32_t pick_queue(struct net_feed *feed, uint32_t hash)
{
	if (feed->spread == NET_SPREAD_CPU0)
		return 0;
	if (feed->spread == NET_SPREAD_ROUNDROBIN)
		return __atomic_fetch_add(&feed->dev->round, 1, __ATOMIC_RELAXED) % feed->queue_cnt;
	return net_rss_queue(hash, feed->queue_cnt);
}

static void fill_entry(struct net_entry *entry, const struct net_frame *frame, uint32_t bytes, uint32_t source)
{
	uint8_t *at = (uint8_t *)(entry + 1);

	entry->bytes = bytes;
	entry->source = source;
	entry->caplen = frame->caplen;
	entry->len = frame->len;
	entry->off = frame->off;
	entry->ts_ns = frame->ts_ns;
	entry->hash = frame->hash;
	entry->flags = 0;
	if (source != NET_INLINE)
		return;
	memcpy(at, frame->header, frame->header_bytes);
	memcpy(at + frame->header_bytes, frame->bytes, frame->caplen - frame->header_bytes);
}

/* Puts one frame into its queue, waiting for room until `deadline`. 0; -EAGAIN: no room until then; -EBUSY: a live but stopped producer keeps the queue; -EPIPE. */
static int feed_frame(struct net_feed *feed, const struct net_frame *frame, uint64_t deadline)
{
	uint32_t source = frame->header_bytes ? (uint32_t)NET_INLINE : feed->source;
	uint32_t need = queue_entry_bytes(source == NET_INLINE ? frame->caplen : 0);
	uint32_t cpu = pick_queue(feed, frame->hash);
	struct net_entry *entry;
	int err;

	for (;;) {
		err = batch_open(feed, cpu);
		if (err)
			return err;
		entry = batch_reserve(feed, cpu, need);
		if (entry)
			break;
		err = wait_for_room(feed, cpu, need, deadline);
		if (err)
			return err;
	}
	fill_entry(entry, frame, need, source);
	if (feed->batch[cpu].entries >= NET_BATCH)
		batch_publish(feed, cpu);
	feed->packets++;
	feed->bytes += frame->len;
	return 0;
}

/* When the packet is due; the first one starts the clock. */
static uint64_t due_ns(struct net_feed *feed, const struct cap_packet *packet, uint64_t now)
{
	if (!feed->start_ns) {
		feed->start_ns = now;
		feed->first_ts_ns = packet->ts_ns;
	}
	if (feed->rate_pps)
		return feed->start_ns + (uint64_t)((unsigned __int128)feed->packets * 1000000000 / feed->rate_pps);
	return packet->ts_ns > feed->first_ts_ns ? feed->start_ns + (packet->ts_ns - feed->first_ts_ns) : now;
}

/* Waits for the packet's time. 0: it has come; 1: not within this slice. */
static int feed_pace(struct net_feed *feed, const struct cap_packet *packet, uint64_t deadline)
{
	uint64_t now = now_ns(), due = due_ns(feed, packet, now), until = due < deadline ? due : deadline;
	struct timespec at = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };

	if (due <= now)
		return 0;
	publish_all(feed);
	if (until > now && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL))
		return 1;
	return due > deadline;
}

static int feed_one(struct net_feed *feed, struct cap_reader *reader, uint64_t deadline)
{
	struct cap_packet packet;
	struct net_frame frame;
	int err = cap_next(reader, &packet);

	if (err != 1)
		return err;
	if (feed->realtime && reader->packets == 1)
		feed->start_ns = 0;   /* a capture starts, perhaps the same one again: its clock starts anew */
	if (frame_of(&frame, reader->base, &packet)) {
		feed->skipped++;
		return FEED_MORE;
	}
	if ((feed->rate_pps || feed->realtime) && feed_pace(feed, &packet, deadline)) {
		cap_unread(reader, &packet);
		return 1;
	}
	err = feed_frame(feed, &frame, deadline);
	if (!err)
		return FEED_MORE;
	cap_unread(reader, &packet);
	return err == -EAGAIN || err == -EBUSY ? 1 : err;
}

int net_feed_capture(struct net_feed *feed, struct cap_reader *reader, uint64_t slice_ns)
{
	uint64_t deadline = now_ns() + slice_ns;
	uint32_t step = 0;
	int ret = FEED_MORE;

	while (ret == FEED_MORE) {
		if (__atomic_load_n(&feed->stop, __ATOMIC_RELAXED) || (++step % FEED_CLOCK_EVERY == 0 && now_ns() >= deadline))
			ret = 1;
		else if (feed->max_packets && feed->packets >= feed->max_packets)
			ret = 0;
		else
			ret = feed_one(feed, reader, deadline);
	}
	publish_all(feed);
	return ret;
}

int net_feed_packet(struct net_feed *feed, const uint8_t *bytes, uint32_t caplen, uint32_t len, uint64_t ts_ns, uint64_t wait_ns)
{
	struct cap_packet packet = { .caplen = caplen, .len = len < caplen ? caplen : len, .ts_ns = ts_ns, .linktype = CAP_LINK_ETHERNET };
	uint32_t source = feed->source;
	struct net_frame frame;
	int err;

	if (caplen > CAP_MAX_PACKET)
		return -EMSGSIZE;
	frame_of(&frame, bytes, &packet);
	feed->source = NET_INLINE;   /* these bytes are in no capture */
	err = feed_frame(feed, &frame, now_ns() + wait_ns);
	feed->source = source;
	publish_all(feed);
	return err == -EBUSY ? -EAGAIN : err;
}
