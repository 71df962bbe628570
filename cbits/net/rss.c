/*
 * rss.c - which queue a packet belongs to: receive side scaling as a NIC does it.
 *
 * Toeplitz hash: for each set bit of the input, the 32 key bits that start at that bit are XORed into the result. With the symmetric key (0x6d5a repeated; Woo
 * and Park, "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling") the key bits at positions n and n + 16 are the same, so the input may be folded
 * into one 16-bit word by XOR first: one small table per byte of that word is all that is left, and swapping source and destination changes nothing.
 */
#include <string.h>

#include "frame.h"

enum rss_proto { PROTO_HOPOPTS = 0, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ROUTING = 43, PROTO_FRAGMENT = 44, PROTO_DSTOPTS = 60, PROTO_SCTP = 132 };

enum rss_limits { RSS_MAX_TAGS = 8, RSS_MAX_EXTENSIONS = 8 };

static uint32_t rss_table[2][256];

uint32_t net_toeplitz(const uint8_t *key, const uint8_t *input, uint32_t len)
{
	uint32_t hash = 0, window = (uint32_t)key[0] << 24 | (uint32_t)key[1] << 16 | (uint32_t)key[2] << 8 | key[3];
	uint32_t i;
	int bit;

	for (i = 0; i < len; i++) {
		for (bit = 7; bit >= 0; bit--) {
			if (input[i] >> bit & 1)
				hash ^= window;
			window = window << 1 | (key[i + 4] >> bit & 1);
		}
	}
	return hash;
}

__attribute__((constructor)) static void rss_fill_table(void)
{
	static const uint8_t key[6] = { 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a };
	uint8_t input[2];
	uint32_t value;

	for (value = 0; value < 256; value++) {
		input[0] = (uint8_t)value;
		input[1] = 0;
		rss_table[0][value] = net_toeplitz(key, input, 2);
		input[0] = 0;
		input[1] = (uint8_t)value;
		rss_table[1][value] = net_toeplitz(key, input, 2);
	}
}

static uint16_t load_be16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

/* XOR of the 32-bit words of `bytes` (a multiple of 4) in memory order. */
static uint32_t fold(const uint8_t *at, uint32_t bytes)
{
	uint32_t folded = 0, word, i;

	for (i = 0; i < bytes; i += 4) {
		memcpy(&word, at + i, sizeof(word));
		folded ^= word;
	}
	return folded;
}

/* Hash of an input whose words have been folded, in memory order. */
static uint32_t folded_hash(uint32_t folded)
{
	uint8_t byte[4];

	memcpy(byte, &folded, sizeof(byte));
	return rss_table[0][byte[0] ^ byte[2]] ^ rss_table[1][byte[1] ^ byte[3]];
}

/* The ports as 4 more bytes of input, when the protocol has them and they were captured. */
static uint32_t fold_ports(uint8_t proto, const uint8_t *frame, uint32_t at, uint32_t len)
{
	if (proto != PROTO_TCP && proto != PROTO_UDP && proto != PROTO_SCTP)
		return 0;
	return len >= 4 && at <= len - 4 ? fold(frame + at, 4) : 0;
}

static uint32_t hash_ipv4(const uint8_t *frame, uint32_t at, uint32_t len)
{
	const uint8_t *ip = frame + at;
	uint32_t folded, header;

	if (len - at < 20 || ip[0] >> 4 != 4)
		return 0;
	header = (ip[0] & 15u) * 4;
	folded = fold(ip + 12, 8);
	/* neither "more fragments" nor an offset: a whole datagram */
	if (!(load_be16(ip + 6) & 0x3fff) && header >= 20)
		folded ^= fold_ports(ip[9], frame, at + header, len);
	return folded_hash(folded);
}

static uint32_t hash_ipv6(const uint8_t *frame, uint32_t at, uint32_t len)
{
	const uint8_t *ip = frame + at;
	uint32_t folded, i;
	uint8_t next;

	if (len - at < 40 || ip[0] >> 4 != 6)
		return 0;
	folded = fold(ip + 8, 32);
	next = ip[6];
	at += 40;
	for (i = 0; i < RSS_MAX_EXTENSIONS; i++) {
		if (next != PROTO_HOPOPTS && next != PROTO_ROUTING && next != PROTO_DSTOPTS)
			break;
		if (len < 8 || at > len - 8)
			return folded_hash(folded);
		next = frame[at];
		at += (frame[at + 1] + 1u) * 8;
	}
	return folded_hash(folded ^ fold_ports(next, frame, at, len));
}

uint32_t frame_hash_ip(const uint8_t *ip, uint32_t len)
{
	if (!len)
		return 0;
	return ip[0] >> 4 == 4 ? hash_ipv4(ip, 0, len) : hash_ipv6(ip, 0, len);
}

uint32_t net_rss_hash(const uint8_t *frame, uint32_t len)
{
	uint32_t at = 12, tags;
	uint16_t type;

	for (tags = 0; tags <= RSS_MAX_TAGS; tags++) {
		if (len < at + 2)
			return 0;
		type = load_be16(frame + at);
		at += 2;
		if (type == ETH_IPV4)
			return hash_ipv4(frame, at, len);
		if (type == ETH_IPV6)
			return hash_ipv6(frame, at, len);
		if (type != ETH_VLAN && type != ETH_QINQ && type != ETH_QINQ_OLD)
			return 0;
		at += 2;
	}
	return 0;
}

uint32_t net_rss_queue(uint32_t hash, uint32_t cpus)
{
	/* the hash is linear in the flow, so few flows may differ in few of its bits: a multiplication brings them all to the top, which selects */
	uint32_t mixed = hash * 0x9e3779b1u;

	return (uint32_t)((uint64_t)mixed * cpus >> 32);
}
