"""Builds `shmbpf._abi_points` beside the release library, if it is older than its sources: `python -m shmbpf._build_points` (make points)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Compiles in a temporary directory and moves the module into the package."""
    os.environ["SHMBPF_POINTS"] = "1"
    from shmbpf import _build

    package = _build.ROOT / "shmbpf"
    present = sorted(package.glob("_abi_points*.so"))
    newest = max((_build.ROOT / name).stat().st_mtime for name in (*_build.sources(), *_build.headers()))
    if present and present[-1].stat().st_mtime > newest:
        return 0
    os.chdir(_build.ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(_build.ffibuilder.compile(tmpdir=scratch))
        shutil.copy(made, package / (made.name + ".new"))
        os.replace(package / (made.name + ".new"), package / made.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
