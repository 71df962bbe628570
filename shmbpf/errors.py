"""Every error a user can meet. One base class; each message says what was expected, what came, and what to do."""

from __future__ import annotations

import errno as _errno
import os


class ShmbpfError(Exception):
    """Base of all errors raised on purpose. The CLI prints its text as one line and exits with 1."""


class ObjectError(ShmbpfError):
    """An object file that cannot be honoured: names the file, section, symbol and reason."""


class BtfError(ObjectError):
    """Type information that is malformed or beyond the parser's bounds."""


class CaptureError(ShmbpfError):
    """A capture that cannot be read at all (a broken tail is a warning, not an error)."""


class SegmentError(ShmbpfError):
    """A shared-memory object that is missing, foreign, of another build, or damaged."""


class ClosedError(ShmbpfError):
    """Something was used after it, or the runtime or namespace it belongs to, was closed."""


class SpaceError(SegmentError):
    """/dev/shm has no room: the message has the bytes needed and free."""


class NamespaceBusyError(SegmentError):
    """Another runtime drives this namespace."""


class LoadError(ShmbpfError):
    """A program that is refused at load: unknown helper, bad instruction, missing licence, wrong map type."""


class ProgramFault(ShmbpfError):
    """A run that was stopped: CPU, program, instruction, disassembly and source line are in the message."""


class MapError(ShmbpfError, OSError):
    """A map operation that Linux would refuse; `errno` is the positive number bpf(2) gives."""

    def __init__(self, number: int, text: str):
        OSError.__init__(self, number, text)

    def __str__(self) -> str:
        return self.strerror or errno_name(self.errno)


class PinError(ShmbpfError, OSError):
    """The pin tree refuses; `errno` is the positive number that bpffs gives."""

    def __init__(self, number: int, text: str):
        OSError.__init__(self, number, text)

    def __str__(self) -> str:
        return self.strerror or errno_name(self.errno)


class MapKeyError(MapError, KeyError):
    """ENOENT from a map: the key (or the first/next key) is not there."""


class MapFullError(MapError):
    """E2BIG from an update: all elements are in use, or the index is past the end."""


class MapBusyError(MapError):
    """EBUSY: a live process has held the lock for too long."""


#: Linux's internal ENOTSUPP leaks to user space and has no name there (reference: bpf(2) behaviour per map type).
ENOTSUPP = 524

_CLASSES = {_errno.ENOENT: MapKeyError, _errno.E2BIG: MapFullError, _errno.EBUSY: MapBusyError}


def errno_name(number: int) -> str:
    """`ENOENT` for 2; `ENOTSUPP` for 524, which Python does not know."""
    if number == ENOTSUPP:
        return "ENOTSUPP"
    return _errno.errorcode.get(number, f"errno {number}")


def errno_text(number: int) -> str:
    """strerror(), with Linux's nameless 524 spelled out."""
    return "Operation not supported by this map type" if number == ENOTSUPP else os.strerror(number)


def map_error(number: int, what: str) -> MapError:
    """The exception for a failed map operation. `number` is positive; `what` says which operation on which map, and what to do."""
    return _CLASSES.get(number, MapError)(number, f"{what}: {errno_text(number)} ({errno_name(number)})")
