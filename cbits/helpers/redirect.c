/*
 * redirect.c - sending the packet, or a copy, to an interface by number. The number is taken as it is: which interfaces exist is known to the hook.
 *
 * Linux v6.12 net/core/filter.c, bpf_redirect(), bpf_xdp_redirect() and bpf_clone_redirect().
 */
#include "helpers.h"

enum { BPF_F_INGRESS = 1 };

static void set_target(struct vm_cpu *cpu, uint32_t ifindex, uint32_t flags)
{
	cpu->packet.redirect_ifindex = ifindex;
	cpu->packet.redirect_flags = flags;
	cpu->packet.redirect_set = 1;
}

/* Takes effect when the program returns the verdict it is given here. */
uint64_t bpf_redirect(struct vm_cpu *cpu, uint64_t ifindex, uint64_t flags, uint64_t r3, uint64_t r4, uint64_t r5)
{
	int xdp = cpu->hook == VM_HOOK_XDP;

	if (flags & ~(uint64_t)(xdp ? 0 : BPF_F_INGRESS))
		return xdp ? XDP_ABORTED : TC_ACT_SHOT;
	set_target(cpu, (uint32_t)ifindex, (uint32_t)flags);
	return xdp ? XDP_REDIRECT : TC_ACT_REDIRECT;
}

uint64_t bpf_clone_redirect(struct vm_cpu *cpu, uint64_t ctx, uint64_t ifindex, uint64_t flags, uint64_t r4, uint64_t r5)
{
	const struct vm_packet *packet = &cpu->packet;

	if (flags & ~(uint64_t)BPF_F_INGRESS || !(uint32_t)ifindex)
		return result(-EINVAL);
	if (!packet->mac_len)
		return result(-ERANGE);
	if (cpu->emit)
		cpu->emit(cpu, (uint32_t)ifindex, (uint32_t)flags, packet->data, (uint32_t)(packet->tail - packet->data));
	return 0;
}
