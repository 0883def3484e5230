"""Replies that must come at some pace: a read timeout alone lets a server send one byte a minute for ever."""

from __future__ import annotations

import socket
import time

# In so much time of waiting for a reply at least so much of it has to come, head and body alike.
_WINDOW_S = 120.0
_LEAST_BYTES = 256 << 10


class PacedSocket:
    """Reads one reply from a socket. Raises TimeoutError where it comes too slowly; only time spent waiting counts."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waited_s = 0.0
        self._came = 0

    def receive(self, size: int) -> memoryview:
        """What has come, at least one byte and up to `size`; nothing at the end."""
        view = memoryview(bytearray(size))
        return view[: self._receive_into(view)]

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        view = memoryview(bytearray(size))
        filled = 0
        while filled < size and (count := self._receive_into(view[filled:])):
            filled += count
        return bytes(view[:filled])

    def _receive_into(self, view: memoryview) -> int:
        begun = time.monotonic()
        count = self._sock.recv_into(view)
        self._waited_s += time.monotonic() - begun
        self._came += count
        if self._waited_s > _WINDOW_S:
            if self._came < _LEAST_BYTES:
                raise TimeoutError
            self._waited_s, self._came = 0.0, 0
        return count
