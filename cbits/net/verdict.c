/*
 * verdict.c - what a program's return code is called and where its packet goes.
 *
 * XDP: Linux v6.12 net/core/dev.c, do_xdp_generic(): unknown codes drop the packet. TC: net/sched/cls_bpf.c, cls_bpf_exec_opcode(), direct action: OK, SHOT,
 * STOLEN, TRAP, REDIRECT and UNSPEC are honoured, everything else is UNSPEC, and the end of the filter chain passes. Actions: net/sched/act_bpf.c, tcf_bpf_act():
 * PIPE, RECLASSIFY, OK, REDIRECT, SHOT are honoured, everything else falls to the default, which passes the packet on. A stolen or trapped packet never gets to the
 * stack, so here it is one of the dropped ones. Socket filters: 0 drops, else that many bytes are kept (net/core/filter.c, sk_filter_trim_cap()).
 */
#include "shmbpf/net.h"

enum verdict_index { TC_OTHER = 10, TC_ABORTED = 11, XDP_INVALID = 5, SOCKET_ACCEPT = 1, SOCKET_ABORTED = 2 };

static const char *const XDP_NAMES[] = { "aborted", "drop", "pass", "tx", "redirect", "invalid" };
static const char *const TC_NAMES[NET_VERDICTS] = { "unspec", "ok", "reclassify", "shot", "pipe", "stolen", "queued", "repeat", "redirect", "trap", "other", "aborted" };
static const char *const SOCKET_NAMES[] = { "drop", "accept", "aborted" };
static const char *const FATE_NAMES[] = { "pass", "drop", "tx", "redirect", "aborted" };

struct verdict_names {
	const char *const *name;
	uint32_t count;
	uint32_t aborted;             /* index of a faulted run */
};

static const struct verdict_names VERDICTS[NET_HOOKS] = {
	[VM_HOOK_SOCKET] = { SOCKET_NAMES, 3, SOCKET_ABORTED },
	[VM_HOOK_TC] = { TC_NAMES, NET_VERDICTS, TC_ABORTED },
	[VM_HOOK_ACT] = { TC_NAMES, NET_VERDICTS, TC_ABORTED },
	[VM_HOOK_XDP] = { XDP_NAMES, 6, XDP_ABORTED },
};

const char *net_verdict_name(uint32_t hook, uint32_t index)
{
	return hook < NET_HOOKS && index < VERDICTS[hook].count ? VERDICTS[hook].name[index] : NULL;
}

const char *net_fate_name(uint32_t fate)
{
	return fate <= NET_FATE_ABORTED ? FATE_NAMES[fate] : NULL;
}

uint32_t net_verdict_aborted(uint32_t hook)
{
	return hook < NET_HOOKS ? VERDICTS[hook].aborted : 0;
}

uint32_t net_verdict_index(uint32_t hook, uint64_t ret)
{
	uint32_t code = (uint32_t)ret;   /* Linux looks at the low 32 bits */

	switch (hook) {
	case VM_HOOK_XDP:
		return code <= XDP_REDIRECT ? code : XDP_INVALID;
	case VM_HOOK_SOCKET:
		return code ? SOCKET_ACCEPT : 0;
	default:
		return code + 1 <= TC_ACT_TRAP + 1 ? code + 1 : TC_OTHER;
	}
}

static uint32_t tc_fate(uint32_t hook, uint32_t code)
{
	if (code == TC_ACT_SHOT)
		return NET_FATE_DROP;
	if (code == TC_ACT_REDIRECT)
		return NET_FATE_REDIRECT;
	if (hook == VM_HOOK_TC && (code == TC_ACT_STOLEN || code == TC_ACT_TRAP))
		return NET_FATE_DROP;
	return NET_FATE_PASS;
}

uint32_t net_verdict_fate(uint32_t hook, uint64_t ret)
{
	static const uint8_t xdp[] = { NET_FATE_ABORTED, NET_FATE_DROP, NET_FATE_PASS, NET_FATE_TX, NET_FATE_REDIRECT };
	uint32_t code = (uint32_t)ret;

	if (hook == VM_HOOK_XDP)
		return code <= XDP_REDIRECT ? xdp[code] : NET_FATE_DROP;
	if (hook == VM_HOOK_SOCKET)
		return code ? NET_FATE_PASS : NET_FATE_DROP;
	return tc_fate(hook, code);
}
