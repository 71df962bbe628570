/*
 * xdp.c - moving the ends of an XDP frame, and copying to and from it.
 *
 * Linux v6.12 net/core/filter.c, bpf_xdp_adjust_head(), bpf_xdp_adjust_meta(), bpf_xdp_adjust_tail() and bpf_xdp_load_bytes(). Frames are linear. The first
 * bytes of the headroom belong to struct xdp_frame: neither data nor metadata may reach them.
 */
#include <string.h>

#include "helpers.h"

enum {
	ETH_HLEN = 14,
	METADATA_MAX = 252,           /* the length must fit skb_shared_info's u8, in steps of 4 */
	COPY_MAX = 0xffff,
};

static int64_t frame_len(const struct vm_packet *packet)
{
	return packet->tail - packet->data;
}

/* Metadata moves along with the head. */
static int adjust_head(struct vm_packet *packet, int64_t offset)
{
	int64_t meta_bytes = packet->data - packet->meta;
	int64_t headroom = packet->data - packet->hard_start - VM_XDP_FRAME_BYTES;

	if (headroom + offset < meta_bytes || offset > frame_len(packet) - ETH_HLEN)
		return -EINVAL;
	memmove(packet->meta + offset, packet->meta, (size_t)meta_bytes);
	packet->meta += offset;
	packet->data += offset;
	return 0;
}

uint64_t bpf_xdp_adjust_head(struct vm_cpu *cpu, uint64_t xdp, uint64_t offset, uint64_t r3, uint64_t r4, uint64_t r5)
{
	int error = adjust_head(&cpu->packet, (int32_t)offset);

	vm_packet_sync(cpu);
	return result(error);
}

static int adjust_meta(struct vm_packet *packet, int64_t offset)
{
	int64_t meta_bytes = packet->data - packet->meta - offset;

	if (meta_bytes < 0 || meta_bytes > packet->data - packet->hard_start - VM_XDP_FRAME_BYTES)
		return -EINVAL;
	if (meta_bytes & 3 || meta_bytes > METADATA_MAX)
		return -EACCES;
	packet->meta += offset;
	return 0;
}

uint64_t bpf_xdp_adjust_meta(struct vm_cpu *cpu, uint64_t xdp, uint64_t offset, uint64_t r3, uint64_t r4, uint64_t r5)
{
	int error = adjust_meta(&cpu->packet, (int32_t)offset);

	vm_packet_sync(cpu);
	return result(error);
}

static int adjust_tail(struct vm_packet *packet, int64_t offset)
{
	if (offset > packet->hard_end - packet->tail || frame_len(packet) + offset < ETH_HLEN)
		return -EINVAL;
	if (offset > 0)
		memset(packet->tail, 0, (size_t)offset);
	packet->tail += offset;
	return 0;
}

uint64_t bpf_xdp_adjust_tail(struct vm_cpu *cpu, uint64_t xdp, uint64_t offset, uint64_t r3, uint64_t r4, uint64_t r5)
{
	int error = adjust_tail(&cpu->packet, (int32_t)offset);

	vm_packet_sync(cpu);
	return result(error);
}

uint64_t bpf_xdp_get_buff_len(struct vm_cpu *cpu, uint64_t xdp, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return (uint64_t)frame_len(&cpu->packet);
}

/* -EFAULT for what no frame can have, -EINVAL for what this one does not have (bpf_xdp_pointer()). */
static int check_range(const struct vm_packet *packet, uint32_t offset, uint32_t len)
{
	if (offset > COPY_MAX || len > COPY_MAX)
		return -EFAULT;
	return (int64_t)offset + len > frame_len(packet) ? -EINVAL : 0;
}

uint64_t bpf_xdp_load_bytes(struct vm_cpu *cpu, uint64_t xdp, uint64_t offset, uint64_t buf, uint64_t len, uint64_t r5)
{
	int error = check_range(&cpu->packet, (uint32_t)offset, (uint32_t)len);

	if (!error)
		memmove(host(buf), cpu->packet.data + (uint32_t)offset, (uint32_t)len);
	return result(error);
}

uint64_t bpf_xdp_store_bytes(struct vm_cpu *cpu, uint64_t xdp, uint64_t offset, uint64_t buf, uint64_t len, uint64_t r5)
{
	int error = check_range(&cpu->packet, (uint32_t)offset, (uint32_t)len);

	if (!error)
		memmove(cpu->packet.data + (uint32_t)offset, host(buf), (uint32_t)len);
	return result(error);
}
