"""Handles that cannot be used after the close, nor closed under somebody who is using them.

A thread may close what another one works with, and C calls run without the GIL. So nothing is unmapped by `close()` itself: it takes the handle away from its
object and waits until the last call that still has it returns. The handle (a cffi pointer with a destructor) unmaps when its last reference goes. A call holds
a reference through its arguments, which costs it nothing.

    handle = Handle()                       in the class
    self.handle = owned(pointer, undo...)   undo runs once, when nobody has the pointer any more
    take_away(self, "handle")               from now on self.handle raises ClosedError, with self.closed_text()
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

from shmbpf._ffi import ffi
from shmbpf.errors import ClosedError

_PATIENCE_S = 1.0
_TURN_S = 0.0002


class Handle:
    """A class attribute behind an instance's handle of the same name: it is found only when the instance has none any more.

    A non-data descriptor, so a live handle costs what any attribute costs; `__getattr__` would slow down every attribute of the class.
    """

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        raise ClosedError(instance.closed_text())


def owned(pointer, *undo: Callable[[], object]):
    """The same pointer; the calls in `undo` are made, in order, when its last reference goes."""

    def finish(_pointer) -> None:
        for call in undo:
            call()

    return ffi.gc(pointer, finish)


def take_away(owner: object, name: str) -> None:
    """Removes a handle from its owner and waits for the calls that still use it (a second at most; a straggler then ends its life). Idempotent."""
    try:
        last = weakref.ref(owner.__dict__.pop(name))
    except KeyError:
        return
    deadline = time.monotonic() + _PATIENCE_S
    while last() is not None and time.monotonic() < deadline:
        time.sleep(_TURN_S)
