"""A connection to the daemon that blocks: for programs without a loop, from any thread, inside a loop too.

One socket, one request at a time, behind a lock. A daemon that restarted is connected to again by the next
call. A call whose answer got lost raises: whether it was carried out is not known here.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from types import TracebackType
from typing import Any, Final

from edge_node.client import MeshUnavailable, _error_for, _nobody
from edge_node.control import protocol
from edge_node.control.protocol import Answer, Call, Failure, FrameReader, Response
from edge_node.home import Home
from security.errors import ProtocolViolation

ANSWER_S_MAX: Final = 60.0
"""Beyond what was asked to wait: a worn card takes seconds for an fsync; after this long a daemon hangs."""
_READ_BYTES: Final = 256 * 1024


class BlockingConnection:
    """Connects at the first call."""

    def __init__(self, home: Home, *, answer_s_max: float = ANSWER_S_MAX) -> None:
        self._home = home
        self._answer_s_max = answer_s_max
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._pid = 0
        self._last = 0

    def __enter__(self) -> BlockingConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """One administrative method.

        Raises: BadInput, Refused, MeshUnavailable: what the daemon said, or that it says nothing.
        """
        packed = protocol.pack(params)
        end_s = time.monotonic() + self._answer_s_max + float(params.get("wait_s", 0))
        with self._lock:
            self._last += 1
            frame = protocol.encode(Call(self._last, method, packed))
            opened = self._connected()
            try:
                response = self._asked(opened, frame, self._last, end_s)
            except BaseException as error:  # also an interrupt: what comes next on this socket is not ours
                self._drop()
                if isinstance(error, TimeoutError):
                    raise MeshUnavailable(
                        f"the daemon in {self._home.path} did not answer within {self._answer_s_max:g} s",
                        fix="see whether it still works: `edge-node doctor`",
                    ) from None
                if isinstance(error, OSError | EOFError):
                    raise MeshUnavailable(
                        f"the connection to the daemon in {self._home.path} was lost",
                        fix="whether the last call was carried out is not known; look, and ask again",
                    ) from None
                if isinstance(error, ProtocolViolation):
                    raise MeshUnavailable(
                        f"the daemon at {self._home.path} speaks another language: {error.cause}",
                        fix="use the same edgeweave version for daemon and client",
                    ) from None
                raise
        if isinstance(response, Failure):
            raise _error_for(response)
        assert isinstance(response, Answer)
        return protocol.unpack(response.result)

    def close(self) -> None:
        with self._lock:
            self._drop()

    # -- inside, with the lock held ---------------------------------------------------------------------

    def _asked(self, opened: socket.socket, frame: bytes, number: int, end_s: float) -> Response:
        opened.settimeout(max(0.001, end_s - time.monotonic()))
        opened.sendall(frame)
        while True:
            opened.settimeout(max(0.001, end_s - time.monotonic()))
            data = opened.recv(_READ_BYTES)
            if not data:
                raise EOFError
            for body in self._reader.feed(data):
                response = protocol.decode_response(body)
                if isinstance(response, Failure) and response.id in (0, number):
                    return response
                if isinstance(response, Answer) and response.id == number:
                    return response
                raise ProtocolViolation(f"{type(response).__name__} {response.id} to request {number}")

    def _connected(self) -> socket.socket:
        """A socket with nothing left to read: whatever is readable now is the end of a daemon's life."""
        opened = self._socket
        if opened is not None and self._pid == os.getpid():
            poll = select.poll()
            poll.register(opened, select.POLLIN | select.POLLHUP)
            if not poll.poll(0):
                return opened
        self._drop()
        self._socket = opened = self._connect()
        self._pid = os.getpid()
        self._reader = FrameReader()
        return opened

    def _connect(self) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(self._answer_s_max)
            for attempt in range(50):
                try:
                    with self._home.socket_address() as address:
                        opened.connect(address)
                    break
                except BlockingIOError:  # the daemon's backlog is full: it is busy, not gone
                    if attempt == 49:
                        raise
                    time.sleep(0.02)
        except OSError as error:
            opened.close()
            raise _nobody(self._home, error) from None
        return opened

    def _drop(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()
