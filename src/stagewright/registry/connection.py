"""One HTTP/1.1 connection as a client has it: request heads and bodies out, responses in (RFC 9110 and 9112).

The standard library's client would cost a build whose steps are all cached more time to load than to use: it asks
registries what its tags mean, and nothing else.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stagewright.errors import RegistryError

if TYPE_CHECKING:
    import io
    import ssl

_MAX_LINE = 64 << 10
_MAX_FIELDS = 200
_MAX_INTERIM = 20
_BROKE_OFF = "the connection broke off"


class ProtocolError(Exception):
    """What the other side sends is no HTTP, or ends before its end."""


class Headers:
    """The header fields of a response, by name in any case."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = [(name.lower(), value) for name, value in fields]

    def get(self, name: str) -> str | None:
        """The first value of a field, None where it is absent."""
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        """All values of a field, in order."""
        wanted = name.lower()
        return [value for field, value in self._fields if field == wanted]

    def members(self, name: str) -> list[str]:
        """The members of a field that is a comma-separated list, in lower case."""
        return [member.strip().lower() for value in self.get_all(name) for member in value.split(",")]


class Answer:
    """A response whose body is read from the connection. `remaining` is how many bytes are to come, None if unknown.

    Raises ProtocolError where the head allows no telling where the body ends.
    """

    def __init__(
        self, reader: io.BufferedReader, method: str, minor_version: int, status: int, headers: Headers
    ) -> None:
        self._reader = reader
        self._is_chunked = False
        self._chunk = 0
        self.status = status
        self.headers = headers
        self.remaining = self._body_length(method)
        options = headers.members("Connection")
        kept = "close" not in options and (minor_version > 0 or "keep-alive" in options)
        self._keeps_connection = kept and (self.remaining is not None or self._is_chunked)

    def _body_length(self, method: str) -> int | None:
        if method == "HEAD" or self.status in (204, 304):
            return 0
        codings = self.headers.members("Transfer-Encoding")
        if codings:
            if codings != ["chunked"]:
                raise ProtocolError("a transfer coding that was not asked for")
            self._is_chunked = True
            return None
        lengths = set(self.headers.members("Content-Length"))
        if not lengths:
            return None
        length = lengths.pop()
        if lengths or not (length.isascii() and length.isdigit() and len(length) < 20):
            raise ProtocolError("a body length that is none")
        return int(length)

    @property
    def can_be_followed(self) -> bool:
        """Whether the body was read to its end and the connection may carry another request."""
        return self._keeps_connection and self.remaining == 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of the body, b"" at its end. Raises ProtocolError where it breaks off, and OSError."""
        if self.remaining == 0:
            return b""
        if self._is_chunked:
            return self._read_chunk(size)
        if self.remaining is None:
            data = self._reader.read(size)
            if not data and size:
                self.remaining = 0
            return data
        data = self._reader.read(min(size, self.remaining))
        if not data and size:
            raise ProtocolError(_BROKE_OFF)
        self.remaining -= len(data)
        return data

    def _read_chunk(self, size: int) -> bytes:
        if not self._chunk:
            text = _read_line(self._reader).partition(b";")[0].strip()
            if not text or text.strip(b"0123456789abcdefABCDEF") or len(text) > 16:
                raise ProtocolError("a chunk without a size")
            self._chunk = int(text, 16)
            if not self._chunk:
                _read_fields(self._reader)
                self.remaining = 0
                return b""
        data = self._reader.read(min(size, self._chunk))
        if not data and size:
            raise ProtocolError(_BROKE_OFF)
        self._chunk -= len(data)
        if not self._chunk and _read_line(self._reader):
            raise ProtocolError("a chunk longer than its size")
        return data


class Connection:
    """A connection to `host` (a name, or an address without brackets), not open yet."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._reader: io.BufferedReader | None = None
        self.sock: socket.socket | None = None

    def connect(self, timeout_s: float) -> None:
        """Open it; `timeout_s` bounds this and all that follows. Raises OSError."""
        try:
            # Given text, the socket module loads the tables of international names, even for plain ones.
            name: str | bytes = self._host.encode("ascii")
        except UnicodeEncodeError:
            name = self._host
        self.sock = socket.create_connection((name, self._port), timeout_s)  # type: ignore[arg-type]
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def open_tunnel(self, target: str, headers: Mapping[str, str]) -> None:
        """Have the proxy at the other end connect to `target` (HOST:PORT). Raises OSError where it does not."""
        assert self.sock is not None
        self.send_head("CONNECT", target, headers)
        # Unbuffered, since what follows the proxy's answer is not for this reader.
        with self.sock.makefile("rb", buffering=0) as reader:
            status = _read_head(reader)[1]
        if not 200 <= status < 300:
            raise OSError(f"it answered with status {status}")

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Encrypt all that follows. Raises ssl.SSLError and OSError."""
        assert self.sock is not None
        self.sock = context.wrap_socket(self.sock, server_hostname=server_name)

    def send_head(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        """Send a request's line and fields. Raises RegistryError for characters that would be more than that."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise RegistryError("a request to a registry would hold characters that none may have")
        self.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())

    def send(self, data: bytes) -> None:
        """Send a piece of a request's body."""
        assert self.sock is not None
        self.sock.sendall(data)

    def receive(self, method: str) -> Answer:
        """The response to a request of that method. Raises ProtocolError and OSError."""
        assert self.sock is not None
        if self._reader is None:
            self._reader = self.sock.makefile("rb")
        for _ in range(_MAX_INTERIM):
            version, status, headers = _read_head(self._reader)
            if status >= 200:
                return Answer(self._reader, method, version, status, headers)
        raise ProtocolError("interim responses without end")

    def close(self) -> None:
        """Close it; closing twice is no error."""
        if self._reader is not None:
            self._reader.close()
        if self.sock is not None:
            self.sock.close()


def _read_head(reader: io.IOBase) -> tuple[int, int, Headers]:
    """The minor version, status and fields of a response."""
    words = _read_line(reader).split(maxsplit=2)
    if len(words) < 2 or words[0] not in (b"HTTP/1.0", b"HTTP/1.1") or len(words[1]) != 3 or not words[1].isdigit():
        raise ProtocolError("what the other side speaks is no HTTP")
    return int(words[0] == b"HTTP/1.1"), int(words[1]), _read_fields(reader)


def _read_fields(reader: io.IOBase) -> Headers:
    fields: list[tuple[str, str]] = []
    while line := _read_line(reader):
        if line[:1] in b" \t" and fields:
            # A folded line belongs to the field before it.
            name, value = fields.pop()
            fields.append((name, f"{value} {line.strip().decode('latin-1')}"))
            continue
        field, colon, content = line.partition(b":")
        if not colon or not field or field != field.strip() or len(fields) >= _MAX_FIELDS:
            raise ProtocolError("a response's head is damaged")
        fields.append((field.decode("latin-1"), content.strip().decode("latin-1")))
    return Headers(fields)


def _read_line(reader: io.IOBase) -> bytes:
    """A line without its end."""
    line = reader.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        raise ProtocolError(_BROKE_OFF if len(line) < _MAX_LINE else "a line without end")
    return line.rstrip(b"\r\n")
