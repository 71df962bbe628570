"""What stops a run, where, and why: every fault has its code, its instruction and a sentence."""

from __future__ import annotations

import pytest

from shmbpf.asm import assemble
from shmbpf.engine.bare import BareProgram
from shmbpf.errors import ProgramFault
from tests.conformance.machine import SCHED_CLS, SOCKET_FILTER, XDP, HookedProgram

PACKET = bytes(range(64))
DATA = "r2 = *(u32 *)(r1 +0)\n"
MEMORY, CTX, HELPER, STACK = "VM_FAULT_MEMORY", "VM_FAULT_CTX", "VM_FAULT_HELPER", "VM_FAULT_STACK"

STOPPED = {
    "below the frame": (XDP, "r0 = *(u64 *)(r10 -520)\nexit", MEMORY, 0, "8 bytes before the stack"),
    "straddling the frame's end": (XDP, "r0 = *(u64 *)(r10 -4)\nexit", MEMORY, 0, "508 bytes into the stack"),
    "above the first frame": (XDP, "*(u8 *)(r10 +0) = 1\nexit", MEMORY, 0, "0 bytes behind the end of the stack"),
    "callee below its frame": (XDP, "call f\nexit\nf:\n*(u8 *)(r10 -513) = 1\nexit", MEMORY, 2, "before the stack"),
    "behind the packet": (XDP, DATA + "r0 = *(u8 *)(r2 +64)\nexit", MEMORY, 1, "0 bytes behind the end of the packet"),
    "straddling the packet's end": (XDP, DATA + "r0 = *(u32 *)(r2 +62)\nexit", MEMORY, 1, "62 bytes into the packet"),
    "before the packet": (XDP, DATA + "*(u8 *)(r2 -1) = 0\nexit", MEMORY, 1, "1 bytes before the packet"),
    "null pointer": (XDP, "r2 = 0\nr0 = *(u64 *)(r2 +8)\nexit", MEMORY, 1, "is NULL or close to it"),
    "wild pointer": (XDP, "r2 = 0x123456789abc ll\n*(u32 *)(r2 +0) = 1\nexit", MEMORY, 2, "is in no memory of this program"),
    "wrapping pointer": (XDP, "r2 = -1\nr0 = *(u64 *)(r2 +0)\nexit", MEMORY, 1, "not allowed"),
    "atomic on the packet": (XDP, DATA + "r3 = 1\nlock *(u64 *)(r2 +0) += r3\nexit", MEMORY, 2, "packet or context"),
    "atomic on the context": (SCHED_CLS, "r3 = 1\nlock *(u32 *)(r1 +8) += r3\nexit", MEMORY, 1, "packet or context"),
    "store to a read-only context field": (XDP, "*(u32 *)(r1 +0) = 1\nexit", CTX, 0, "4-byte store at offset 0"),
    "store to skb->len": (SCHED_CLS, "*(u32 *)(r1 +0) = 1\nexit", CTX, 0, "4-byte store at offset 0"),
    "half a packet pointer": (XDP, "r0 = *(u16 *)(r1 +0)\nexit", CTX, 0, "2-byte load at offset 0"),
    "two fields at once": (XDP, "r0 = *(u64 *)(r1 +0)\nexit", CTX, 0, "8-byte load at offset 0"),
    "behind the context": (XDP, "r0 = *(u32 *)(r1 +24)\nexit", MEMORY, 0, "behind the end of the context"),
    "packet pointer in a socket filter": (SOCKET_FILTER, "r0 = *(u32 *)(r1 +76)\nexit", CTX, 0, "offset 76"),
    "nine frames": (XDP, "r1 = 0\ncall a\nexit\na:\ncall b\nexit\nb:\ncall c\nexit\nc:\ncall d\nexit\nd:\ncall e\nexit\ne:\ncall f\nexit\n"
                         "f:\ncall g\nexit\ng:\ncall h\nexit\nh:\nr0 = 0\nexit", STACK, 15, "call would be frame 9"),
    "recursion": (XDP, "f:\ncall f\nexit", STACK, 0, "call would be frame 9"),
    "context argument that is none": (XDP, "r1 = 0\nr2 = 0\ncall 44\nexit", HELPER, 2, "bpf_xdp_adjust_head: r1 = 0x0, expected the context"),
    "map argument that is none": (XDP, "r2 = r10\nr2 += -4\ncall 1\nexit", HELPER, 2, "expected a map of this program"),
    "helper reads below the stack": (XDP, "r1 = r10\nr1 += -520\nr2 = 16\nr3 = 0\nr4 = r10\nr4 += -8\ncall 105\nexit", HELPER, 6, "16 readable bytes"),
    "helper writes to a misaligned long": (XDP, "r1 = r10\nr1 += -16\nr2 = 8\nr3 = 0\nr4 = r10\nr4 += -7\ncall 105\nexit", HELPER, 6, "multiple of 8"),
    "callback that is no function": (XDP, "r1 = 1\nr2 = 7\nr3 = 0\nr4 = 0\ncall 181\nexit", HELPER, 4, "expected a function of this program"),
    "fault inside a callback": (XDP, "r1 = 3\nr2 = subprog[back]\nr3 = 0\nr4 = 0\ncall 181\nexit\nback:\nr0 = *(u8 *)(r10 +600)\nexit", MEMORY, 7, "load"),
    "packet load without context in r6": (SCHED_CLS, "r6 = 0\nr0 = *(u8 *)skb[0]\nexit", CTX, 1, "r6 is not the context"),
}  # fmt: skip

ABORT = {XDP: 0, SCHED_CLS: 2, SOCKET_FILTER: 0}


@pytest.mark.parametrize("name", STOPPED)
def test_run_is_stopped(name):
    type, source, code, insn, words = STOPPED[name]
    with HookedProgram(type, assemble(source)) as program:
        run = program.run(PACKET)
    assert (run.fault, run.insn) == (code, insn), run.detail
    assert words in run.detail
    assert run.retval == ABORT[type]


@pytest.mark.kernel
@pytest.mark.parametrize("name", STOPPED)
def test_linux_refuses_the_program(name, kernel):
    """Each of these is a certain fault, so the verifier must have seen it."""
    type, source, *_ = STOPPED[name]
    with pytest.raises(OSError):
        kernel.KernelProgram.from_insns(type, assemble(source))


def test_endless_loop_spends_the_budget():
    with BareProgram(assemble("r0 = 0\nloop:\nr0 += 1\ngoto loop")) as bare, pytest.raises(ProgramFault, match="budget of 1000 spent"):
        bare.run(budget=1000)


def test_budget_counts_the_instructions_of_a_loop():
    loop = assemble("r1 = 100\nloop:\nr1 += -1\nif r1 != 0 goto loop\nr0 = r1\nexit")
    with BareProgram(loop) as bare:
        assert bare.run(budget=198).r0 == 0
        with pytest.raises(ProgramFault, match="budget"):
            bare.run(budget=197)


def test_calls_without_loops_spend_the_budget_too():
    levels = "".join(f"f{n}:\n" + f"call f{n + 1}\n" * 30 + "exit\n" for n in range(7)) + "f7:\nr0 = 1\nexit"
    with BareProgram(assemble("call f1\nexit\n" + levels.replace("f0:\n" + "call f1\n" * 30 + "exit\n", ""))) as bare:
        with pytest.raises(ProgramFault, match="budget"):
            bare.run(budget=100_000)


def test_fault_leaves_the_cpu_usable():
    with HookedProgram(XDP, assemble(DATA + "r0 = *(u8 *)(r2 +20)\nif r0 == 20 goto bad\nr0 = 2\nexit\nbad:\ncall f\nexit\nf:\n*(u8 *)(r10 +512) = 0\nexit")) as program:
        assert program.run(PACKET).fault == MEMORY
        assert program.run(bytes(64)).retval == 2
        assert program.run(PACKET).fault == MEMORY


def test_frame_memory_of_a_callee_is_gone_after_its_return():
    source = "r1 = r10\ncall f\nr0 = *(u64 *)(r10 -520)\nexit\nf:\n*(u64 *)(r10 -8) = 1\nr0 = 0\nexit"
    with HookedProgram(XDP, assemble(source)) as program:
        assert (program.run(PACKET).fault, program.run(PACKET).insn) == (MEMORY, 2)
