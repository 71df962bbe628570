/*
 * out.h - a packet for an output file, with the VLAN tag that skb programs keep beside the bytes. Private to cbits/net.
 */
#ifndef SHMBPF_NET_OUT_H
#define SHMBPF_NET_OUT_H

#include "shmbpf/net.h"

struct out_frame {
	const uint8_t *bytes;
	const uint8_t *tag;           /* 4 bytes to put behind the addresses, NULL = none */
	uint32_t caplen;              /* without the tag */
	uint32_t len;
};

/* net_out_packet for such a packet. */
int out_packet(struct net_out *out, const char *file, const struct out_frame *frame, uint64_t ts_ns, uint32_t cpu);

#endif
