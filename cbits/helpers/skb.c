/*
 * skb.c - the moves all skb helpers are made of. The packet stays inside [hard_start, hard_end): where an end runs out of room the bytes are moved to the
 * middle of what is free, as Linux reallocates the buffer.
 */
#include "skb.h"

/* Makes room for `front` bytes before and `back` bytes behind the packet. */
static int reserve(struct vm_packet *packet, uint64_t front, uint64_t back)
{
	uint64_t length = skb_len(packet), space = (uint64_t)(packet->hard_end - packet->hard_start);
	uint8_t *data;

	if ((uint64_t)(packet->data - packet->hard_start) >= front && (uint64_t)(packet->hard_end - packet->tail) >= back)
		return 0;
	if (front + length + back > space)
		return -ENOMEM;
	data = packet->hard_start + front + (space - front - length - back) / 2;
	memmove(data, packet->data, length);
	packet->data = data;
	packet->meta = data;
	packet->tail = data + length;
	return 0;
}

static void move_headers(struct vm_packet *packet, int32_t bytes)
{
	packet->mac_len += (uint32_t)bytes;
	if (packet->transport_off)
		packet->transport_off += bytes;
}

int skb_push(struct vm_packet *packet, uint32_t bytes)
{
	int error = reserve(packet, bytes, 0);

	if (error)
		return error;
	packet->data -= bytes;
	packet->meta = packet->data;
	move_headers(packet, (int32_t)bytes);
	return 0;
}

int skb_pull(struct vm_packet *packet, uint32_t bytes)
{
	if (bytes > skb_len(packet))
		return -ENOMEM;
	packet->data += bytes;
	packet->meta = packet->data;
	move_headers(packet, -(int32_t)bytes);
	return 0;
}

int skb_set_length(struct vm_packet *packet, uint32_t length)
{
	uint32_t old = skb_len(packet);
	int error;

	if (length > old) {
		error = reserve(packet, 0, length - old);
		if (error)
			return error;
		memset(packet->tail, 0, length - old);
	}
	packet->tail = packet->data + length;
	return 0;
}
