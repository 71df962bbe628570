"""The pin tree: names, errors and lifetimes; and the same cases on a real bpffs."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
from support.kernel import KernelMap
from support.paths import ROOT
from support.programs import RETURN_2, make

from shmbpf.errors import PinError
from shmbpf.maps.map import Map
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.pins import PinTree
from shmbpf.spec import MapSpec

ARRAY = 2
#: what is done to a fresh tree in which "map" and "dir/map" are pins of one map, "dir" and "empty" directories, "plain" an ordinary file, "dangling" and "link" symlinks
PINS = ["new", "map", "dir", "dir/new", "missing/new", "a.b", "", "new/", "other/", "dangling", "a" * 255, "a" * 256, "with space", "ümlaut", "dir/../new2", "./new3"]
GETS = ["map", "dir/map", "missing", "dir", "a.b", "dangling", "link", "dir/../map", "./map", "map/x"]


class OurTree:
    """Pins of ours; every method returns 0 or an errno."""

    def __init__(self, namespace):
        self._map = Map.create(namespace, MapSpec("pinned", ARRAY, 4, 8, 1))
        self._tree = PinTree(namespace)
        self.pin("map")
        self.root = self._tree.root

    def pin(self, path: str) -> int:
        return _errno_of(self._tree.pin, "map", self._map.id, path)

    def get(self, path: str) -> int:
        return _errno_of(self._tree.get, path)

    def close(self) -> None:
        shutil.rmtree(self.root)
        self._map.close()


class LinuxTree:
    """The same on a bpffs."""

    def __init__(self, root: str):
        self._map = KernelMap(ARRAY, 4, 8, 1)
        self.root = root
        self.pin("map")

    def pin(self, path: str) -> int:
        return _errno_of(self._map.pin, f"{self.root}/{path}" if path else "")

    def get(self, path: str) -> int:
        return _errno_of(self._map.get_pinned, f"{self.root}/{path}" if path else "")


def _errno_of(function, *arguments) -> int:
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0


def furnish(tree) -> None:
    for name in ("dir", "empty"):
        os.mkdir(f"{tree.root}/{name}")
    tree.pin("dir/map")
    os.symlink("nowhere", f"{tree.root}/dangling")
    os.symlink("map", f"{tree.root}/link")


def answers(tree) -> dict[str, int]:
    """Every case's errno. What the file system itself does comes last."""
    furnish(tree)
    root = tree.root
    found = {f"get {path}": tree.get(path) for path in GETS}
    found |= {f"pin {path}": tree.pin(path) for path in PINS}
    found["pin again elsewhere"] = tree.pin("dir/again")
    found["mv"] = _errno_of(os.rename, f"{root}/map", f"{root}/dir/moved")
    found["get moved"] = tree.get("dir/moved")
    found["get where it was"] = tree.get("map")
    found["ln"] = _errno_of(os.link, f"{root}/dir/moved", f"{root}/hard")
    found["get hard link"] = tree.get("hard")
    found["rm"] = _errno_of(os.unlink, f"{root}/hard")
    found["get removed"] = tree.get("hard")
    found["rmdir full"] = _errno_of(os.rmdir, f"{root}/dir")
    found["rmdir empty"] = _errno_of(os.rmdir, f"{root}/empty")
    found["rm directory"] = _errno_of(os.unlink, f"{root}/dir")
    found["mv onto directory"] = _errno_of(os.rename, f"{root}/dir/map", f"{root}/dir")
    found["mv onto pin"] = _errno_of(os.rename, f"{root}/dir/map", f"{root}/dir/moved")
    found["get replaced"] = tree.get("dir/moved")
    return found


@pytest.fixture
def ours(namespace):
    tree = OurTree(namespace)
    yield tree
    tree.close()


@pytest.mark.kernel
def test_every_case_has_the_errno_of_a_real_bpffs(ours, kernel):
    """Linux's answers come from a child with a bpffs in a mount namespace of its own."""
    script = "from tests.shm.test_pins import answer_on_linux; answer_on_linux()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"})
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert answers(ours) == json.loads(done.stdout)


def answer_on_linux() -> None:
    """Prints answers() of a bpffs; exits with 77 where none can be mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 0x40000
    if libc.unshare(clone_newns) or libc.mount(b"none", b"/", None, ms_rec | ms_private, None) or libc.mount(b"bpf", b"/mnt", b"bpf", 0, None):
        print(f"no bpffs can be mounted here: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(77)
    print(json.dumps(answers(LinuxTree("/mnt"))))


def test_pinned_map_outlives_everybody(namespace):
    tree = PinTree(namespace)
    with Map.create(namespace, MapSpec("kept", ARRAY, 4, 8, 1)) as map_:
        map_.update(bytes(4), b"stays..!")
        tree.pin("map", map_.id, "tc/globals/kept", parents=True)
    assert namespace.collect() == []
    with Map(namespace, tree.open("/sys/fs/bpf/tc/globals/kept", "map")) as again:
        assert again.lookup(bytes(4)) == b"stays..!"
    tree.unpin("tc/globals/kept")
    assert namespace.segments() == []
    shutil.rmtree(tree.root)


def test_rm_and_mv_of_the_shell_are_enough(namespace):
    tree = PinTree(namespace)
    with Map.create(namespace, MapSpec("kept", ARRAY, 4, 8, 1)) as map_:
        tree.pin("map", map_.id, "one")
        subprocess.run(["mv", tree.root / "one", tree.root / "two"], check=True)
        assert [pin.object for pin in tree.walk()] == [f"map.{map_.id}"] and tree.get("two").id == map_.id
    subprocess.run(["rm", tree.root / "two"], check=True)
    assert namespace.collect() == ["map.1"]
    tree.root.rmdir()


def test_programs_are_pinned_with_their_kind(namespace):
    tree = PinTree(namespace)
    with make(namespace, RETURN_2) as program:
        tree.pin("prog", program.id, "prog")
        assert (tree.get("prog").kind, tree.get("prog").id) == ("prog", program.id)
        with pytest.raises(PinError, match="is a prog, expected a map") as caught:
            tree.open("prog", "map")
        assert caught.value.errno == errno.EINVAL
    tree.unpin("prog")
    tree.root.rmdir()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 8192, os.urandom(8192)])
def test_a_foreign_file_in_the_tree_is_no_object(namespace, content):
    tree = PinTree(namespace)
    with Map.create(namespace, MapSpec("kept", ARRAY, 4, 8, 1)) as map_:
        tree.pin("map", map_.id, "map")
        (tree.root / "foreign").write_bytes(content)
        with pytest.raises(PinError, match="is no bpf object") as caught:
            tree.get("foreign")
        assert caught.value.errno == errno.EACCES
        assert [pin.path.name for pin in tree.walk()] == ["map"]
    shutil.rmtree(tree.root)


def test_a_copy_of_an_object_is_refused(namespace):
    tree = PinTree(namespace)
    with Map.create(namespace, MapSpec("kept", ARRAY, 4, 8, 1)) as map_:
        shutil.copy(tree.pin("map", map_.id, "map"), tree.root / "copy")
        with pytest.raises(PinError, match="was it copied"):
            tree.get("copy")
    shutil.rmtree(tree.root)


def test_paths_do_not_lead_out_of_the_tree(namespace):
    tree = PinTree(namespace)
    assert tree.place("../../../etc/passwd") == tree.root / "etc" / "passwd"
    assert tree.place(f"{tree.root}/a") == tree.place("/sys/fs/bpf/a") == tree.place("a") == tree.root / "a"


def test_empty_directories_go_with_the_namespace(namespace_name):
    with Namespace(namespace_name) as namespace:
        tree = PinTree(namespace)
        with Map.create(namespace, MapSpec("kept", ARRAY, 4, 8, 1)) as map_:
            tree.pin("map", map_.id, "a/b/c/map", parents=True)
        tree.unpin("a/b/c/map")
    assert not tree.root.exists()
