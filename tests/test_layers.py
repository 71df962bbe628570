"""Imports go downwards only (docs/architecture.md), in Python and in C."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON_ORDER = [
    {"_abi", "_abi_points", "_ffi", "errors", "uapi", "_build", "_build_points"}, {"asm", "shm"}, {"spec"}, {"elf"}, {"verifier", "maps"}, {"events"}, {"engine"}, {"runtime"}, {"attach"}, {"api"}, {"testing"}, {"bench"}, {"cli"}, {"__main__"},
]  # fmt: skip
C_ORDER = ["shm", "rings", "maps", "cpu", "helpers", "vm", "net", "bench"]
PYTHON_RANK = {room: rank for rank, rooms in enumerate(PYTHON_ORDER) for room in rooms}
#: spec names Btf in annotations only
ALLOWED = {("spec", "elf")}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "shmbpf").parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "shmbpf" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("shmbpf.")}
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "shmbpf").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_imports_go_downwards(path):
    room = room_of(path)
    if room == "__init__":
        pytest.skip("the package itself imports lazily, by name")
    for other in imports_of(path) - {room, "__version__"}:
        assert other in PYTHON_RANK, f"{other} is not a room of the architecture"
        assert PYTHON_RANK[other] <= PYTHON_RANK[room] or (room, other) in ALLOWED, f"{room} imports {other}, which is above it"


@pytest.mark.parametrize("path", [p for room in C_ORDER for p in sorted((ROOT / "cbits" / room).glob("*.[ch]"))], ids=lambda path: str(path.relative_to(ROOT)))
def test_c_includes_go_downwards(path):
    rank = C_ORDER.index(path.parent.name)
    for included in re.findall(r'#include "([a-z_]+)/', path.read_text()):
        if included in C_ORDER:
            assert C_ORDER.index(included) <= rank, f"{path.parent.name} includes {included}, which is above it"


def test_no_c_file_knows_python():
    for path in (ROOT / "cbits").rglob("*.[ch]"):
        assert "Python.h" not in path.read_text()
