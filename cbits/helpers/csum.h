/*
 * csum.h - Internet checksum arithmetic (RFC 1071), in the 32-bit ones' complement sums that Linux calls __wsum.
 *
 * A sum is kept modulo 2^32 - 1 over the memory's little-endian words; folding to 16 bits commutes with everything here, which is why words can be added
 * as they lie in memory, whatever their byte order.
 */
#ifndef SHMBPF_CSUM_H
#define SHMBPF_CSUM_H

#include <string.h>

#include "shmbpf/cpu.h"

static inline uint32_t csum_add(uint32_t a, uint32_t b)
{
	uint64_t sum = (uint64_t)a + b;

	return (uint32_t)(sum + (sum >> 32));
}

static inline uint32_t csum_sub(uint32_t a, uint32_t b)
{
	return csum_add(a, ~b);
}

/* Adds `bytes` bytes to `sum`; an odd last byte counts as the low half of a word. */
static inline uint32_t csum_partial(const uint8_t *data, uint64_t bytes, uint32_t sum)
{
	uint32_t word;

	for (; bytes >= 4; data += 4, bytes -= 4) {
		memcpy(&word, data, 4);
		sum = csum_add(sum, word);
	}
	word = 0;
	memcpy(&word, data, bytes);
	return csum_add(sum, word);
}

/* The 16-bit sum, not inverted. */
static inline uint16_t csum_fold16(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* A block that starts at an odd offset contributes byte-swapped. */
static inline uint32_t csum_at(uint32_t sum, uint64_t offset)
{
	return offset & 1 ? sum << 24 | sum >> 8 : sum;
}

/* Takes bytes out of, and puts them into, skb->csum, when the packet has one (CHECKSUM_COMPLETE). `offset` is where they are in the packet. */
static inline void packet_csum_pull(struct vm_packet *packet, const uint8_t *data, uint64_t bytes, uint64_t offset)
{
	if (packet->csum_complete)
		packet->csum = csum_sub(packet->csum, csum_at(csum_partial(data, bytes, 0), offset));
}

static inline void packet_csum_push(struct vm_packet *packet, const uint8_t *data, uint64_t bytes, uint64_t offset)
{
	if (packet->csum_complete)
		packet->csum = csum_add(packet->csum, csum_at(csum_partial(data, bytes, 0), offset));
}

#endif
