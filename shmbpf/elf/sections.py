"""What a section's name says about the programs in it: type, attach type, flags, tail-call slot.

Three sources, in this order:
 1. the names libbpf and tc define (TABLE): certain;
 2. the user's `--type`: decides what the table does not;
 3. sensible rules for free-form names ("from-netdev", "my_xdp_prog", "cls_main"): words that only one kind of program would carry.
A name that says nothing leaves type 0; a program of type 0 is an error only when somebody wants to run it.

Table: libbpf's section_defs[] (tools/lib/bpf/libbpf.c) and iproute2's default sections (lib/bpf_legacy.c). `NAME+` stands for NAME and NAME/anything.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shmbpf.uapi import AttachType, ProgType

BPF_F_SLEEPABLE = 1 << 4
BPF_F_XDP_HAS_FRAGS = 1 << 5


class SectionMeaning(NamedTuple):
    """What a section name tells. `type` is 0 and `certain` False when it tells nothing."""

    type: int = 0
    attach_type: int = 0
    flags: int = 0
    autoload: bool = True
    tail_slot: tuple[int, int] | None = None
    certain: bool = False


#: name, program type, attach type, flags
TABLE: tuple[tuple[str, str, str, int], ...] = (
    ("socket", "SOCKET_FILTER", "", 0),
    ("sk_reuseport/migrate", "SK_REUSEPORT", "SK_REUSEPORT_SELECT_OR_MIGRATE", 0),
    ("sk_reuseport", "SK_REUSEPORT", "SK_REUSEPORT_SELECT", 0),
    ("kprobe+", "KPROBE", "", 0),
    ("uprobe+", "KPROBE", "", 0),
    ("uprobe.s+", "KPROBE", "", BPF_F_SLEEPABLE),
    ("kretprobe+", "KPROBE", "", 0),
    ("uretprobe+", "KPROBE", "", 0),
    ("uretprobe.s+", "KPROBE", "", BPF_F_SLEEPABLE),
    ("kprobe.multi+", "KPROBE", "TRACE_KPROBE_MULTI", 0),
    ("kretprobe.multi+", "KPROBE", "TRACE_KPROBE_MULTI", 0),
    ("kprobe.session+", "KPROBE", "TRACE_KPROBE_SESSION", 0),
    ("uprobe.multi+", "KPROBE", "TRACE_UPROBE_MULTI", 0),
    ("uretprobe.multi+", "KPROBE", "TRACE_UPROBE_MULTI", 0),
    ("uprobe.multi.s+", "KPROBE", "TRACE_UPROBE_MULTI", BPF_F_SLEEPABLE),
    ("uretprobe.multi.s+", "KPROBE", "TRACE_UPROBE_MULTI", BPF_F_SLEEPABLE),
    ("ksyscall+", "KPROBE", "", 0),
    ("kretsyscall+", "KPROBE", "", 0),
    ("usdt+", "KPROBE", "", 0),
    ("usdt.s+", "KPROBE", "", BPF_F_SLEEPABLE),
    ("tc/ingress", "SCHED_CLS", "TCX_INGRESS", 0),
    ("tc/egress", "SCHED_CLS", "TCX_EGRESS", 0),
    ("tcx/ingress", "SCHED_CLS", "TCX_INGRESS", 0),
    ("tcx/egress", "SCHED_CLS", "TCX_EGRESS", 0),
    ("tc+", "SCHED_CLS", "", 0),
    ("classifier+", "SCHED_CLS", "", 0),
    ("action+", "SCHED_ACT", "", 0),
    ("netkit/primary", "SCHED_CLS", "NETKIT_PRIMARY", 0),
    ("netkit/peer", "SCHED_CLS", "NETKIT_PEER", 0),
    ("tracepoint+", "TRACEPOINT", "", 0),
    ("tp+", "TRACEPOINT", "", 0),
    ("raw_tracepoint+", "RAW_TRACEPOINT", "", 0),
    ("raw_tp+", "RAW_TRACEPOINT", "", 0),
    ("raw_tracepoint.w+", "RAW_TRACEPOINT_WRITABLE", "", 0),
    ("raw_tp.w+", "RAW_TRACEPOINT_WRITABLE", "", 0),
    ("tp_btf+", "TRACING", "TRACE_RAW_TP", 0),
    ("fentry+", "TRACING", "TRACE_FENTRY", 0),
    ("fmod_ret+", "TRACING", "MODIFY_RETURN", 0),
    ("fexit+", "TRACING", "TRACE_FEXIT", 0),
    ("fentry.s+", "TRACING", "TRACE_FENTRY", BPF_F_SLEEPABLE),
    ("fmod_ret.s+", "TRACING", "MODIFY_RETURN", BPF_F_SLEEPABLE),
    ("fexit.s+", "TRACING", "TRACE_FEXIT", BPF_F_SLEEPABLE),
    ("freplace+", "EXT", "", 0),
    ("lsm+", "LSM", "LSM_MAC", 0),
    ("lsm.s+", "LSM", "LSM_MAC", BPF_F_SLEEPABLE),
    ("lsm_cgroup+", "LSM", "LSM_CGROUP", 0),
    ("iter+", "TRACING", "TRACE_ITER", 0),
    ("iter.s+", "TRACING", "TRACE_ITER", BPF_F_SLEEPABLE),
    ("syscall", "SYSCALL", "", BPF_F_SLEEPABLE),
    ("xdp.frags/devmap", "XDP", "XDP_DEVMAP", BPF_F_XDP_HAS_FRAGS),
    ("xdp/devmap", "XDP", "XDP_DEVMAP", 0),
    ("xdp_devmap+", "XDP", "XDP_DEVMAP", 0),
    ("xdp.frags/cpumap", "XDP", "XDP_CPUMAP", BPF_F_XDP_HAS_FRAGS),
    ("xdp/cpumap", "XDP", "XDP_CPUMAP", 0),
    ("xdp_cpumap+", "XDP", "XDP_CPUMAP", 0),
    ("xdp.frags+", "XDP", "XDP", BPF_F_XDP_HAS_FRAGS),
    ("xdp+", "XDP", "XDP", 0),
    ("perf_event+", "PERF_EVENT", "", 0),
    ("lwt_in+", "LWT_IN", "", 0),
    ("lwt_out+", "LWT_OUT", "", 0),
    ("lwt_xmit+", "LWT_XMIT", "", 0),
    ("lwt_seg6local+", "LWT_SEG6LOCAL", "", 0),
    ("sockops+", "SOCK_OPS", "CGROUP_SOCK_OPS", 0),
    ("sk_skb/stream_parser", "SK_SKB", "SK_SKB_STREAM_PARSER", 0),
    ("sk_skb/stream_verdict", "SK_SKB", "SK_SKB_STREAM_VERDICT", 0),
    ("sk_skb/verdict", "SK_SKB", "SK_SKB_VERDICT", 0),
    ("sk_skb+", "SK_SKB", "", 0),
    ("sk_msg+", "SK_MSG", "SK_MSG_VERDICT", 0),
    ("lirc_mode2+", "LIRC_MODE2", "LIRC_MODE2", 0),
    ("flow_dissector+", "FLOW_DISSECTOR", "FLOW_DISSECTOR", 0),
    ("cgroup_skb/ingress", "CGROUP_SKB", "CGROUP_INET_INGRESS", 0),
    ("cgroup_skb/egress", "CGROUP_SKB", "CGROUP_INET_EGRESS", 0),
    ("cgroup/skb+", "CGROUP_SKB", "", 0),
    ("cgroup_skb", "CGROUP_SKB", "", 0),
    ("cgroup/sock_create", "CGROUP_SOCK", "CGROUP_INET_SOCK_CREATE", 0),
    ("cgroup/sock_release", "CGROUP_SOCK", "CGROUP_INET_SOCK_RELEASE", 0),
    ("cgroup/sock+", "CGROUP_SOCK", "CGROUP_INET_SOCK_CREATE", 0),
    ("cgroup/post_bind4", "CGROUP_SOCK", "CGROUP_INET4_POST_BIND", 0),
    ("cgroup/post_bind6", "CGROUP_SOCK", "CGROUP_INET6_POST_BIND", 0),
    ("cgroup/bind4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_BIND", 0),
    ("cgroup/bind6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_BIND", 0),
    ("cgroup/connect4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_CONNECT", 0),
    ("cgroup/connect6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_CONNECT", 0),
    ("cgroup/connect_unix", "CGROUP_SOCK_ADDR", "CGROUP_UNIX_CONNECT", 0),
    ("cgroup/sendmsg4", "CGROUP_SOCK_ADDR", "CGROUP_UDP4_SENDMSG", 0),
    ("cgroup/sendmsg6", "CGROUP_SOCK_ADDR", "CGROUP_UDP6_SENDMSG", 0),
    ("cgroup/sendmsg_unix", "CGROUP_SOCK_ADDR", "CGROUP_UNIX_SENDMSG", 0),
    ("cgroup/recvmsg4", "CGROUP_SOCK_ADDR", "CGROUP_UDP4_RECVMSG", 0),
    ("cgroup/recvmsg6", "CGROUP_SOCK_ADDR", "CGROUP_UDP6_RECVMSG", 0),
    ("cgroup/recvmsg_unix", "CGROUP_SOCK_ADDR", "CGROUP_UNIX_RECVMSG", 0),
    ("cgroup/getpeername4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_GETPEERNAME", 0),
    ("cgroup/getpeername6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_GETPEERNAME", 0),
    ("cgroup/getpeername_unix", "CGROUP_SOCK_ADDR", "CGROUP_UNIX_GETPEERNAME", 0),
    ("cgroup/getsockname4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_GETSOCKNAME", 0),
    ("cgroup/getsockname6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_GETSOCKNAME", 0),
    ("cgroup/getsockname_unix", "CGROUP_SOCK_ADDR", "CGROUP_UNIX_GETSOCKNAME", 0),
    ("cgroup/sysctl", "CGROUP_SYSCTL", "CGROUP_SYSCTL", 0),
    ("cgroup/getsockopt", "CGROUP_SOCKOPT", "CGROUP_GETSOCKOPT", 0),
    ("cgroup/setsockopt", "CGROUP_SOCKOPT", "CGROUP_SETSOCKOPT", 0),
    ("cgroup/dev", "CGROUP_DEVICE", "CGROUP_DEVICE", 0),
    ("struct_ops+", "STRUCT_OPS", "", 0),
    ("struct_ops.s+", "STRUCT_OPS", "", BPF_F_SLEEPABLE),
    ("sk_lookup+", "SK_LOOKUP", "SK_LOOKUP", 0),
    ("netfilter", "NETFILTER", "NETFILTER", 0),
)

#: Words of a free-form name (split at everything but letters and digits; `*` = anywhere in the name) -> program type. First match wins.
_WORDS: tuple[tuple[str, str], ...] = (
    ("*xdp*", "XDP"),
    ("sockops", "SOCK_OPS"), ("sock_ops", "SOCK_OPS"), ("sk_skb", "SK_SKB"), ("skskb", "SK_SKB"), ("sk_msg", "SK_MSG"), ("skmsg", "SK_MSG"),
    ("sk_lookup", "SK_LOOKUP"), ("sk_reuseport", "SK_REUSEPORT"), ("reuseport", "SK_REUSEPORT"), ("cgroup_skb", "CGROUP_SKB"),
    ("cgroup_sock", "CGROUP_SOCK"), ("flow_dissector", "FLOW_DISSECTOR"),
    ("kprobe", "KPROBE"), ("kretprobe", "KPROBE"), ("uprobe", "KPROBE"), ("tracepoint", "TRACEPOINT"),
    ("lwt_in", "LWT_IN"), ("lwt_out", "LWT_OUT"), ("lwt_xmit", "LWT_XMIT"), ("lwt_seg6local", "LWT_SEG6LOCAL"),
    ("act", "SCHED_ACT"), ("action", "SCHED_ACT"),
    ("tc", "SCHED_CLS"), ("tcx", "SCHED_CLS"), ("cls", "SCHED_CLS"), ("clsact", "SCHED_CLS"), ("classifier", "SCHED_CLS"), ("sched_cls", "SCHED_CLS"),
    ("ingress", "SCHED_CLS"), ("egress", "SCHED_CLS"), ("netdev", "SCHED_CLS"), ("from", "SCHED_CLS"), ("to", "SCHED_CLS"), ("qdisc", "SCHED_CLS"),
    ("skb", "SCHED_CLS"), ("netkit", "SCHED_CLS"),
    ("socket", "SOCKET_FILTER"), ("sock", "SOCKET_FILTER"), ("filter", "SOCKET_FILTER"),
    ("prog", "XDP"),  # tc's and ip's default section for XDP
)  # fmt: skip

_EXACT = {name.removesuffix("+"): row for row in TABLE for name in (row[0],)}
_PREFIXES = sorted((row for row in TABLE if row[0].endswith("+")), key=lambda row: -len(row[0]))
_TAIL_SLOT = re.compile(r"(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})/(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})")
_PROG_TYPES = {name.lower(): int(member) for name, member in ProgType.__members__.items()}


def read_section_name(name: str, program_type: int | None = None) -> SectionMeaning:
    """What `name` says; `program_type` is the user's word where the tables have none."""
    autoload = not name.startswith("?")
    name = name.removeprefix("?")
    slot = parse_tail_slot(name)
    if slot is not None:
        return SectionMeaning(type=program_type or 0, autoload=autoload, tail_slot=slot, certain=bool(program_type))
    row = _EXACT.get(name) or next((row for row in _PREFIXES if name.startswith(row[0][:-1] + "/")), None)
    if row is not None:
        attach = int(AttachType[row[2]]) if row[2] else 0
        return SectionMeaning(int(ProgType[row[1]]), attach, row[3], autoload, certain=True)
    if program_type:
        return SectionMeaning(program_type, autoload=autoload, certain=True)
    return SectionMeaning(_guess_type(name), autoload=autoload)


def parse_tail_slot(name: str) -> tuple[int, int] | None:
    """`<map id>/<slot>` as iproute2 reads it, with C's %i: decimal, 0x hexadecimal, leading 0 octal."""
    match = _TAIL_SLOT.fullmatch(name)
    try:
        found = tuple(_parse_c_integer(text) for text in match.groups()) if match else None
    except ValueError:  # 09: not octal
        return None
    return found if found and max(found) < 1 << 32 else None


def _parse_c_integer(text: str) -> int:
    if text[:2].lower() == "0x":
        return int(text, 16)
    return int(text, 8) if text.startswith("0") else int(text)


def _guess_type(name: str) -> int:
    lowered = name.lower()
    if lowered in _PROG_TYPES:  # "sched_cls", "socket_filter": Linux's own words
        return _PROG_TYPES[lowered]
    joined = "_" + "_".join(re.findall(r"[a-z0-9]+", lowered)) + "_"
    for word, kind in _WORDS:
        if word.strip("*") in joined if "*" in word else f"_{word}_" in joined or re.search(rf"_{word}[0-9]+_", joined):
            return int(ProgType[kind])
    return 0
