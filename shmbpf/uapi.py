"""Linux's numbers under Linux's names. Every value comes from the compiled headers; nothing is typed in twice."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from shmbpf._ffi import ffi, lib


def _names(prefix: str) -> dict[str, int]:
    return {name[len(prefix):]: getattr(lib, name) for name in dir(lib) if name.startswith(prefix)}


def _ordered(prefix: str) -> dict[str, int]:
    return dict(sorted(_names(prefix).items(), key=lambda item: item[1]))


MapType = IntEnum("MapType", _ordered("BPF_MAP_TYPE_"))
ProgType = IntEnum("ProgType", _ordered("BPF_PROG_TYPE_"))
MapFlag = IntFlag("MapFlag", {name: value for name, value in _ordered("BPF_F_").items() if name != "LOCK"})
AttachType = IntEnum(
    "AttachType", {name.removeprefix("BPF_"): value for value, name in ffi.typeof("enum bpf_attach_type").elements.items()}
)
XdpAction = IntEnum("XdpAction", _ordered("XDP_"))
TcAction = IntEnum("TcAction", _ordered("TC_ACT_"))
Hook = IntEnum("Hook", _ordered("VM_HOOK_"))
SegmentKind = IntEnum("SegmentKind", _ordered("SHM_KIND_"))
FaultCode = IntEnum("FaultCode", _ordered("VM_FAULT_") | {"OK": lib.VM_OK})

ANY, NOEXIST, EXIST, F_LOCK = lib.BPF_ANY, lib.BPF_NOEXIST, lib.BPF_EXIST, lib.BPF_F_LOCK


def map_type_word(number: int) -> str:
    """bpftool's word for a map type: `percpu_hash`; the number itself for one that Linux does not have."""
    word = lib.map_type_name(number)
    return ffi.string(word).decode() if word != ffi.NULL else str(number)


#: bpftool's words for program types (BPF_PROG_TYPE_x is not always the word).
_PROG_WORDS = {ProgType.SOCKET_FILTER: "socket_filter"}


def prog_type_word(number: int) -> str:
    """libbpf's word for a program type: `sched_cls`, `xdp`."""
    try:
        return _PROG_WORDS.get(number) or ProgType(number).name.lower()
    except ValueError:
        return str(number)


def map_type_of(word: str) -> MapType | None:
    """The map type of a bpftool word, or None."""
    try:
        return MapType[word.upper()]
    except KeyError:
        return None
