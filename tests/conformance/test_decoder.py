"""What is refused at load, with which words; and that Linux refuses it too."""

from __future__ import annotations

import pytest

from shmbpf.asm import assemble, encode, isa_rows
from shmbpf.errors import LoadError
from tests.conformance.machine import SCHED_CLS, SOCKET_FILTER, XDP, HookedProgram

EXIT = assemble("r0 = 0\nexit")

REFUSED = {
    "unknown opcode": (XDP, bytes.fromhex("ff00000000000000") + EXIT, "instruction 0: unknown opcode ff"),
    "atomic with unknown operation": (XDP, bytes.fromhex("db1af8ff77000000") + EXIT, "unknown opcode db"),
    "reserved dst": (XDP, bytes.fromhex("9501000000000000"), "reserved fields: dst"),
    "reserved src": (XDP, bytes.fromhex("b710000000000000") + EXIT, "reserved fields: src"),
    "reserved off": (XDP, bytes.fromhex("0f21010000000000") + EXIT, "reserved fields: off"),
    "reserved imm": (XDP, bytes.fromhex("bf21000001000000") + EXIT, "reserved fields: imm"),
    "register 11": (XDP, bytes.fromhex("b70b000000000000") + EXIT, "R11 is invalid"),
    "source register 12": (XDP, bytes.fromhex("bfc0000000000000") + EXIT, "R12 is invalid"),
    "write to r10": (XDP, bytes.fromhex("b70a000000000000") + EXIT, "frame pointer is read only"),
    "load into r10": (XDP, bytes.fromhex("611a000000000000") + EXIT, "frame pointer is read only"),
    "fetch into r10": (XDP, bytes.fromhex("dbaaf8ff01000000") + EXIT, "frame pointer is read only"),
    "jump past the end": (XDP, assemble("r0 = 0\ngoto +1\nexit"), "jump out of range from insn 1 to 3"),
    "jump before the start": (XDP, assemble("r0 = 0\nif r0 == 1 goto -3\nexit"), "jump out of range from insn 1 to -1"),
    "jump into ld_imm64": (XDP, assemble("r0 = 0\nif r0 == 1 goto +1\nr1 = 5 ll\nexit"), "middle of ldimm64 insn 2"),
    "call out of range": (XDP, assemble("call pc+7\nexit"), "call to invalid destination 8"),
    "call into ld_imm64": (XDP, assemble("call pc+3\nexit\nr0 = 1\nr1 = 5 ll\nexit"), "middle of ldimm64"),
    "jump out of the subprogram": (XDP, assemble("call sub\nexit\nsub:\nr0 = 0\nif r0 == 0 goto -3\nexit"), "jump out of range"),
    "falling off the end": (XDP, assemble("r0 = 0"), "last insn is not an exit or jmp"),
    "subprogram falls into the next": (XDP, assemble("call one\ncall two\nexit\none:\nr0 = 0\ntwo:\nr0 = 1\nexit"), "last insn is not an exit or jmp"),
    "unreachable code": (XDP, assemble("r0 = 0\nexit\nr0 = 1\nexit"), "unreachable insn 2"),
    "half an ld_imm64": (XDP, bytes.fromhex("1800000000000000"), "second slot is missing"),
    "second slot not empty": (XDP, bytes.fromhex("1800000000000000" "0100000000000000") + assemble("exit"), "second slot is missing or not empty"),
    "map number behind a map load": (XDP, bytes.fromhex("1811000001000000" "0000000001000000") + EXIT, "second slot must be 0"),
    "map that does not exist": (XDP, assemble("r1 = map[id:4294967]") + EXIT, "map id 4294967 cannot be opened"),
    "division by constant zero": (XDP, assemble("r0 = 1\nr0 /= 0\nexit"), "div by zero"),
    "shift too wide": (XDP, assemble("r0 = 1\nr0 <<= 64\nexit"), "invalid shift 64"),
    "32-bit shift too wide": (XDP, assemble("r0 = 1\nw0 >>= 32\nexit"), "invalid shift 32"),
    "kernel function": (XDP, bytes.fromhex("8520000001000000") + EXIT, "no kfuncs"),
    "helper that nobody has": (XDP, assemble("call 9999") + EXIT, "unknown helper 9999"),
    "helper of another program type": (XDP, assemble("r2 = 0\ncall 38") + EXIT, r"helper 38 \(bpf_skb_change_tail\) is unavailable to XDP programs"),
    "XDP helper in tc": (SCHED_CLS, assemble("r2 = 0\ncall 44") + EXIT, r"helper 44 \(bpf_xdp_adjust_head\) is unavailable to tc classifier programs"),
    "tc helper in a socket filter": (SOCKET_FILTER, assemble("r2 = 0\ncall 38") + EXIT, "unavailable to socket filter programs"),
    "packet load in XDP": (XDP, assemble("r6 = r1\nr0 = *(u8 *)skb[0]\nexit"), "not allowed for XDP programs"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_decoder_refuses(name):
    type, code, words = REFUSED[name]
    with pytest.raises(LoadError, match=words):
        HookedProgram(type, code)


@pytest.mark.kernel
@pytest.mark.parametrize("name", REFUSED)
def test_linux_refuses_it_too(name, kernel):
    type, code, _ = REFUSED[name]
    with pytest.raises(OSError):
        kernel.KernelProgram.from_insns(type, code)


def test_helper_known_by_name_only_is_refused_by_name():
    with pytest.raises(LoadError, match=r"unknown helper 69 \(bpf_fib_lookup\)"):
        HookedProgram(XDP, assemble("call 69") + EXIT)


def test_gpl_helper_needs_a_gpl_program():
    code = assemble("r1 = r10\nr1 += -8\nr2 = 8\n*(u64 *)(r10 -8) = 0\ncall 6") + EXIT
    HookedProgram(XDP, code, gpl=True).close()
    with pytest.raises(LoadError, match="GPL-restricted helper 6"):
        HookedProgram(XDP, code, gpl=False)


def test_unhooked_program_type_is_refused():
    with pytest.raises(LoadError, match="type 2 have no hook"):
        HookedProgram(2, EXIT)


def test_subprogram_limit_is_linuxes():
    """256 with the main program: the 256th callee is one too many."""

    def calls(count: int) -> bytes:
        return b"".join(encode("CALL_LOCAL", imm=count - at + 2 * at) for at in range(count)) + assemble("exit") + EXIT * count

    HookedProgram(XDP, calls(255)).close()
    with pytest.raises(LoadError, match="too many subprograms"):
        HookedProgram(XDP, calls(256))


@pytest.mark.kernel
def test_every_opcode_byte_is_known_or_unknown_as_in_linux(kernel):
    """With all other fields zero: nothing Linux calls an unknown opcode is accepted, and nothing else is called unknown by us."""
    from tests.support import bpf_syscall

    for code in range(256):
        insns = bytes((code,)) + bytes(7) + EXIT
        try:
            bpf_syscall.prog_load(XDP, insns)
            log = ""
        except OSError as error:
            log = str(error)
        unknown = "unknown opcode" in log or "unknown class" in log or "invalid BPF" in log
        known_here = any(row.code == code for row in isa_rows().values())
        assert not (unknown and known_here), (hex(code), log)
