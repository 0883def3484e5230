"""Responses that must come at some pace: a read timeout alone lets a server send one byte a minute for ever."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# In so much time of waiting for a response at least so much of it has to come, head and body alike.
_WINDOW_S = 120.0
_LEAST_BYTES = 256 << 10


class PacedResponse(http.client.HTTPResponse):
    """A response whose reads raise TimeoutError where it comes too slowly. Only time spent in waiting counts."""

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()))


class _Paced(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw
        self._waited_s = 0.0
        self._came = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        begun = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited_s += time.monotonic() - begun
        self._came += count or 0
        if self._waited_s > _WINDOW_S:
            if self._came < _LEAST_BYTES:
                raise TimeoutError
            self._waited_s, self._came = 0.0, 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
