"""One HTTP/1.1 connection, and the replies that come over it.

llhttp, Node.js's parser, reads what a server sends (package `httptools`): a build whose steps are all cached still asks
registries what its tags mean, and loading http.client with its mail parser took longer than to ask.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from httptools.parser.errors import HttpParserError, HttpParserUpgrade
from httptools.parser.parser import HttpResponseParser

from stagewright.registry.pace import PacedSocket

if TYPE_CHECKING:
    import ssl

_BLOCK = 256 << 10
_HEAD_BLOCK = 64 << 10
_MAX_HEAD = 256 << 10
_BARE_STATUSES = frozenset({204, 304})


class BrokenReplyError(Exception):
    """What came is no HTTP reply, or ended before its end."""


class Headers:
    """The header fields of a reply, in order; names are found in any case."""

    def __init__(self, *fields: tuple[str, str]) -> None:
        self._fields = [(name.lower(), value) for name, value in fields]

    def add(self, name: str, value: str) -> None:
        """Append a field."""
        self._fields.append((name.lower(), value))

    def get(self, name: str) -> str | None:
        """The value of the first field of that name."""
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        """The values of all fields of that name."""
        wanted = name.lower()
        return [value for name, value in self._fields if name == wanted]


class Connection:
    """A connection to a server, or to one behind a proxy. `sock` is None while there is none.

    With `tls` its peer has to be `server_name`. A `tunnel` is what a proxy is asked to connect to (HOST:PORT) and the
    header fields of that request. Times are in seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        tunnel: tuple[str, Sequence[tuple[str, str]]] | None = None,
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._server_name = server_name
        self._tunnel = tunnel
        self.sock: socket.socket | None = None

    def connect(self, timeout_s: float) -> socket.socket:
        """Connect; `timeout_s` holds for each step. Raises OSError, UnicodeError for what cannot be a host's name,
        and BrokenReplyError where a proxy answers nonsense."""
        host, port = self._address
        # Given text, the socket module loads the tables of international names first, in each build that asks.
        name = host.encode() if host.isascii() else host
        self.sock = sock = socket.create_connection((name, port), timeout_s)  # type: ignore[arg-type]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tunnel is not None:
            target, fields = self._tunnel
            reply = self.request("CONNECT", target, fields)
            if not 200 <= reply.status < 300:
                raise OSError(f"it answered with status {reply.status}")
            if reply.has_more:
                raise BrokenReplyError
        if self._tls is not None:
            self.sock = sock = self._tls.wrap_socket(sock, server_hostname=self._server_name)
        return sock

    def request(
        self, method: str, target: str, fields: Sequence[tuple[str, str]], chunks: Iterable[bytes] = ()
    ) -> Reply:
        """Send a request and read the head of its reply.

        The body is what `chunks` gives; its length is among the `fields`. Raises OSError (TimeoutError among others),
        BrokenReplyError, and UnicodeError for a header field that cannot be sent.
        """
        sock = self.sock
        assert sock is not None
        for name, value in fields:
            if not {"\r", "\n", "\0"}.isdisjoint(name + value):
                raise ValueError(f"the header field {name} has an end of line in it")
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        sock.sendall("\r\n".join(lines).encode("latin-1"))
        try:
            for chunk in chunks:
                sock.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            # The server had enough of it; what it has to say may already be here.
            pass
        return Reply(sock, method)

    def close(self) -> None:
        """Close the socket, if there is one."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()


class Reply:
    """A reply whose head has been read; its body comes by `read`.

    `remaining` is how many bytes of the body are still to come from the socket, None where only its end will tell.
    """

    def __init__(self, sock: socket.socket, method: str) -> None:
        """Read the head. Raises OSError (TimeoutError among others), and BrokenReplyError where none comes."""
        self._source = PacedSocket(sock)
        self._events = events = _Events()
        self._parser = HttpResponseParser(events)
        events.parser = self._parser
        self._read_head()
        # No cycle of the two shall wait for the collector.
        events.parser = None
        self.status = events.status
        self.headers = events.headers
        self.remaining: int | None = None
        length = self.headers.get("Content-Length")
        self._is_chunked = self.headers.get("Transfer-Encoding") is not None
        if method in ("HEAD", "CONNECT"):
            events.has_more |= bool(events.pieces)
            events.pieces.clear()
            self.remaining = 0
        elif events.is_complete or self.status in _BARE_STATUSES:
            self.remaining = 0
        elif length is not None and not self._is_chunked:
            # The parser has seen to it that this is one number. Nothing of such a body needs its work.
            self.remaining = int(length) - sum(map(len, events.pieces))

    @property
    def has_more(self) -> bool:
        """Whether something came behind its end."""
        return self._events.has_more

    @property
    def is_complete(self) -> bool:
        """Whether all of it has come from the socket."""
        return self.remaining == 0

    @property
    def keeps_connection(self) -> bool:
        """Whether the connection is good for another request: nothing of this reply is left, nothing came behind."""
        options = ",".join(self.headers.get_all("Connection")).lower().split(",")
        closes = "close" in map(str.strip, options)
        return self.is_complete and not closes and not self.has_more and self._events.version == "1.1"

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end. Raises OSError, and BrokenReplyError where the body ends too early."""
        pieces = self._events.pieces
        while not pieces and self.remaining is None:
            self._receive()
        if pieces:
            piece = pieces.popleft()
            if len(piece) > size:
                pieces.appendleft(piece[size:])
            return piece[:size]
        if not self.remaining or not size:
            return b""
        data = self._source.read(min(size, self.remaining))
        if not data:
            raise BrokenReplyError
        self.remaining -= len(data)
        return data

    def _read_head(self) -> None:
        came = 0
        while not self._events.has_head:
            data = self._source.receive(_HEAD_BLOCK)
            came += len(data)
            if not data or came > _MAX_HEAD:
                raise BrokenReplyError
            self._feed(data)

    def _receive(self) -> None:
        data = self._source.receive(_BLOCK)
        if self._is_chunked:
            if not data:
                raise BrokenReplyError
            self._feed(data)
            if self._events.is_complete:
                self.remaining = 0
        elif data:
            self._events.pieces.append(bytes(data))
        else:
            # Its end is that of the connection.
            self._events.has_more = True
            self.remaining = 0

    def _feed(self, data: memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._events.is_complete:
                raise BrokenReplyError from error
            self._events.has_more = True


class _Events:
    """What the parser tells of one reply; interim ones (status 1xx) before it are left out."""

    parser: HttpResponseParser | None = None
    status = 0
    version = ""
    has_head = False
    is_complete = False
    has_more = False

    def __init__(self) -> None:
        self.headers = Headers()
        self.pieces: deque[bytes] = deque()

    def on_message_begin(self) -> None:
        self.has_more = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:
            self.headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        if self.parser is not None and not self.has_head:
            self.status = self.parser.get_status_code()
            self.version = self.parser.get_http_version()
            self.has_head = self.status >= 200

    def on_body(self, body: bytes) -> None:
        if not self.is_complete:
            self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_complete = True
        else:
            self.headers = Headers()
