/*
 * capture.c - reading captures from a window of memory: telling the format, classic pcap, and how reading ends.
 *
 * A capture is untrusted. Each record is taken only when it is there as a whole and its lengths make sense; the first one that is not ends the capture with a
 * warning, and all packets before it have been given out. `pos` grows with every record, so reading always comes to an end.
 */
#include <stdarg.h>
#include <stdio.h>

#include "capture.h"

enum pcap_sizes { PCAP_HEADER = 24, PCAP_RECORD = 16, PCAP_RECORD_MODIFIED = 24 };

static const uint32_t PCAP_MAGIC_US = 0xa1b2c3d4;
static const uint32_t PCAP_MAGIC_NS = 0xa1b23c4d;
static const uint32_t PCAP_MAGIC_MODIFIED = 0xa1b2cd34;   /* 2.2-era Linux patch: 8 more bytes in each record header */
static const uint32_t PCAPNG_MAGIC = 0x0a0d0d0a;          /* reads the same in both byte orders */

static int cap_end(struct cap_reader *reader, int result)
{
	reader->ended = 1;
	reader->result = result;
	return result;
}

int cap_stop(struct cap_reader *reader, const char *what, const char *why, ...)
{
	va_list args;
	int used = snprintf(reader->warning, sizeof(reader->warning), "%s at packet %llu (offset %llu): ", what,
			    (unsigned long long)reader->packets + 1, (unsigned long long)(reader->stream_off + reader->pos));

	va_start(args, why);
	vsnprintf(reader->warning + used, sizeof(reader->warning) - (size_t)used, why, args);
	va_end(args);
	return cap_end(reader, 0);
}

int cap_refuse(struct cap_reader *reader, const char *why, ...)
{
	va_list args;

	va_start(args, why);
	vsnprintf(reader->warning, sizeof(reader->warning), why, args);
	va_end(args);
	return cap_end(reader, -EINVAL);
}

int cap_short(struct cap_reader *reader, const char *thing, uint64_t need)
{
	uint64_t left = cap_left(reader);

	if (left >= need)
		return 0;
	if (!reader->final)
		return -EAGAIN;
	return cap_stop(reader, "truncated", "%s needs %llu bytes, %llu are left", thing, (unsigned long long)need, (unsigned long long)left);
}

uint64_t cap_time(uint64_t stamp, uint64_t units, int64_t offset)
{
	__int128 ns;

	if (units == 1000000 && !offset && stamp < UINT64_MAX / 1000)
		return stamp * 1000;
	if (units == 1000000000 && !offset)
		return stamp;
	ns = ((__int128)(stamp / units) + offset) * 1000000000;
	ns += (__int128)(stamp % units) * 1000000000 / units;
	if (ns < 0)
		return 0;
	return ns > (__int128)UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

int cap_give(struct cap_reader *reader, struct cap_packet *packet, uint64_t end)
{
	/* some writers store a wire length of 0, or less than they captured */
	if (packet->len < packet->caplen)
		packet->len = packet->caplen;
	reader->truncated += packet->caplen < packet->len;
	reader->packets++;
	reader->record_pos = reader->pos;
	reader->pos = end;
	if (reader->bytes - end > CAP_PREFETCH)
		cap_prefetch(reader->base + end);
	return 1;
}

/* Takes the file header; `magic` is its first word as it lies there. */
int pcap_header(struct cap_reader *reader, uint32_t magic)
{
	const uint8_t *at = reader->base + reader->pos;
	uint32_t plain, version;

	reader->swapped = magic != PCAP_MAGIC_US && magic != PCAP_MAGIC_NS && magic != PCAP_MAGIC_MODIFIED;
	plain = reader->swapped ? __builtin_bswap32(magic) : magic;
	if (cap_left(reader) < PCAP_HEADER) {
		if (!reader->final)
			return -EAGAIN;
		return cap_refuse(reader, "a pcap file starts with a header of %u bytes, this one has %llu in all", PCAP_HEADER, (unsigned long long)cap_left(reader));
	}
	version = (uint32_t)cap_u16(reader, at + 4) << 16 | cap_u16(reader, at + 6);
	if (version >> 16 < 2)
		return cap_refuse(reader, "pcap version %u.%u: 2.0 or later is expected", version >> 16, version & 0xffff);
	reader->nanos = plain == PCAP_MAGIC_NS;
	reader->record_bytes = plain == PCAP_MAGIC_MODIFIED ? PCAP_RECORD_MODIFIED : PCAP_RECORD;
	reader->len_order = version == 0x20003 ? 1 : version < 0x20003 ? 2 : 0;
	reader->interface_cnt = 1;
	reader->interface[0].snaplen = cap_u32(reader, at + 16);
	reader->interface[0].linktype = cap_u32(reader, at + 20) & 0x03ffffff;   /* the bits above tell the length of the FCS */
	reader->interface[0].ts_units = reader->nanos ? 1000000000 : 1000000;
	reader->format = CAP_FORMAT_PCAP;
	reader->pos += PCAP_HEADER;
	return 0;
}

int pcap_next(struct cap_reader *reader, struct cap_packet *packet)
{
	const uint8_t *at = reader->base + reader->pos;
	uint64_t left = cap_left(reader);
	uint32_t first, second, swap;
	int err;

	if (!left)
		return reader->final ? cap_end(reader, 0) : -EAGAIN;
	err = cap_need(reader, "record header", reader->record_bytes);
	if (err || reader->ended)
		return err;
	first = cap_u32(reader, at + 8);
	second = cap_u32(reader, at + 12);
	swap = reader->len_order == 2 || (reader->len_order == 1 && first > second);
	packet->caplen = swap ? second : first;
	packet->len = swap ? first : second;
	if (packet->caplen > CAP_MAX_PACKET)
		return cap_stop(reader, "broken", "captured length %u, at most %u is possible", packet->caplen, CAP_MAX_PACKET);
	err = cap_need(reader, "record", (uint64_t)reader->record_bytes + packet->caplen);
	if (err || reader->ended)
		return err;
	packet->ts_ns = (uint64_t)cap_u32(reader, at) * 1000000000 + (uint64_t)cap_u32(reader, at + 4) * (reader->nanos ? 1 : 1000);
	packet->off = reader->pos + reader->record_bytes;
	packet->linktype = reader->interface[0].linktype;
	packet->interface = 0;
	return cap_give(reader, packet, packet->off + packet->caplen);
}

static int cap_detect(struct cap_reader *reader)
{
	uint32_t magic, swapped;

	if (cap_left(reader) < sizeof(magic)) {
		if (!reader->final)
			return -EAGAIN;
		return cap_refuse(reader, cap_left(reader) ? "not a capture: only %llu bytes" : "not a capture: the file is empty (%llu bytes)",
				  (unsigned long long)cap_left(reader));
	}
	memcpy(&magic, reader->base + reader->pos, sizeof(magic));
	swapped = __builtin_bswap32(magic);
	if (magic == PCAPNG_MAGIC) {
		reader->format = CAP_FORMAT_PCAPNG;
		return 0;
	}
	if (magic == PCAP_MAGIC_US || magic == PCAP_MAGIC_NS || magic == PCAP_MAGIC_MODIFIED || swapped == PCAP_MAGIC_US || swapped == PCAP_MAGIC_NS ||
	    swapped == PCAP_MAGIC_MODIFIED)
		return pcap_header(reader, magic);
	return cap_refuse(reader, "not a capture: starts with %02x %02x %02x %02x, a pcap or pcapng magic number is expected", reader->base[reader->pos],
			  reader->base[reader->pos + 1], reader->base[reader->pos + 2], reader->base[reader->pos + 3]);
}

void cap_init(struct cap_reader *reader)
{
	memset(reader, 0, sizeof(*reader));
}

int cap_next(struct cap_reader *reader, struct cap_packet *packet)
{
	int err;

	if (reader->ended)
		return reader->result;
	if (reader->format == CAP_FORMAT_UNKNOWN) {
		err = cap_detect(reader);
		if (err)
			return err;
	}
	return reader->format == CAP_FORMAT_PCAP ? pcap_next(reader, packet) : pcapng_next(reader, packet);
}

void cap_unread(struct cap_reader *reader, const struct cap_packet *packet)
{
	reader->truncated -= packet->caplen < packet->len;
	reader->packets--;
	reader->pos = reader->record_pos;
}
