"""Messages between the two sides of the door: pickled objects on a stream socket. Both ends are this program's own."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!Q")

UNSHARED = "unshared"
MAPPED = "mapped"
CALL = "call"
CANCEL = "cancel"
EVENT = "event"
RESULT = "result"
ERROR = "error"


def send(channel: socket.socket, kind: str, value: Any = None) -> None:
    """Send one message whole. Raises OSError where nobody is there any more."""
    data = pickle.dumps((kind, value), pickle.HIGHEST_PROTOCOL)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive(channel: socket.socket) -> tuple[str, Any]:
    """The next message; waits for it. Raises EOFError where the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    message: tuple[str, Any] = pickle.loads(_exactly(channel, length))  # noqa: S301
    return message


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            piece = channel.recv(size - len(data))
        except ConnectionResetError:
            piece = b""
        if not piece:
            raise EOFError("the other side of the door is gone")
        data += piece
    return bytes(data)
