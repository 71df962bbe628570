"""The pin tree: a namespace's bpffs, as a real directory of hard links.

    /dev/shm/shmbpf.<uid>.<ns>.fs/tc/globals/flows   ==   /dev/shm/shmbpf.<uid>.<ns>.map.7      one inode, two names

Pin = link(), get = open(), unpin = unlink(): atomic, and the file system's own rules give the errors. An object is its inode, so `ls`, `mv`, `rm`, `mkdir`, `ln` and
`chmod` do here what they do in a bpffs. What bpffs adds is checked here: names without dots, nothing but maps, programs and links. Linux v6.12
kernel/bpf/inode.c, bpf_obj_pin_user(), bpf_obj_get_user(), bpf_lookup().
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shmbpf._ffi import ffi, lib
from shmbpf.errors import PinError, errno_name
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import SHM_DIR, Segment, own_directory

BPFFS = "/sys/fs/bpf"
#: kinds of objects that can be pinned, by the number in their heads
KIND_WORDS = {lib.SHM_KIND_MAP: "map", lib.SHM_KIND_PROG: "prog", lib.SHM_KIND_LINK: "link"}
_PAGE = lib.SHM_PAGE


@dataclass(frozen=True)
class Pin:
    """A name in the tree and what it stands for."""

    path: Path
    kind: str  #: "map", "prog" or "link"
    id: int

    @property
    def object(self) -> str:
        """`map.7`, as in segment names."""
        return f"{self.kind}.{self.id}"


class PinTree:
    """The pins of one namespace. Paths are relative to its root; a leading /sys/fs/bpf is the root. Errors are PinError with bpffs's errno."""

    def __init__(self, namespace: Namespace):
        self.namespace = namespace
        self.root = namespace.pin_dir

    # -- paths --

    def place(self, path: str | os.PathLike) -> Path:
        """The file of a pin path. EPERM for a name with a dot, which no bpffs has ("." and ".." lead where they lead, but not out of the tree)."""
        text = os.fspath(path)
        if not text:
            raise _error(errno.ENOENT, "an empty pin path")
        for root in (f"{self.root}/", f"{BPFFS}/"):
            text = text.removeprefix(root)
        steps: list[str] = []
        for step in text.split("/"):
            if step == ".." and steps:
                steps.pop()
            elif step in ("", ".", ".."):
                continue
            elif "." in step:
                raise _error(errno.EPERM, f"pin path {os.fspath(path)!r}: names in a bpf file system have no dots")
            elif len(os.fsencode(step)) > 255:
                raise _error(errno.ENAMETOOLONG, f"pin path {os.fspath(path)!r}: a name may have 255 bytes")
            else:
                steps.append(step)
        return self.root.joinpath(*steps)

    # -- pinning --

    def pin(self, kind: str, number: int, path: str | os.PathLike, *, parents: bool = False) -> Path:
        """Gives an object one more name. EEXIST when something has it, ENOENT when its directory is missing (`parents` makes it, 0700)."""
        place = self.place(path)
        if os.fspath(path).endswith("/") and not place.exists():
            raise _error(errno.ENOENT, f"pin path {os.fspath(path)!r}: a name must follow the last '/'")
        with self.namespace.creating():  # nobody collects the object, or the root, in between
            own_directory(self.root)
            try:
                if parents:
                    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.link(SHM_DIR / f"{self.namespace.prefix}.{kind}.{number}", place)
            except OSError as error:
                raise _error(error.errno, _pin_refusal(error, kind, number, place)) from None
        return place

    def unpin(self, path: str | os.PathLike) -> None:
        """Removes a name; the object stays as long as anything else keeps it."""
        place = self.place(path)
        try:
            place.unlink()
        except OSError as error:
            raise _error(error.errno, f"{place} cannot be unpinned") from None
        self.namespace.collect()

    # -- finding --

    def get(self, path: str | os.PathLike, *, write: bool = True) -> Pin:
        """What a path stands for. ENOENT; EACCES for a directory, for a file that is no object, or one whose mode forbids reading (or writing, with `write`)."""
        place = self.place(path)
        try:
            fd = os.open(place, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            number = errno.EACCES if error.errno in (errno.EISDIR, errno.ENXIO) else error.errno
            raise _error(number, _get_refusal(number, place)) from None
        try:
            return self._identify(place, fd)
        finally:
            os.close(fd)

    def open(self, path: str | os.PathLike, kind: str, *, write: bool = True) -> Segment:
        """The object at a path, opened. EINVAL when it is of another kind."""
        pin = self.get(path, write=write)
        if pin.kind != kind:
            raise _error(errno.EINVAL, f"{pin.path} is a {pin.kind}, expected a {kind}")
        try:
            return self.namespace.open_segment(kind, pin.id)
        except FileNotFoundError:
            raise _error(errno.ENOENT, f"{pin.path} has just been unpinned") from None

    def _identify(self, place: Path, fd: int) -> Pin:
        """Reads the head at the end of the file: kind and id, if it is an object of this namespace."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size < _PAGE:
            raise _error(errno.EACCES, f"{place} is no bpf object")
        page = ffi.from_buffer(os.pread(fd, _PAGE, found.st_size - _PAGE))  # a private copy of the control block
        head = ffi.cast("struct shm_head *", page)
        if head.magic != lib.shm_magic() or head.kind not in KIND_WORDS or head.bytes != found.st_size:
            raise _error(errno.EACCES, f"{place} is no bpf object")
        pin = Pin(place, KIND_WORDS[head.kind], head.id)
        try:
            own = os.stat(SHM_DIR / f"{self.namespace.prefix}.{pin.object}", follow_symlinks=False)
        except FileNotFoundError:
            own = None
        if own is None and os.fstat(fd).st_nlink == 0:
            raise _error(errno.ENOENT, f"{place} has just been unpinned")
        if own is None or (own.st_dev, own.st_ino) != (found.st_dev, found.st_ino):
            raise _error(errno.EACCES, f"{place} is no object of namespace {self.namespace.name!r}: was it copied, or moved here from another one?")
        return pin

    def walk(self, path: str | os.PathLike = "") -> Iterator[Pin]:
        """Every pin in a directory of the tree and below, in the order of names; other files are left out."""
        top = self.place(path) if os.fspath(path) else self.root
        for directory, names, files in os.walk(top):
            names.sort()
            for name in sorted(files):
                place = Path(directory, name)
                try:
                    yield self.get(place)
                except PinError:
                    continue  # gone, or not an object

    def paths(self) -> dict[str, list[Path]]:
        """`map.7` -> its pins."""
        found: dict[str, list[Path]] = {}
        for pin in self.walk():
            found.setdefault(pin.object, []).append(pin.path)
        return found


def _pin_refusal(error: OSError, kind: str, number: int, place: Path) -> str:
    if error.errno == errno.EEXIST:
        return f"{place} exists: remove it, or choose another name"
    if error.errno == errno.ENOENT and not (place.parent.is_dir()):
        return f"{place}: there is no directory {place.parent} (mkdir makes one)"
    if error.errno == errno.ENOENT:
        return f"{kind} id {number} does not exist"
    return f"{place}: cannot be pinned"


def _get_refusal(number: int, place: Path) -> str:
    if number == errno.ENOENT:
        return f"nothing is pinned at {place} (shmbpf ls lists pins)"
    if number == errno.EACCES and place.is_dir():
        return f"{place} is a directory, expected a pin"
    return f"{place} cannot be opened"


def _error(number: int, what: str) -> PinError:
    return PinError(number, f"{what}: {os.strerror(number)} ({errno_name(number)})")
