"""The door to C: `ffi` and `lib` of the compiled library. `SHMBPF_ABI=points` picks the build with kill points (crash tests)."""

from __future__ import annotations

import os

try:
    if os.environ.get("SHMBPF_ABI") == "points":
        from shmbpf._abi_points import ffi, lib
    else:
        from shmbpf._abi import ffi, lib
except ImportError as error:  # a checkout that was never built
    raise ImportError(f"{error}. The C library is not built: run 'make build' (or 'pip install -e .') in the checkout") from error

__all__ = ["ffi", "lib"]
