/*
 * test_run.c - BPF_PROG_TEST_RUN: one packet, `repeat` runs, the packet and the context as they are afterwards.
 *
 * Limits, the order of checks and every errno are Linux's (v6.18 net/bpf/test_run.c): bpf_prog_test_run_skb(), bpf_prog_test_run_xdp(),
 * convert___skb_to_skb(), bpf_test_finish(), bpf_ctx_init(), bpf_ctx_finish(). There the packet lives in one page with headroom before it and room for struct
 * skb_shared_info behind it; an XDP packet beyond that is spread over at most MAX_FRAGS pages of fragments, here it stays linear.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "cpu/region.h"
#include "vm/program.h"

enum {
	MAC_BYTES = 14,
	PAGE_BYTES = 4096,
	SHARED_INFO_BYTES = 320,
	SKB_HEADROOM = 64,            /* NET_SKB_PAD + NET_IP_ALIGN */
	MAX_SKB_BYTES = PAGE_BYTES - SKB_HEADROOM - SHARED_INFO_BYTES,
	MAX_XDP_META = 216,
	MAX_XDP_LINEAR = PAGE_BYTES - VM_HEADROOM - SHARED_INFO_BYTES,
	MAX_FRAGS = 17,               /* MAX_SKB_FRAGS */
	GSO_MAX_SEGS = 65535,
	GSO_LEGACY_MAX_BYTES = 65536,
	LOOPBACK_IFINDEX = 1,
	MAX_REPEAT = 1 << 28,
};

static int all_zero(const uint8_t *bytes, size_t from, size_t to)
{
	while (from < to)
		if (bytes[from++])
			return 0;
	return 1;
}

/* The caller's context in a buffer of the kernel's size: shorter ones are filled up, longer ones must end in zeroes. 1: there is one; 0: none asked for. */
static int read_context(const struct vm_test_run *run, void *context, uint32_t bytes)
{
	memset(context, 0, bytes);
	if (!run->ctx_in && !run->ctx_out)
		return 0;
	if (!run->ctx_in)
		return 1;
	if (run->ctx_in_bytes > bytes && !all_zero(run->ctx_in, bytes, run->ctx_in_bytes))
		return -E2BIG;
	memcpy(context, run->ctx_in, run->ctx_in_bytes < bytes ? run->ctx_in_bytes : bytes);
	return 1;
}

/* A room of 0 means "all of it", for data and context alike when there is no size hint; a room that is too small gets the beginning and -ENOSPC. */
static int write_out(uint8_t *out, uint32_t *room, const void *from, uint32_t bytes, uint32_t zero_is_all)
{
	uint32_t copied = bytes;
	int err = 0;

	if ((*room || !zero_is_all) && copied > *room) {
		copied = *room;
		err = -ENOSPC;
	}
	if (out)
		memcpy(out, from, copied);
	*room = bytes;
	return err;
}

static int repeat_runs(struct vm_cpu *cpu, struct vm_prog *prog, struct vm_test_run *run, void *context)
{
	uint32_t repeat = run->repeat ? run->repeat : 1;
	uint64_t start, ret = 0;
	int code = 0;

	if (repeat > MAX_REPEAT)
		return -EINVAL;
	start = shm_clock_ns(1);
	for (uint32_t i = 0; i < repeat && !code; i++)
		code = vm_run(cpu, prog, context, &ret);
	run->duration_ns = (shm_clock_ns(1) - start) / repeat;
	run->retval = (uint32_t)ret;
	run->fault = (uint32_t)code;
	run->redirect_ifindex = cpu->packet.redirect_set ? cpu->packet.redirect_ifindex : 0;
	return 0;
}

/* ---- socket buffers ----------------------------------------------------------------------------------------------------------------------- */

/* Fields that may be given; everything between them must be zero. */
static int unknown_fields(const uint8_t *skb)
{
	static const uint16_t zero[][2] = {
		{ 0, offsetof(struct __sk_buff, mark) },
		{ offsetof(struct __sk_buff, queue_mapping), offsetof(struct __sk_buff, priority) },
		{ offsetof(struct __sk_buff, tc_index), offsetof(struct __sk_buff, cb) },
		{ offsetof(struct __sk_buff, hash), offsetof(struct __sk_buff, tstamp) },
		{ offsetof(struct __sk_buff, sk), offsetof(struct __sk_buff, gso_size) },
		{ offsetof(struct __sk_buff, tstamp_type), offsetof(struct __sk_buff, hwtstamp) },
	};

	for (size_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
		if (!all_zero(skb, zero[i][0], zero[i][1]))
			return 1;
	return 0;
}

static int apply_skb(struct __sk_buff *skb, const struct __sk_buff *given)
{
	if (unknown_fields((const uint8_t *)given))
		return -EINVAL;
	skb->mark = given->mark;
	skb->priority = given->priority;
	skb->ingress_ifindex = given->ingress_ifindex;
	skb->tstamp = given->tstamp;
	memcpy(skb->cb, given->cb, sizeof(skb->cb));
	skb->wire_len = skb->len;
	if (given->wire_len) {
		if (given->wire_len < skb->len || given->wire_len > GSO_LEGACY_MAX_BYTES)
			return -EINVAL;
		skb->wire_len = given->wire_len;
	}
	if (given->gso_segs > GSO_MAX_SEGS)
		return -EINVAL;
	skb->gso_segs = given->gso_segs;
	skb->gso_size = (uint16_t)given->gso_size;
	skb->hwtstamp = given->hwtstamp;
	return 0;
}

static void report_skb(const struct __sk_buff *skb, struct __sk_buff *given)
{
	given->mark = skb->mark;
	given->priority = skb->priority;
	given->ingress_ifindex = skb->ingress_ifindex;
	given->ifindex = skb->ifindex;
	given->tstamp = skb->tstamp;
	memcpy(given->cb, skb->cb, sizeof(given->cb));
	given->wire_len = skb->wire_len;
	given->gso_segs = skb->gso_segs;
	given->hwtstamp = skb->hwtstamp;
}

/* Without a MAC header in the program's packet, the kernel pushes an empty one before it hands the packet out. */
static void push_empty_mac(struct vm_packet *packet)
{
	if (packet->is_l2)
		return;
	packet->data -= MAC_BYTES;
	memset(packet->data, 0, MAC_BYTES);
}

static int finish(struct vm_test_run *run, const uint8_t *data, uint32_t bytes, const void *context, uint32_t ctx_bytes)
{
	int err = write_out(run->data_out, &run->data_out_bytes, data, bytes, 1);

	if (err || !context)
		return err;
	return run->ctx_out ? write_out(run->ctx_out, &run->ctx_out_bytes, context, ctx_bytes, 0) : 0;
}

static int run_skb(struct vm_cpu *cpu, struct vm_prog *prog, struct vm_test_run *run)
{
	struct __sk_buff given;
	int has_context, err;

	if (run->data_in_bytes < MAC_BYTES || run->data_in_bytes > MAX_SKB_BYTES)
		return -EINVAL;
	has_context = read_context(run, &given, sizeof(given));
	if (has_context < 0)
		return has_context;
	err = vm_packet_load(cpu, prog->hook, run->data_in, run->data_in_bytes, prog->hook != VM_HOOK_SOCKET);
	if (err)
		return err;
	if (has_context && given.ifindex > LOOPBACK_IFINDEX)
		return -ENODEV;
	cpu->skb.wire_len = 0;
	err = has_context ? apply_skb(&cpu->skb, &given) : 0;
	if (!err)
		err = repeat_runs(cpu, prog, run, &cpu->skb);
	if (err)
		return err;
	push_empty_mac(&cpu->packet);
	report_skb(&cpu->skb, &given);
	return finish(run, cpu->packet.data, (uint32_t)(cpu->packet.tail - cpu->packet.data), has_context ? &given : NULL, sizeof(given));
}

/* ---- XDP ---------------------------------------------------------------------------------------------------------------------------------- */

/* Linux v6.18 net/bpf/test_run.c: data is the length of the metadata, data_end how much of the packet is linear; include/net/xdp.h, xdp_metalen_invalid(). */
static int check_xdp(const struct vm_test_run *run, const struct xdp_md *given)
{
	uint32_t meta = given->data;

	if (given->data_meta || given->data_end > run->data_in_bytes || meta > given->data_end)
		return -EINVAL;
	return meta % 4 || meta > MAX_XDP_META || meta > run->data_in_bytes - MAC_BYTES ? -EINVAL : 0;
}

static int apply_xdp(struct vm_cpu *cpu, const struct xdp_md *given)
{
	struct vm_packet *packet = &cpu->packet;

	if (given->egress_ifindex || (!given->ingress_ifindex && given->rx_queue_index))
		return -EINVAL;
	if (given->ingress_ifindex > LOOPBACK_IFINDEX)
		return -ENODEV;
	/* the loopback has one receive queue */
	if (given->rx_queue_index)
		return -EINVAL;
	packet->data = packet->meta + given->data;
	/* metadata comes out of the headroom; the frame keeps its size */
	packet->hard_start += given->data;
	packet->hard_end += given->data;
	vm_packet_sync(cpu);
	return 0;
}

static int run_xdp(struct vm_cpu *cpu, struct vm_prog *prog, struct vm_test_run *run)
{
	struct vm_packet *packet = &cpu->packet;
	struct xdp_md given;
	uint32_t linear = run->data_in_bytes, in_page, rest;
	int has_context = read_context(run, &given, sizeof(given)), err;

	if (has_context < 0)
		return has_context;
	if (run->data_in_bytes < MAC_BYTES)
		return -EINVAL;
	err = has_context ? check_xdp(run, &given) : 0;
	if (err)
		return err;
	if (has_context)
		linear = given.data_end;
	err = vm_packet_load(cpu, VM_HOOK_XDP, run->data_in, linear < VM_PACKET_MAX ? linear : VM_PACKET_MAX, 1);
	if (!err && has_context)
		err = apply_xdp(cpu, &given);
	/* Linux v6.18 net/bpf/test_run.c, bpf_prog_test_run_xdp(): what does not fit into the first page goes into fragments, after the context was looked at */
	in_page = linear < MAX_XDP_LINEAR ? linear : MAX_XDP_LINEAR;
	if (!err && run->data_in_bytes - in_page > MAX_FRAGS * PAGE_BYTES)
		err = -ENOMEM;
	if (!err)
		err = repeat_runs(cpu, prog, run, &cpu->xdp);
	if (err)
		return err;
	given.data = (uint32_t)(packet->data - packet->meta);
	given.data_end = (uint32_t)(packet->tail - packet->meta);
	/* what the caller kept out of the linear part is a fragment no program here touches: it comes back behind the packet */
	rest = run->data_in_bytes - linear;
	memcpy(packet->tail, run->data_in + linear, rest);
	return finish(run, packet->meta, given.data_end + rest, has_context ? &given : NULL, sizeof(given));
}

int vm_test_run(struct vm_cpu *cpu, struct vm_prog *prog, struct vm_test_run *run)
{
	if (prog->hook == VM_HOOK_NONE)
		return -EOPNOTSUPP;
	/* Linux v6.18 kernel/bpf/syscall.c, bpf_prog_test_run(): a context has a size and a size has a context */
	if (!run->ctx_in != !run->ctx_in_bytes || !run->ctx_out != !run->ctx_out_bytes)
		return -EINVAL;
	return prog->hook == VM_HOOK_XDP ? run_xdp(cpu, prog, run) : run_skb(cpu, prog, run);
}
