"""The control socket of a runtime: length-prefixed JSON over a Unix stream socket in a directory of our own.

    frame = magic u32, length u32, JSON text (at most MAX_FRAME bytes); one answer per request, in order
    answer = {"ok": true, ...} or {"ok": false, "error": "one line", "errno": 22}

Packets inside a message are base64. A peer of another uid, a frame too long or anything that is not JSON ends the connection; nobody else notices.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from shmbpf.errors import MapError, ShmbpfError
from shmbpf.shm.segment import own_directory

MAX_FRAME = 4 << 20
MAX_CLIENTS = 64
_HEAD = struct.Struct("<II")
_MAGIC = 0x66706273  # "sbpf"
_CREDENTIALS = struct.Struct("3i")


def encode_bytes(data: bytes | None) -> str | None:
    """Bytes as they travel in a message."""
    return None if data is None else base64.b64encode(data).decode()


def decode_bytes(text: str | None) -> bytes | None:
    """Inverse of encode_bytes()."""
    return None if text is None else base64.b64decode(text)


def send_message(sock: socket.socket, message: dict) -> None:
    """Sends one frame, whole."""
    body = json.dumps(message).encode()
    sock.sendall(_HEAD.pack(_MAGIC, len(body)) + body)


def receive_message(sock: socket.socket, within: float | None = None) -> dict | None:
    """One frame from a blocking socket; None at the end of the stream. ValueError for anything malformed, TimeoutError for a frame that takes longer."""
    deadline = None if within is None else time.monotonic() + within
    head = _receive_exactly(sock, _HEAD.size, deadline)
    if head is None:
        return None
    magic, length = _HEAD.unpack(head)
    if magic != _MAGIC or length > MAX_FRAME:
        raise ValueError("malformed frame")
    body = _receive_exactly(sock, length, deadline)
    try:
        message = None if body is None else json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if message is not None and not isinstance(message, dict):
        raise ValueError("expected a JSON object")
    return message


def _receive_exactly(sock: socket.socket, length: int, deadline: float | None) -> bytes | None:
    parts = bytearray()
    while len(parts) < length:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
        part = sock.recv(min(length - len(parts), 1 << 16))
        if not part:
            return None
        parts += part
    return bytes(parts)


Reply = Callable[[dict], None]


def refusal(error: Exception) -> dict:
    """The answer that says why not."""
    answer = {"ok": False, "error": str(error) or type(error).__name__}
    return answer | {"errno": error.errno} if isinstance(error, MapError) else answer


class ControlServer:
    """Serves `handle(request, reply)` on `<directory>/ctl.sock`; the handler calls `reply(answer)` now or later, or raises what the request is refused with.

    `poll()` does what is due without blocking for longer than its timeout.
    """

    def __init__(self, directory: Path, handle: Callable[[dict, Reply], None]):
        self._handle = handle
        own_directory(directory)
        self.path = directory / "ctl.sock"
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.path))
        self._socket.listen(16)
        self._socket.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self._socket, selectors.EVENT_READ, self._accept)
        self._clients: set[socket.socket] = set()

    def poll(self, timeout: float) -> None:
        """Waits up to `timeout` seconds for something to do, and does it. Callbacks registered in `selector` run here too."""
        for key, _ in self.selector.select(timeout):
            key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        _, uid, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.getuid() or len(self._clients) >= MAX_CLIENTS:
            client.close()
            return
        self._clients.add(client)
        self.selector.register(client, selectors.EVENT_READ, self._serve)

    def _serve(self, client: socket.socket) -> None:
        try:
            request = receive_message(client, within=0.5)  # a peer that dribbles is dropped, not waited for
        except (OSError, ValueError):
            request = None
        if request is None:
            self._drop(client)
            return

        def reply(answer: dict) -> None:
            self._send(client, answer)

        try:
            self._handle(request, reply)
        except Exception as error:  # whatever a request holds, it must not end the runtime
            reply(refusal(error))

    def _send(self, client: socket.socket, answer: dict) -> None:
        if client not in self._clients:
            return  # it did not wait
        try:
            client.settimeout(2)
            send_message(client, answer)
        except OSError:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if client in self._clients:
            self.selector.unregister(client)
            self._clients.discard(client)
            client.close()

    def close(self) -> None:
        """Closes everything and removes the socket and its directory."""
        for client in list(self._clients):
            self._drop(client)
        self.selector.close()
        self._socket.close()
        self.path.unlink(missing_ok=True)
        try:
            self.path.parent.rmdir()
        except OSError:
            pass


class ControlClient:
    """A connection to the runtime of a namespace. One that is just starting is waited for; ShmbpfError when nobody listens after `patience` seconds."""

    def __init__(self, directory: Path, patience: float = 5.0):
        deadline = time.monotonic() + patience
        while True:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.connect(str(directory / "ctl.sock"))
                return
            except OSError as error:
                self._socket.close()
                if time.monotonic() > deadline:
                    raise ShmbpfError(f"the runtime at {directory} does not answer: {error.strerror}") from error
            time.sleep(0.01)

    def ask(self, **request) -> dict:
        """Sends a request and returns the answer. Raises what the runtime refused it with."""
        send_message(self._socket, request)
        answer = receive_message(self._socket)
        if answer is None:
            raise ShmbpfError("the runtime went away before it answered")
        if answer.pop("ok", False):
            return answer
        if "errno" in answer:
            raise MapError(answer["errno"], answer["error"])
        raise ShmbpfError(answer.get("error", "refused"))

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc) -> None:
        self.close()
