"""The narrow HTTP/1.1 layer below the registry protocol: pooled connections, proxies, redirects, bounded bodies.

It stands on http.client alone, since a build whose steps are all cached still asks registries what its tags mean, and
must not pay for loading a larger client.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NoReturn
from urllib.parse import urljoin, urlsplit

from stagewright.config import RegistryTable
from stagewright.errors import CanceledError, RegistryError, system_reason
from stagewright.records import dataclass
from stagewright.registry.errors import UnreachableError
from stagewright.registry.pace import PacedResponse
from stagewright.registry.proxy import Proxy, proxy_for

if TYPE_CHECKING:
    import ssl

_CONNECT_TIMEOUT_S = 15.0
_READ_TIMEOUT_S = 60.0
_MAX_REDIRECTS = 10
_MAX_IDLE = 8
_MAX_DRAINED = 64 << 10
_BLOCK = 256 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BROKEN = (http.client.HTTPException, OSError)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host name and port: who is spoken to."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """HOST, or HOST:PORT where the port is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body that can be sent again: `open` gives it from its start; `size` is in bytes."""

    open: Callable[[], BinaryIO]
    size: int


class Response:
    """A response whose body has not been read. Close it, or use it as a context manager.

    `authorization` is the header of its request, "" for none.
    """

    def __init__(
        self, client: HttpClient, link: _Link, raw: http.client.HTTPResponse, url: str, authorization: str
    ) -> None:
        self._client = client
        self._link: _Link | None = link
        self._raw = raw
        self.status = raw.status
        self.headers = raw.headers
        self.url = url
        self.authorization = authorization

    @property
    def origin(self) -> Origin:
        """Who answered, after all redirects."""
        return split_url(self.url)[0]

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end. Raises UnreachableError where the connection breaks before the end."""
        if self._link is None:
            return b""
        try:
            data = self._raw.read(size)
        except http.client.IncompleteRead as error:
            # What came of a chunked body before it broke off is as good as the rest; the next read tells the end.
            if error.partial:
                return error.partial
            self._client.raise_broken(error, self.origin)
        except _BROKEN as error:
            self._client.raise_broken(error, self.origin)
        if not data and size and self._raw.length:
            self._client.raise_broken(http.client.IncompleteRead(b""), self.origin)
        return data

    def read_all(self, limit: int) -> bytes:
        """The whole body. Raises RegistryError where it has more than `limit` bytes."""
        chunks, total = [], 0
        while chunk := self.read(min(_BLOCK, limit + 1 - total)):
            chunks.append(chunk)
            total += len(chunk)
            if total > limit:
                raise RegistryError(f"{self.origin.netloc} sent more than {limit} bytes")
        return b"".join(chunks)

    def close(self) -> None:
        """Give the connection back where the body was read to its end, else close it."""
        link, self._link = self._link, None
        if link is None:
            return
        try:
            # A short rest is cheaper to read than a new connection is to make.
            if self._raw.length is not None and self._raw.length <= _MAX_DRAINED:
                self._raw.read()
        except _BROKEN:
            self._client.release(link, reusable=False)
        else:
            self._client.release(link, reusable=self._raw.isclosed())
        self._raw.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass(eq=False, slots=True)
class _Link:
    """One connection, to its origin or to the proxy before it."""

    key: tuple[Origin, Proxy | None]
    connection: http.client.HTTPConnection
    sock: socket.socket | None = None
    used: bool = False


class _PlainConnection(http.client.HTTPConnection):
    """A connection without TLS that looks up plain names as bytes.

    Given text, the socket module loads the tables of international names first, in each build that asks a registry.
    """

    def connect(self) -> None:
        if not self.host.isascii():
            super().connect()
            return
        self.sock = socket.create_connection((self.host.encode(), self.port), self.timeout)  # type: ignore[arg-type]
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class HttpClient:
    """Sends requests for several threads at once. `tables` are the TLS settings by HOST[:PORT]; `env` names proxies."""

    def __init__(self, tables: Mapping[str, RegistryTable], env: Mapping[str, str]) -> None:
        self._tables = tables
        self._env = env
        self._lock = threading.Lock()
        self._idle: dict[tuple[Origin, Proxy | None], list[_Link]] = {}
        self._busy: set[_Link] = set()
        self._contexts: dict[RegistryTable, ssl.SSLContext] = {}
        self._aborted = False

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        *,
        secret_body: bool = False,
    ) -> Response:
        """Send a request and return the response with its body unread; redirects are followed.

        Bodies come as they are unless `headers` have another Accept-Encoding than "identity".

        An Authorization header goes only to the origin of `url`: not to another host, nor from https to http. A
        `secret_body` does not, either: such a redirect is refused. Raises UnreachableError without an answer,
        RegistryError for bad certificates and endless redirects, CanceledError after `abort()`.
        """
        first = split_url(url)[0]
        headers = dict(headers or {})
        for _ in range(_MAX_REDIRECTS + 1):
            origin, target = split_url(url)
            if origin != first:
                if secret_body and body is not None:
                    raise RegistryError(f"{first.netloc} redirects a request with credentials to another host")
                # For good: a host in between must not choose what is asked for with them (as in CVE-2024-45336).
                headers.pop("Authorization", None)
            response = self._send(method, url, origin, target, dict(headers), body)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            response.close()
            url = join_url(url, location)
            if method not in ("GET", "HEAD") and response.status not in (307, 308):
                method, body = "GET", None
        raise RegistryError(f"{first.netloc} redirects more than {_MAX_REDIRECTS} times")

    def abort(self) -> None:
        """Break off all requests, which end with CanceledError, as do those that are made later."""
        with self._lock:
            self._aborted = True
            busy = list(self._busy)
        for link in busy:
            if link.sock is not None:
                _shut_down(link.sock)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for links in idle.values():
            for link in links:
                link.connection.close()

    def release(self, link: _Link, *, reusable: bool) -> None:
        """Take a connection back from its response."""
        with self._lock:
            self._busy.discard(link)
            idle = self._idle.setdefault(link.key, [])
            if reusable and link.connection.sock is not None and len(idle) < _MAX_IDLE and not self._aborted:
                idle.append(link)
                return
        link.connection.close()

    def raise_broken(self, error: Exception, origin: Origin, *, connected: bool = True) -> NoReturn:
        """Turn an error of the connection into the one that callers know."""
        if self._aborted:
            raise CanceledError from error
        if isinstance(error, TimeoutError):
            reason = "timed out"
        elif isinstance(error, socket.gaierror | UnicodeError):
            reason = "the host name cannot be resolved"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror.lower()
        else:
            reason = "the connection broke" if connected else "cannot connect"
        raise UnreachableError(f"{origin.netloc}: {reason}", connected=connected) from error

    def _send(
        self, method: str, url: str, origin: Origin, target: str, headers: dict[str, str], body: bytes | Body | None
    ) -> Response:
        proxy = proxy_for(origin.scheme, origin.host, origin.port, self._env)
        if proxy is not None and origin.scheme == "http":
            target = f"http://{origin.netloc}{target}"
            if proxy.authorization:
                headers["Proxy-Authorization"] = proxy.authorization
        while True:
            link = self._take(origin, proxy)
            was_used, link.used = link.used, True
            try:
                raw = self._exchange(link, method, target, headers, body)
            except _BROKEN as error:
                self.release(link, reusable=False)
                # A server may close an idle connection just as it is used again: that request it never saw.
                if was_used and not isinstance(body, Body) and not isinstance(error, TimeoutError):
                    continue
                self.raise_broken(error, origin)
            except BaseException:
                self.release(link, reusable=False)
                raise
            return Response(self, link, raw, url, headers.get("Authorization", ""))

    def _exchange(
        self, link: _Link, method: str, target: str, headers: dict[str, str], body: bytes | Body | None
    ) -> http.client.HTTPResponse:
        connection = link.connection
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", link.key[0].netloc)
        if "Accept-Encoding" not in headers:
            connection.putheader("Accept-Encoding", "identity")
        connection.putheader("User-Agent", "stagewright")
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is None:
            if method in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", "0")
            connection.endheaders()
        else:
            connection.putheader("Content-Length", str(body.size if isinstance(body, Body) else len(body)))
            connection.endheaders()
            try:
                _send_body(connection, body)
            except (BrokenPipeError, ConnectionResetError):
                # The server had enough of it; what it has to say may already be here.
                pass
        return connection.getresponse()

    def _take(self, origin: Origin, proxy: Proxy | None) -> _Link:
        key = (origin, proxy)
        with self._lock:
            if self._aborted:
                raise CanceledError
            idle = self._idle.get(key)
            if idle:
                link = idle.pop()
                self._busy.add(link)
                return link
        link = _Link(key, self._connection(origin, proxy))
        with self._lock:
            self._busy.add(link)
        try:
            link.connection.connect()
        except (*_BROKEN, UnicodeError) as error:
            # The socket module raises UnicodeError for what cannot be a host's name.
            self.release(link, reusable=False)
            self._raise_connect(error, origin, proxy)
        # The connection forgets its socket once a response is to be its last, and abort() must still reach it.
        link.sock = link.connection.sock
        link.sock.settimeout(_READ_TIMEOUT_S)
        return link

    def _connection(self, origin: Origin, proxy: Proxy | None) -> http.client.HTTPConnection:
        host, port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
        if origin.scheme == "http":
            plain = _PlainConnection(host, port, timeout=_CONNECT_TIMEOUT_S, blocksize=_BLOCK)
            plain.response_class = PacedResponse
            return plain
        connection = http.client.HTTPSConnection(
            host, port, timeout=_CONNECT_TIMEOUT_S, blocksize=_BLOCK, context=self._context(origin)
        )
        connection.response_class = PacedResponse
        if proxy is not None:
            headers = {"Host": f"{origin.host}:{origin.port}"}
            if proxy.authorization:
                headers["Proxy-Authorization"] = proxy.authorization
            connection.set_tunnel(origin.host, origin.port, headers)
        return connection

    def _context(self, origin: Origin) -> ssl.SSLContext:
        from stagewright.registry.tls import tls_context

        table = self._tables.get(origin.netloc) or self._tables.get(f"{origin.host}:{origin.port}") or RegistryTable()
        with self._lock:
            if table not in self._contexts:
                self._contexts[table] = tls_context(table)
            return self._contexts[table]

    def _raise_connect(self, error: Exception, origin: Origin, proxy: Proxy | None) -> NoReturn:
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            raise RegistryError(
                f"{origin.netloc}: its certificate cannot be trusted: {error.verify_message}",
                hint=f'name its authority as "ca" in the configuration\'s table registry."{origin.netloc}"',
            ) from error
        if isinstance(error, ssl.SSLError):
            raise UnreachableError(f"{origin.netloc}: TLS failed: {_tls_reason(error)}", connected=False) from error
        broke = isinstance(error, http.client.HTTPException)
        if proxy is not None and isinstance(error, OSError) and not broke and not self._aborted:
            reason = f"the proxy {proxy.host}:{proxy.port} did not connect: {system_reason(error)}"
            raise UnreachableError(f"{origin.netloc}: {reason}", connected=False) from error
        self.raise_broken(error, origin, connected=False)


def _tls_reason(error: ssl.SSLError) -> str:
    # OpenSSL's word for it, such as WRONG_VERSION_NUMBER, where it has one.
    return (error.reason or "the connection broke").lower().replace("_", " ")


def join_url(base: str, location: str) -> str:
    """The absolute URL that `location` means where `base` was asked. Raises RegistryError where it is no URL."""
    try:
        return urljoin(base, location)
    except ValueError:
        raise RegistryError(f"{urlsplit(base).hostname} named a URL that is not one") from None


def split_url(url: str) -> tuple[Origin, str]:
    """The origin and the request target of an absolute http or https URL. Raises RegistryError for any other."""
    try:
        parts = urlsplit(url)
        port = parts.port or _default_port(parts.scheme)
    except ValueError:
        raise RegistryError("a server named a URL that is not one") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RegistryError("a server named a URL that is neither http nor https")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise RegistryError(f"{parts.hostname} was to be asked for a URL with characters that no URL has")
    return Origin(parts.scheme, parts.hostname, port), target


def _default_port(scheme: str) -> int:
    return 80 if scheme == "http" else 443


def _send_body(connection: http.client.HTTPConnection, body: bytes | Body) -> None:
    if isinstance(body, bytes):
        connection.send(body)
        return
    with body.open() as file:
        while block := file.read(_BLOCK):
            connection.send(block)


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # Not connected any more, which is what was wanted.
        return
