"""The kernel as the oracle of tests: `shmbpf.testing.kernel` as a pytest plugin.

Tests marked `@pytest.mark.kernel`, or using the fixture `kernel`, are skipped, and say so, where bpf(2) is not permitted.
"""

from __future__ import annotations

import sys

import pytest

from shmbpf.testing.kernel import (
    KernelMap,
    KernelProgram,
    RunResult,
    kernel_available,
    load_object,
    pinned_to_cpu,
    possible_cpus,
)

__all__ = ["KernelMap", "KernelProgram", "RunResult", "kernel_available", "load_object", "pinned_to_cpu", "possible_cpus"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel: compares with the real kernel; skipped where bpf(2) is not permitted")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("kernel") or "kernel" in getattr(item, "fixturenames", ())]
    if marked and not kernel_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="the kernel oracle needs bpf(2): run as root, or with CAP_BPF and CAP_NET_ADMIN"))


@pytest.fixture
def kernel() -> object:
    """This module; a test that asks for it is skipped where bpf(2) is not permitted."""
    return sys.modules[__name__]
