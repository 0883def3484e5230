"""Messages between the builder and the launcher of steps: tuples in marshal's format, over Unix sockets.

Both ends are the same Python, so marshal, which is quick and needs no import, is the same on both. A step has a socket
of its own: one request goes down, reports come up, and descriptors travel beside the bytes.
"""

from __future__ import annotations

import marshal
from _socket import MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterator, Sequence
    from typing import Any

_PREFIX = 4
# The kernel's SCM_MAX_FD.
_MAX_DESCRIPTORS = 253

# What goes down the launcher's socket, with (status, stdout, stderr) and perhaps a network namespace.
STEP = b"\1"
"""A step that is contained, as nearly all are, for which a process may be ready."""
OTHER = b"\2"
"""An insecure step, or the program that makes the network."""
AHEAD = b"\3"
"""A STEP is to come, perhaps in the network namespace that is all that comes with this."""

# What comes up. READY and FAILED are on the launcher's socket too.
READY = "ready"
"""(READY, controllers): the launcher can take steps, and has the limits of these controllers in force for them."""
FAILED = "failed"
"""(FAILED, message): the launcher or a step cannot start."""
STARTED = "started"
"""(STARTED,) with a pidfd of the step's first process."""
LISTENING = "listening"
"""(LISTENING, path) with a listening socket, whose connections are to be relayed to the host's socket `path`."""
STUBS = "stubs"
"""(STUBS, created, directories): StubRecorder's report."""
NETWORK = "network"
"""(NETWORK,) with the network namespace for steps."""
EXITED = "exited"
"""(EXITED, exit code, signal or 0, whether the kernel killed something for want of memory): the step is over."""


def pack(message: Any) -> bytes:
    """A message as bytes."""
    body = marshal.dumps(message)
    return len(body).to_bytes(_PREFIX, "big") + body


def send(sock: socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a short message, with descriptors."""
    sock.sendmsg([pack(message)], _beside(descriptors))


def send_descriptors(sock: socket, descriptors: Sequence[int], kind: bytes = b"\0") -> None:
    """Send descriptors beside one byte, which may mean something."""
    sock.sendmsg([kind], _beside(descriptors))


def _beside(descriptors: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """What `sendmsg` takes for descriptors that go beside the bytes."""
    rights = b"".join(fd.to_bytes(4, "little") for fd in descriptors)
    return [(SOL_SOCKET, SCM_RIGHTS, rights)] if rights else []


def receive(sock: socket, room: int, descriptors: int) -> tuple[bytes, list[int]]:
    """Read up to `room` bytes and up to that many descriptors, which are closed on exec."""
    data, ancillary, _, _ = sock.recvmsg(room, 64 + 4 * descriptors, MSG_CMSG_CLOEXEC)
    found = []
    for level, kind, rights in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            found += [int.from_bytes(rights[at : at + 4], "little") for at in range(0, len(rights) // 4 * 4, 4)]
    return data, found


def receive_message(sock: socket) -> Any:
    """Read one message from a blocking socket. Raises EOFError where the other side has gone."""
    size = int.from_bytes(_receive_exactly(sock, _PREFIX), "big")
    return marshal.loads(_receive_exactly(sock, size))  # noqa: S302 -- from ourselves


def send_request(sock: socket, request: dict[str, Any]) -> None:
    """Send a request of any length, and with it the descriptors that its "descriptors" lists, if any."""
    data = pack(request)
    sock.sendmsg([data[:_PREFIX]], _beside(request.get("descriptors", ())))
    sock.sendall(data[_PREFIX:])


def receive_request(sock: socket) -> dict[str, Any]:
    """Read a request, whose "descriptors" are now this process's. Raises EOFError where the other side has gone."""
    prefix, descriptors = receive(sock, _PREFIX, _MAX_DESCRIPTORS)
    size = int.from_bytes(prefix + _receive_exactly(sock, _PREFIX - len(prefix)), "big")
    request: dict[str, Any] = marshal.loads(_receive_exactly(sock, size))  # noqa: S302 -- from ourselves
    request["descriptors"] = descriptors
    return request


def _receive_exactly(sock: socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    filled = 0
    while filled < size:
        count = sock.recv_into(view[filled:])
        if not count:
            raise EOFError
        filled += count
    return data


class Inbox:
    """Puts messages together from the pieces that a socket gives."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take in bytes and give out the messages that are complete."""
        self._data += data
        while len(self._data) >= _PREFIX:
            end = _PREFIX + int.from_bytes(self._data[:_PREFIX], "big")
            if len(self._data) < end:
                return
            body = bytes(self._data[_PREFIX:end])
            del self._data[:end]
            yield marshal.loads(body)  # noqa: S302 -- from ourselves
