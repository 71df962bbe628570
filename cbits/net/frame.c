/*
 * frame.c - link types: what stands in front of the network header in a capture, and the Ethernet header that replaces it.
 *
 * Programs of every hook here see Ethernet frames, so captures of other links (Linux "any" interface, tunnels, loopback of BSDs) get a made-up header: addresses
 * that the capture knows or zeros, and the protocol it names or that the IP version tells.
 */
#include <errno.h>
#include <string.h>

#include "frame.h"

enum sll_bytes { SLL_HEADER = 16, SLL2_HEADER = 20, NULL_HEADER = 4 };

static int frame_ethernet(struct net_frame *frame)
{
	frame->hash = net_rss_hash(frame->bytes, frame->caplen);
	return 0;
}

/* Replaces the first `cut` bytes by an Ethernet header of `type`. */
static int frame_behind(struct net_frame *frame, uint32_t cut, uint16_t type, const uint8_t *source)
{
	if (frame->caplen <= cut || frame->caplen - cut > CAP_MAX_PACKET - ETH_HEADER)
		return -EMSGSIZE;
	memset(frame->header, 0, sizeof(frame->header));
	if (source)
		memcpy(frame->header + ETH_ADDRESS, source, ETH_ADDRESS);
	frame->header[12] = (uint8_t)(type >> 8);
	frame->header[13] = (uint8_t)type;
	frame->header_bytes = ETH_HEADER;
	frame->bytes += cut;
	frame->off += cut;
	frame->hash = type == ETH_IPV4 || type == ETH_IPV6 ? frame_hash_ip(frame->bytes, frame->caplen - cut) : 0;
	frame->caplen = frame->caplen - cut + ETH_HEADER;
	frame->len = frame->len - cut + ETH_HEADER;
	return 0;
}

static int frame_ip(struct net_frame *frame, uint32_t cut)
{
	if (frame->caplen <= cut)
		return -EMSGSIZE;
	return frame_behind(frame, cut, frame->bytes[cut] >> 4 == 6 ? ETH_IPV6 : ETH_IPV4, NULL);
}

/* "Linux cooked" headers: the protocol and the sender's address at fixed places; an address of another length is none of Ethernet's. */
static int frame_cooked(struct net_frame *frame, uint32_t cut, uint32_t protocol_at, uint32_t address_at, uint32_t address_bytes)
{
	const uint8_t *at = frame->bytes;

	if (frame->caplen <= cut)
		return -EMSGSIZE;
	return frame_behind(frame, cut, (uint16_t)(at[protocol_at] << 8 | at[protocol_at + 1]), address_bytes == ETH_ADDRESS ? at + address_at : NULL);
}

int frame_of(struct net_frame *frame, const uint8_t *base, const struct cap_packet *packet)
{
	frame->bytes = base + packet->off;
	frame->caplen = packet->caplen;
	frame->len = packet->len;
	frame->ts_ns = packet->ts_ns;
	frame->off = packet->off;
	frame->header_bytes = 0;
	switch (packet->linktype) {
	case CAP_LINK_ETHERNET:
		return frame_ethernet(frame);
	case CAP_LINK_RAW:
	case CAP_LINK_IPV4:
	case CAP_LINK_IPV6:
		return frame_ip(frame, 0);
	case CAP_LINK_NULL:
	case CAP_LINK_LOOP:
		return frame_ip(frame, NULL_HEADER);
	case CAP_LINK_SLL:
		return packet->caplen > SLL_HEADER ? frame_cooked(frame, SLL_HEADER, 14, 6, (uint32_t)(frame->bytes[4] << 8 | frame->bytes[5])) : -EMSGSIZE;
	case CAP_LINK_SLL2:
		return packet->caplen > SLL2_HEADER ? frame_cooked(frame, SLL2_HEADER, 0, 12, frame->bytes[11]) : -EMSGSIZE;
	default:
		return -EPROTONOSUPPORT;
	}
}
