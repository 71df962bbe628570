"""Builds `shmbpf._abi_points` beside the release library, if it is older than its sources: `python -m shmbpf._build_points` (make points)."""

from __future__ import annotations

import os
import subprocess
import sys


def main() -> int:
    """Runs setup.py's build once more, with the kill points compiled in."""
    environment = os.environ | {"SHMBPF_POINTS": "1"}
    from shmbpf import _build

    present = sorted((_build.ROOT / "shmbpf").glob("_abi_points*.so"))
    newest = max((_build.ROOT / name).stat().st_mtime for name in (*_build.sources(), *_build.headers()))
    if present and present[-1].stat().st_mtime > newest:
        return 0
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", "build/points"]
    return subprocess.run(command, cwd=_build.ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
