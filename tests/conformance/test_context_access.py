"""ctx.def against Linux: every offset, size and direction, for each hook, is allowed exactly when the kernel's verifier allows it."""

from __future__ import annotations

import struct

import pytest

from shmbpf._ffi import lib
from shmbpf.asm import assemble
from tests.conformance.machine import SCHED_ACT, SCHED_CLS, SOCKET_FILTER, XDP
from tests.support import bpf_syscall

HOOKS = {SOCKET_FILTER: lib.VM_HOOK_SOCKET, SCHED_CLS: lib.VM_HOOK_TC, SCHED_ACT: lib.VM_HOOK_ACT, XDP: lib.VM_HOOK_XDP}
SK = range(168, 176)  #: __sk_buff.sk: a pointer to a socket, which packets here do not have


def accepted(type: int, code: bytes) -> bool:
    """Asks the verifier without a log."""
    import ctypes
    import os

    insns, terms = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("=2I2Q2IQ2I", type, len(code) // 8, ctypes.addressof(insns), ctypes.addressof(terms), 0, 0, 0, 0, 0)
    try:
        os.close(bpf_syscall.bpf(bpf_syscall.PROG_LOAD, attr)[0])
    except OSError:
        return False
    return True


@pytest.mark.kernel
@pytest.mark.parametrize("type", HOOKS)
def test_context_access_is_allowed_as_in_linux(type, kernel):
    differ = []
    for off in range(0, 26 if type == XDP else 194):
        for size in (1, 2, 4, 8):
            if type != XDP and off in SK:
                continue
            for write in (0, 1):
                line = f"*(u{size * 8} *)(r1 {off:+}) = 0" if write else f"r2 = *(u{size * 8} *)(r1 {off:+})"
                if accepted(type, assemble(line + "\nr0 = 0\nexit")) != bool(lib.vm_ctx_allowed(HOOKS[type], off, size, write)):
                    differ.append((off, size, "store" if write else "load"))
    assert not differ


@pytest.mark.parametrize("type", HOOKS)
def test_nothing_behind_the_context_is_allowed(type):
    end = lib.vm_ctx_bytes(HOOKS[type])
    assert end == (24 if type == XDP else 192)
    for off in range(end - 7, end + 16):
        for size in (1, 2, 4, 8):
            if off + size > end:
                assert not lib.vm_ctx_allowed(HOOKS[type], off, size, 0)
                assert not lib.vm_ctx_allowed(HOOKS[type], off, size, 1)


@pytest.mark.parametrize("size", (0, 3, 5, 16, 1 << 31))
def test_odd_sizes_are_never_allowed(size):
    assert not lib.vm_ctx_allowed(lib.VM_HOOK_TC, 8, size, 0)
