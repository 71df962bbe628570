/*
 * capture.h - what the two capture formats share: bounded loads and how reading ends. Private to cbits/net.
 *
 * Invariant: every load is preceded by cap_need() for its bytes, so nothing outside [base + pos, base + bytes) is ever read.
 */
#ifndef SHMBPF_NET_CAPTURE_H
#define SHMBPF_NET_CAPTURE_H

#include <errno.h>
#include <string.h>

#include "shmbpf/net.h"

static inline uint16_t cap_u16(const struct cap_reader *reader, const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return reader->swapped ? __builtin_bswap16(value) : value;
}

static inline uint32_t cap_u32(const struct cap_reader *reader, const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return reader->swapped ? __builtin_bswap32(value) : value;
}

static inline uint64_t cap_left(const struct cap_reader *reader)
{
	return reader->bytes > reader->pos ? reader->bytes - reader->pos : 0;
}

/* Ends the capture for good; `why` (a printf format) is put behind "at packet N (offset O)". */
int cap_stop(struct cap_reader *reader, const char *what, const char *why, ...) __attribute__((format(printf, 3, 4)));
/* Ends a file that is no capture. */
int cap_refuse(struct cap_reader *reader, const char *why, ...) __attribute__((format(printf, 2, 3)));
/* 0 when `need` bytes are there; else -EAGAIN, or the end of a broken tail (`thing` names what is cut). */
int cap_short(struct cap_reader *reader, const char *thing, uint64_t need);

static inline int cap_need(struct cap_reader *reader, const char *thing, uint64_t need)
{
	return __builtin_expect(cap_left(reader) >= need, 1) ? 0 : cap_short(reader, thing, need);
}

/* Records lie one after the other, but at distances that no hardware prefetcher guesses: ask for the lines some records ahead. */
enum cap_ahead { CAP_AHEAD = 768, CAP_PREFETCH = 2048 };

static inline void cap_prefetch(const uint8_t *at)
{
	int line;

	for (line = 0; line < 8; line++)
		__builtin_prefetch(at + CAP_AHEAD + 64 * line);
}

/* Time stamp in `units` per second plus `offset` seconds, as ns since 1970, clamped to what 64 bits hold. */
uint64_t cap_time(uint64_t stamp, uint64_t units, int64_t offset);
/* Finishes a packet whose record ends at `end`. */
int cap_give(struct cap_reader *reader, struct cap_packet *packet, uint64_t end);

int pcap_header(struct cap_reader *reader, uint32_t magic);
int pcap_next(struct cap_reader *reader, struct cap_packet *packet);
int pcapng_next(struct cap_reader *reader, struct cap_packet *packet);

#endif
