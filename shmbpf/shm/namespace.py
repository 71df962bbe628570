"""A namespace: one simulated kernel. Its control segment, its clients, its names, and its garbage.

Names in /dev/shm:

    shmbpf.<uid>.<ns>.ctl.0        the control segment: ids, possible CPUs, client slots, lease and lock bytes
    shmbpf.<uid>.<ns>.<kind>.<id>  map, prog, dev, run, ...
    shmbpf.<uid>.<ns>.fs/          the pin tree (its bpffs)
    shmbpf.<uid>.<ns>.held/        what objects keep alive (garbage.py)
    shmbpf.<uid>.<ns>.wake/        pipes that wake consumers of events (events/wake.py)
    shmbpf.<uid>.<ns>.run/         the control socket of the running runtime

The control segment comes first and goes last: whoever closes a namespace that holds nothing any more removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shmbpf._ffi import ffi, lib
from shmbpf.errors import ClosedError, NamespaceBusyError, SegmentError, ShmbpfError
from shmbpf.shm.garbage import collect, hold, release
from shmbpf.shm.live import Handle, owned, take_away
from shmbpf.shm.segment import SHM_DIR, Segment, unlink

#: segment kinds by the word in their names
KINDS = {"ctl": lib.SHM_KIND_CTL, "map": lib.SHM_KIND_MAP, "prog": lib.SHM_KIND_PROG, "ring": lib.SHM_KIND_RING, "dev": lib.SHM_KIND_DEV, "run": lib.SHM_KIND_RUN}
_COUNTERS = {"map": "next_map_id", "prog": "next_prog_id"}
ANONYMOUS = "anon-"  #: names of namespaces that were given none begin so
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FLOCK = "hhqqi4x"  # struct flock


def namespace_prefix(name: str) -> str:
    """`shmbpf.<uid>.<ns>`. Raises SegmentError for a name that cannot be part of a segment name."""
    if not _NAME.fullmatch(name):
        raise SegmentError(f"namespace {name!r}: expected 1 to 64 letters, digits, '_' or '-'")
    return f"shmbpf.{os.getuid()}.{name}"


def namespace_names() -> list[str]:
    """Namespaces of this user that exist on this machine."""
    head, tail = f"shmbpf.{os.getuid()}.", ".ctl.0"
    return sorted(entry[len(head):-len(tail)] for entry in os.listdir(SHM_DIR) if entry.startswith(head) and entry.endswith(tail))


def namespace_exists(name: str) -> bool:
    """True when there is a control segment of that name."""
    return (SHM_DIR / f"{namespace_prefix(name)}.ctl.0").exists()


def collect_abandoned() -> None:
    """Clears up namespaces whose processes were all killed; those with anybody in them are not touched, they clear up after themselves."""
    for name in namespace_names():
        try:
            if _is_abandoned(f"{namespace_prefix(name)}.ctl.0"):
                Namespace(name, role="gc").close()
        except (ShmbpfError, OSError):
            continue  # somebody came, or another build's: not ours to judge


def _is_abandoned(control: str) -> bool:
    fd = os.open(SHM_DIR / control, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class Namespace:
    """This process's membership in a namespace: a client slot (D6) and the right to create and open objects.

    A namespace that does not exist is made. `client` is the `struct shm_client *` every map operation is done with. Not inherited over fork: a child makes
    its own. Used after `close()` it raises ClosedError.
    """

    _lock_fd = Handle()
    client = Handle()
    ctl = Handle()

    def __init__(self, name: str = "default", *, role: str = "python", cpu: int | None = None):
        self.name = name
        self.prefix = namespace_prefix(name)
        self.mutex = threading.RLock()  #: one owner id for all threads of this process: operations that lock take this first
        self._create_depth = 0
        self._clients: list = []
        self._segment, self._lock_fd = self._open_control()
        self.ctl = owned(lib.shm_ctl_of(self._segment.base, self._segment.bytes), self._segment.close)
        self._pid = os.getpid()
        self.client = self._attach(lib.SHM_NO_CPU if cpu is None else cpu, role)

    # -- the control segment --

    def _open_control(self) -> tuple[Segment, int]:
        name = f"{self.prefix}.ctl.0"
        for _ in range(100):
            try:
                segment = Segment.open(name, lib.SHM_KIND_CTL)
            except FileNotFoundError:
                self._make_control(name)
                continue
            try:  # a description of its own for the lock bytes: a mapping inherited by a child must not keep them alive
                return segment, os.open(SHM_DIR / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                segment.close()
        raise SegmentError(f"{SHM_DIR / name} appears and disappears: another process keeps removing it")

    def _make_control(self, name: str) -> None:
        """Makes it under another name and links it into place, so that nobody ever sees a half-made one and exactly one maker wins."""
        draft = f"{self.prefix}.new.{secrets.token_hex(8)}"
        with Segment.create(draft, lib.shm_ctl_bytes()) as segment:
            try:
                lib.shm_ctl_init(segment.base, segment.bytes)
                lib.shm_publish(ffi.addressof(lib.shm_ctl_of(segment.base, segment.bytes), "head"))
                os.link(SHM_DIR / draft, SHM_DIR / name)
            except (FileExistsError, FileNotFoundError):
                pass  # somebody else was first, or took the draft for garbage: look again
            finally:
                unlink(draft)

    def _attach(self, cpu: int, role: str):
        try:
            return self.new_client(role, cpu)
        except SegmentError:
            self._abandon()
            raise

    def new_client(self, role: str, cpu: int = lib.SHM_NO_CPU):
        """One more client slot of this process (`struct shm_client *`), for a thread that takes locks beside others; given back by
        drop_client(), or with the namespace."""
        client = ffi.new("struct shm_client *")
        with self.mutex:
            self._require_open()
            err = lib.shm_client_attach(client, self._segment.fd, self._segment.bytes, cpu, role.encode()[:15])
        if err == -errno.EBUSY:
            raise NamespaceBusyError(f"CPU {cpu} of namespace {self.name!r} is in use by another process")
        if err:
            raise SegmentError(f"namespace {self.name!r}: cannot attach: {os.strerror(-err)} (at most {lib.SHM_MAX_CLIENTS} clients)")
        client.prefix = self.prefix.encode()
        client = ffi.gc(client, lib.shm_client_detach)  # one that is dropped, not closed, must not stay in the fork handler's table
        self._clients.append(client)
        return client

    def drop_client(self, client) -> None:
        """Gives a slot of new_client() back: as soon as nobody has `client` any more."""
        if client in self._clients:
            self._clients.remove(client)

    # -- locks --

    def _lock_byte(self, byte: int, kind: int, wait: bool) -> bool:
        request = struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
        except (BlockingIOError, PermissionError):
            return False
        return True

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Holds the create lock: no one else creates or collects in this namespace meanwhile. Reentrant."""
        with self.mutex:
            if self._create_depth == 0:
                self._lock_byte(lib.SHM_CREATE_BYTE, fcntl.F_WRLCK, wait=True)
            self._create_depth += 1
            try:
                yield
            finally:
                self._create_depth -= 1
                if self._create_depth == 0:
                    self._lock_byte(lib.SHM_CREATE_BYTE, fcntl.F_UNLCK, wait=True)

    def claim_runtime(self) -> None:
        """Makes this process the one runtime of the namespace until it closes it. Raises NamespaceBusyError naming the holder."""
        if not self._lock_byte(lib.SHM_RUNTIME_BYTE, fcntl.F_WRLCK, wait=False):
            raise NamespaceBusyError(
                f"namespace {self.name!r} already has a runtime (PID {self.ctl.runtime_pid}): stop it, or use another namespace with --ns NAME"
            )
        self.ctl.runtime_pid = os.getpid()

    def release_runtime(self) -> None:
        """Gives up what claim_runtime() took."""
        self.ctl.runtime_pid = 0
        self.ctl.run_id = 0
        self._lock_byte(lib.SHM_RUNTIME_BYTE, fcntl.F_UNLCK, wait=True)

    def has_runtime(self) -> bool:
        """True while some process drives the namespace's CPUs."""
        with self.mutex:  # nobody closes the descriptor meanwhile
            answer = fcntl.fcntl(self._lock_fd, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, lib.SHM_RUNTIME_BYTE, 1, 0))
        return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK

    def others(self) -> list[tuple[int, str]]:
        """PID and role of every other live client."""
        found = []
        for slot in range(lib.SHM_MAX_CLIENTS):
            entry = self.client.slots[slot]
            owner = (slot + 1) << lib.SHM_OWNER_GEN_BITS | entry.gen & (1 << lib.SHM_OWNER_GEN_BITS) - 1
            if entry.gen and slot != self.client.slot and lib.shm_owner_alive(self.client, owner):
                found.append((entry.pid, ffi.string(entry.role, 16).decode(errors="replace")))
        return found

    # -- possible CPUs --

    @property
    def possible_cpus(self) -> int:
        """Number of possible CPUs; 0 while nothing has fixed it."""
        return self.ctl.possible_cpus

    def fix_cpus(self, count: int | None = None) -> int:
        """The namespace's CPU count, made `count` (default: as many as the machine has) if it holds nothing that depends on another one.

        Raises NamespaceBusyError naming the objects of another count.
        """
        with self.creating():
            present = self.ctl.possible_cpus
            wanted = count or present or os.cpu_count() or 1
            if present and wanted != present:
                self._require_empty(present, wanted)
            self.ctl.possible_cpus = wanted
            self.client.ncpu = wanted
            return wanted

    def _require_empty(self, present: int, wanted: int) -> None:
        self.collect()
        names = self.segments()
        if names:
            raise NamespaceBusyError(
                f"namespace {self.name!r} has {present} possible CPUs and holds objects made for them ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}): "
                f"use --cpus {present}, or another namespace (--ns NAME), or remove the objects (shmbpf ns show lists them)"
            )

    # -- objects --

    def create_segment(self, kind: str, size: int, fill: Callable[[Segment, int], None]) -> tuple[Segment, int]:
        """A new published object of a kind and its id. `fill(segment, id)` initialises and publishes it; if it raises, nothing is left."""
        with self.creating():
            number = lib.shm_new_id(ffi.addressof(self.ctl, _COUNTERS.get(kind, "next_other_id")))
            segment = Segment.create(f"{self.prefix}.{kind}.{number}", size)
            try:
                fill(segment, number)
            except BaseException:
                segment.unlink()
                segment.close()
                raise
            return segment, number

    def open_segment(self, kind: str, number: int) -> Segment:
        """An existing object; FileNotFoundError when there is none of that kind and id."""
        self._require_open()
        return Segment.open(f"{self.prefix}.{kind}.{number}", KINDS[kind])

    def ids(self, kind: str) -> list[int]:
        """Ids of a kind's objects, in order. Collects garbage first, so that only live ones are named."""
        self.collect()
        head = f"{self.prefix}.{kind}."
        return sorted(int(entry[len(head):]) for entry in os.listdir(SHM_DIR) if entry.startswith(head) and entry[len(head):].isdigit())

    def segments(self) -> list[str]:
        """`kind.id` of every object but the control segment."""
        head = self.prefix + "."
        found = (entry[len(head):] for entry in os.listdir(SHM_DIR) if entry.startswith(head))
        return sorted(word for word in found if re.fullmatch(r"[a-z]+\.[0-9]+", word) and not word.startswith("ctl."))

    @property
    def pin_dir(self) -> Path:
        """Root of the pin tree; it may not exist."""
        return SHM_DIR / f"{self.prefix}.fs"

    @property
    def run_dir(self) -> Path:
        """Where the runtime's control socket lives; it may not exist."""
        return SHM_DIR / f"{self.prefix}.run"

    # -- garbage --

    def collect(self) -> list[str]:
        """Removes objects that nobody has open, pinned or holds; returns their names."""
        with self.creating():
            removed = collect(self.prefix)
            if self.run_dir.is_dir() and not self.has_runtime() and not self._holds_runtime():
                shutil.rmtree(self.run_dir, ignore_errors=True)
        return removed

    def hold(self, holder: str, held: str) -> None:
        """Object `holder` ("prog.3") keeps `held` ("map.7") alive from now on."""
        with self.creating():
            hold(self.prefix, holder, held)

    def release(self, holder: str, keep: Iterable[str] = ()) -> None:
        """Object `holder` keeps nothing but `keep` alive any more."""
        with self.creating():
            release(self.prefix, holder, keep)

    def _holds_runtime(self) -> bool:
        return self.ctl.runtime_pid == os.getpid()  # F_OFD_GETLK does not report one's own lock

    def close(self) -> None:
        """Leaves the namespace; the last one out removes what is left of an empty one. Idempotent."""
        if "_lock_fd" not in self.__dict__:
            return
        if os.getpid() != self._pid:
            self._abandon()
            return
        with self.mutex:
            self._leave()

    def _leave(self) -> None:
        if "_lock_fd" not in self.__dict__:
            return  # another thread was faster
        self._clients.clear()
        take_away(self, "client")
        if self.name.startswith(ANONYMOUS):
            self._drop_pins()
        self.collect()
        with self.creating():
            self._remove_if_empty()
        self._abandon()

    def _drop_pins(self) -> None:
        """An anonymous namespace goes with the last one who is in it, pins and all: nobody else knows its name."""
        try:
            fcntl.flock(self._segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(self.pin_dir, ignore_errors=True)
        fcntl.flock(self._segment.fd, fcntl.LOCK_SH)

    def _remove_if_empty(self) -> None:
        if self.segments() or any(files for _, _, files in os.walk(self.pin_dir)):
            return
        try:
            fcntl.flock(self._segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # somebody else is here: he will
        for directory, _, _ in os.walk(self.pin_dir, topdown=False):  # directories alone keep nothing
            os.rmdir(directory)
        self._segment.unlink()

    def _abandon(self) -> None:
        """Closes descriptors and mapping without touching shared state: what a forked child does with its parent's membership."""
        os.close(self.__dict__.pop("_lock_fd"))
        self._clients.clear()
        self.__dict__.pop("client", None)
        take_away(self, "ctl")

    def _require_open(self) -> None:
        if "_lock_fd" not in self.__dict__:
            raise ClosedError(self.closed_text())

    def closed_text(self) -> str:
        """What using it after its end is answered with."""
        return f"namespace {self.name!r} is closed here: its Runtime or Namespace object was used after its end"

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *exc) -> None:
        self.close()
