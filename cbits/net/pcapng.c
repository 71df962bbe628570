/*
 * pcapng.c - the block format (IETF draft-ietf-opsawg-pcapng): sections, interfaces, packets.
 *
 *   +------+--------+---------------- ... -+--------+
 *   | type | length | body                 | length |   length counts all of it, a multiple of 4
 *   +------+--------+---------------- ... -+--------+
 *
 * A section header sets the byte order and forgets the interfaces. Blocks other than sections, interfaces and packets are stepped over. A block is looked at
 * only when it is in the window as a whole and both its lengths agree.
 */
#include "capture.h"

enum pcapng_block {
	PCAPNG_INTERFACE = 1,
	PCAPNG_OLD_PACKET = 2,
	PCAPNG_SIMPLE_PACKET = 3,
	PCAPNG_PACKET = 6,
	PCAPNG_SECTION = 0x0a0d0d0a,
};

enum pcapng_option { PCAPNG_OPT_END = 0, PCAPNG_OPT_TSRESOL = 9, PCAPNG_OPT_TSOFFSET = 14 };

enum pcapng_sizes { PCAPNG_FRAME = 12, PCAPNG_SECTION_MIN = 28, PCAPNG_INTERFACE_MIN = 20, PCAPNG_PACKET_MIN = 32, PCAPNG_SIMPLE_MIN = 16 };

static const uint32_t PCAPNG_BYTE_ORDER = 0x1a2b3c4d;

/* The block in hand: body bytes [body, end) of the window. */
struct pcapng_view {
	uint32_t type;
	uint32_t length;
	const uint8_t *body;
	uint32_t body_bytes;
};

/* Reads the byte order of the section that starts at pos. 1 = the capture ended, 0 = fine, -EAGAIN. */
static int section_order(struct cap_reader *reader)
{
	uint32_t magic;
	int err = cap_need(reader, "section header", PCAPNG_FRAME);

	if (err || reader->ended)
		return err ? err : 1;
	memcpy(&magic, reader->base + reader->pos + 8, sizeof(magic));
	if (magic != PCAPNG_BYTE_ORDER && __builtin_bswap32(magic) != PCAPNG_BYTE_ORDER) {
		cap_stop(reader, "broken", "section with byte order mark %08x, 1a2b3c4d is expected", magic);
		return 1;
	}
	reader->swapped = magic != PCAPNG_BYTE_ORDER;
	return 0;
}

/* Finds the block at pos and checks its frame. 1 = the capture ended, 0 = fine, -EAGAIN. */
static int block_at(struct cap_reader *reader, struct pcapng_view *block)
{
	const uint8_t *at = reader->base + reader->pos;
	uint32_t trailer;
	int err = cap_need(reader, "block header", 8);

	if (err || reader->ended)
		return err ? err : 1;
	block->type = cap_u32(reader, at);
	if (block->type == PCAPNG_SECTION) {
		err = section_order(reader);
		if (err)
			return err;
	}
	block->length = cap_u32(reader, at + 4);
	if (block->length < PCAPNG_FRAME || block->length % 4 || block->length > CAP_MAX_BLOCK) {
		cap_stop(reader, "broken", "block of type %u has length %u; a multiple of 4 from %u to %u is expected", block->type, block->length, PCAPNG_FRAME,
			 CAP_MAX_BLOCK);
		return 1;
	}
	err = cap_need(reader, "block", block->length);
	if (err || reader->ended)
		return err ? err : 1;
	trailer = cap_u32(reader, at + block->length - 4);
	if (trailer != block->length) {
		cap_stop(reader, "broken", "block of type %u has length %u at its start and %u at its end", block->type, block->length, trailer);
		return 1;
	}
	block->body = at + 8;
	block->body_bytes = block->length - PCAPNG_FRAME;
	return 0;
}

/* 1 when the block has at least `min` bytes, else ends the capture. */
static int block_has(struct cap_reader *reader, const struct pcapng_view *block, uint32_t min)
{
	if (block->length >= min)
		return 1;
	cap_stop(reader, "broken", "block of type %u has length %u, at least %u is expected", block->type, block->length, min);
	return 0;
}

static void take_section(struct cap_reader *reader, const struct pcapng_view *block)
{
	uint16_t major;

	if (!block_has(reader, block, PCAPNG_SECTION_MIN))
		return;
	major = cap_u16(reader, block->body + 4);
	if (major != 1) {
		cap_stop(reader, "broken", "pcapng version %u, 1 is expected", major);
		return;
	}
	reader->interface_cnt = 0;
}

/* Units per second of an if_tsresol byte: 10^-n, or 2^-n with the high bit set; 0 = does not fit. */
static uint64_t resolution_units(uint8_t resolution)
{
	uint64_t units = 1;
	uint8_t exponent = resolution & 0x7f;

	if (resolution & 0x80)
		return exponent < 64 ? 1ULL << exponent : 0;
	if (exponent > 19)
		return 0;
	while (exponent--)
		units *= 10;
	return units;
}

/* One option of an interface block. 0, or -1 when the capture ended. */
static int take_option(struct cap_reader *reader, struct cap_interface *interface, uint16_t code, const uint8_t *value, uint16_t bytes)
{
	uint64_t high, low;

	if (code == PCAPNG_OPT_TSRESOL && bytes == 1) {
		interface->ts_units = resolution_units(value[0]);
		if (!interface->ts_units) {
			cap_stop(reader, "broken", "interface %u has time stamp resolution 0x%02x, which is too fine", reader->interface_cnt, value[0]);
			return -1;
		}
	}
	if (code == PCAPNG_OPT_TSOFFSET && bytes == 8) {
		high = cap_u32(reader, value + (reader->swapped == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) ? 0 : 4));
		low = cap_u32(reader, value + (reader->swapped == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) ? 4 : 0));
		interface->ts_offset = (int64_t)(high << 32 | low);
	}
	return 0;
}

static void take_interface(struct cap_reader *reader, const struct pcapng_view *block)
{
	struct cap_interface interface = { .ts_units = 1000000 };
	const uint8_t *at = block->body + 8, *end = block->body + block->body_bytes;
	uint16_t code, bytes;

	if (!block_has(reader, block, PCAPNG_INTERFACE_MIN))
		return;
	interface.linktype = cap_u16(reader, block->body);
	interface.snaplen = cap_u32(reader, block->body + 4);
	while (end - at >= 4) {
		code = cap_u16(reader, at);
		bytes = cap_u16(reader, at + 2);
		if (code == PCAPNG_OPT_END)
			break;
		at += 4;
		if (bytes > end - at) {
			cap_stop(reader, "broken", "option %u of interface %u needs %u bytes, its block has %u", code, reader->interface_cnt, bytes,
				 (uint32_t)(end - at));
			return;
		}
		if (take_option(reader, &interface, code, at, bytes))
			return;
		at += (bytes + 3) & ~3;   /* the block's end is a multiple of 4, too: never beyond it */
	}
	if (reader->interface_cnt < CAP_MAX_INTERFACES)
		reader->interface[reader->interface_cnt] = interface;
	if (reader->interface_cnt < UINT32_MAX)
		reader->interface_cnt++;
}

/* Fills in what the packet's interface knows. 0 when there is no such interface (the capture ends). */
static int packet_interface(struct cap_reader *reader, struct cap_packet *packet, uint32_t number, uint64_t stamp)
{
	const struct cap_interface *interface;

	if (number >= reader->interface_cnt || number >= CAP_MAX_INTERFACES) {
		cap_stop(reader, "broken", "packet of interface %u, the section has %u (up to %u are remembered)", number, reader->interface_cnt, CAP_MAX_INTERFACES);
		return 0;
	}
	interface = &reader->interface[number];
	packet->interface = number;
	packet->linktype = interface->linktype;
	packet->ts_ns = cap_time(stamp, interface->ts_units, interface->ts_offset);
	return 1;
}

/* Checks the captured length against its block and gives the packet out. */
static int packet_give(struct cap_reader *reader, struct cap_packet *packet, const struct pcapng_view *block, uint32_t data_off)
{
	if (packet->caplen > CAP_MAX_PACKET)
		return cap_stop(reader, "broken", "captured length %u, at most %u is possible", packet->caplen, CAP_MAX_PACKET);
	if (packet->caplen > block->body_bytes - data_off)
		return cap_stop(reader, "broken", "captured length %u, its block has room for %u", packet->caplen, block->body_bytes - data_off);
	packet->off = reader->pos + 8 + data_off;
	return cap_give(reader, packet, reader->pos + block->length);
}

/* Enhanced packet block, and the obsolete packet block, which differs in its first word only. */
static int take_packet(struct cap_reader *reader, struct cap_packet *packet, const struct pcapng_view *block)
{
	const uint8_t *body = block->body;
	uint32_t number;

	if (!block_has(reader, block, PCAPNG_PACKET_MIN))
		return 0;
	number = block->type == PCAPNG_PACKET ? cap_u32(reader, body) : cap_u16(reader, body);
	if (!packet_interface(reader, packet, number, (uint64_t)cap_u32(reader, body + 4) << 32 | cap_u32(reader, body + 8)))
		return 0;
	packet->caplen = cap_u32(reader, body + 12);
	packet->len = cap_u32(reader, body + 16);
	return packet_give(reader, packet, block, 20);
}

/* Simple packet block: no time, no captured length; interface 0's snaplen and the block bound it. */
static int take_simple_packet(struct cap_reader *reader, struct cap_packet *packet, const struct pcapng_view *block)
{
	uint32_t snaplen;

	if (!block_has(reader, block, PCAPNG_SIMPLE_MIN) || !packet_interface(reader, packet, 0, 0))
		return 0;
	packet->ts_ns = 0;
	packet->len = cap_u32(reader, block->body);
	packet->caplen = packet->len;
	snaplen = reader->interface[0].snaplen;
	if (snaplen && packet->caplen > snaplen)
		packet->caplen = snaplen;
	if (packet->caplen > block->body_bytes - 4)
		packet->caplen = block->body_bytes - 4;
	return packet_give(reader, packet, block, 4);
}

/* The first section decides whether this is a capture at all. */
static int first_section(struct cap_reader *reader, const struct pcapng_view *block, int err)
{
	if (err == 1 || reader->ended) {
		reader->result = -EINVAL;
		return -EINVAL;
	}
	if (!err && block->type != PCAPNG_SECTION)
		return cap_refuse(reader, "not a capture: pcapng starts with a section header");
	return err;
}

int pcapng_next(struct cap_reader *reader, struct cap_packet *packet)
{
	struct pcapng_view block = { 0 };
	int err;

	while (!reader->ended) {
		if (!cap_left(reader)) {
			reader->ended = reader->final;
			return reader->final ? 0 : -EAGAIN;
		}
		err = block_at(reader, &block);
		if (!err && block.type == PCAPNG_SECTION)
			take_section(reader, &block);
		if (reader->pos + reader->stream_off == 0) {
			err = first_section(reader, &block, err);
			if (err)
				return err;
		}
		if (err || reader->ended)
			return err < 0 ? err : reader->result;
		if (block.type == PCAPNG_PACKET || block.type == PCAPNG_OLD_PACKET)
			return take_packet(reader, packet, &block);
		if (block.type == PCAPNG_SIMPLE_PACKET)
			return take_simple_packet(reader, packet, &block);
		if (block.type == PCAPNG_INTERFACE)
			take_interface(reader, &block);
		if (!reader->ended)
			reader->pos += block.length;
	}
	return reader->result;
}
