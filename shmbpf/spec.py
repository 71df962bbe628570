"""What an object file asks for, before anything exists: plain immutable descriptions.

The loader (`shmbpf.elf`) produces these from bytes and the engine makes live objects of them. Nothing in here opens a file, a segment or a
process, so a spec can be compared, printed and tested anywhere.

    ObjectSpec -- maps ----> MapSpec (--inner--> MapSpec)
               `- programs -> ProgramSpec: one linked instruction stream (entry subprogram first, callees behind it)
                                `- MapRef: "instruction i loads map M" (or the address of M's value, plus an offset)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Mapping, Sequence

if TYPE_CHECKING:
    from shmbpf.elf.btf import Btf

#: `MapSpec.pinning`: what libbpf (`LIBBPF_PIN_*`) and iproute2 (`PIN_*`) ask for; other numbers are iproute2's custom ids.
PIN_NONE, PIN_OBJECT_NS, PIN_GLOBAL_NS = 0, 1, 2


@dataclass(frozen=True)
class MapSpec:
    """One map, as declared. Sizes in bytes; `type`, `flags` are Linux's numbers (`uapi.MapType`, `uapi.MapFlag`)."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    map_extra: int = 0
    pinning: int = PIN_NONE
    pin_by_name: bool = False  #: `pinning` came from a BTF map, where 1 means "by name" (libbpf), not PIN_OBJECT_NS (iproute2)
    inner: MapSpec | None = None  #: template of a map-in-map's inner maps
    slots: Mapping[int, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    #: static initialisers: slot -> ("prog", program name) | ("map", map name)
    data: bytes | None = None  #: first content of a data section (`.data`, `.rodata`, `.bss`: one array element)
    frozen: bool = False  #: freeze after filling (`.rodata*`)
    btf: Btf | None = None
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    section: str = ""  #: where it was declared, for messages
    elf_id: int = 0  #: iproute2 `struct bpf_elf_map.id`: joins `<id>/<slot>` sections and `inner_id`

    @property
    def is_internal(self) -> bool:
        """True for maps made from data sections."""
        return self.data is not None


@dataclass(frozen=True)
class MapRef:
    """Instruction `insn` (index of an ld_imm64's first slot) refers to the map named `map`.

    `value_offset` is None for the map itself (`BPF_PSEUDO_MAP_FD`) and a byte offset for the address of the value of its first element
    (`BPF_PSEUDO_MAP_VALUE`).
    """

    insn: int
    map: str
    value_offset: int | None = None


@dataclass(frozen=True)
class LineInfo:
    """Instructions from `insn` up to the next LineInfo come from this source line (`text` is the line itself, stripped)."""

    insn: int
    file: str
    line: int
    column: int
    text: str


@dataclass(frozen=True)
class FuncInfo:
    """Instructions from `insn` up to the next FuncInfo are the subprogram `name` (`type_id`: its BTF FUNC, 0 = unknown)."""

    insn: int
    name: str
    type_id: int = 0


@dataclass(frozen=True)
class ProgramSpec:
    """One loadable program: instructions linked and relocated but for its maps.

    `insns` is little-endian `struct bpf_insn[]`: the entry function first, then every subprogram reachable from it by a call or by a callback
    address. Calls are `BPF_PSEUDO_CALL` and callback addresses `BPF_PSEUDO_FUNC` with imm = distance in instructions, as the kernel wants them.
    """

    name: str  #: function symbol (or section name where there is none), not truncated
    section: str
    type: int  #: `uapi.ProgType`; 0 when the section name does not tell and no `--type` was given
    expected_attach_type: int
    insns: bytes
    map_refs: tuple[MapRef, ...] = ()
    lines: Sequence[LineInfo] = ()  #: ordered by instruction; decoded when looked at (`shmbpf.elf.lines.LineTable`, which also has `.at(insn)`)
    funcs: tuple[FuncInfo, ...] = ()
    license: str = ""
    autoload: bool = True  #: False for `SEC("?...")`
    tail_slot: tuple[int, int] | None = None  #: iproute2 `<map id>/<slot>` section: store into the program array with this `elf_id`
    flags: int = 0  #: BPF_F_XDP_HAS_FRAGS (`xdp.frags`), BPF_F_SLEEPABLE

    @property
    def gpl_compatible(self) -> bool:
        """As the kernel decides it (include/linux/license.h, license_is_gpl_compatible())."""
        return self.license in GPL_COMPATIBLE


GPL_COMPATIBLE = frozenset(
    ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
)


@dataclass(frozen=True)
class ObjectSpec:
    """Everything one object file declares. `name` is libbpf's object name: the file name up to its first dot."""

    path: str
    name: str
    maps: Mapping[str, MapSpec]
    programs: Mapping[str, ProgramSpec]
    license: str = ""
    btf: Btf | None = None
    warnings: tuple[str, ...] = ()
    digest: str = ""  #: SHA-1 of the file, in hex: iproute2 names an object's own pin directory by it
