/*
 * frame.h - a captured packet as the Ethernet frame that programs see. Private to cbits/net.
 */
#ifndef SHMBPF_NET_FRAME_H
#define SHMBPF_NET_FRAME_H

#include "shmbpf/net.h"

enum eth_bytes { ETH_HEADER = 14, ETH_ADDRESS = 6 };

enum eth_type { ETH_IPV4 = 0x0800, ETH_IPV6 = 0x86dd, ETH_VLAN = 0x8100, ETH_QINQ = 0x88a8, ETH_QINQ_OLD = 0x9100 };

struct net_frame {
	const uint8_t *bytes;         /* captured bytes; behind `header` if there is one */
	uint32_t caplen;              /* of both together */
	uint32_t len;
	uint64_t ts_ns;
	uint64_t off;                 /* of `bytes` in the capture */
	uint32_t hash;
	uint32_t header_bytes;        /* 0: the capture has Ethernet frames itself */
	uint8_t header[16];           /* made up */
};

/* Fills `frame`. 0, or -EPROTONOSUPPORT: no Ethernet frame can be made of this link type; -EMSGSIZE: too large, or cut within its link header. */
int frame_of(struct net_frame *frame, const uint8_t *base, const struct cap_packet *packet);
/* net_rss_hash of a packet that starts with its IP header. */
uint32_t frame_hash_ip(const uint8_t *ip, uint32_t len);

#endif
