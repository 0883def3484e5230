"""The narrow HTTP/1.1 layer below the registry protocol: pooled connections, proxies, redirects, bounded bodies.

What a connection sends and reads is in `connection`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NoReturn
from urllib.parse import urljoin, urlsplit

from stagewright.config import RegistryTable
from stagewright.errors import CanceledError, RegistryError, system_reason
from stagewright.records import dataclass
from stagewright.registry.connection import BrokenReplyError, Connection, Reply
from stagewright.registry.errors import UnreachableError
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
_BROKEN = (BrokenReplyError, OSError)


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

    def __init__(self, client: HttpClient, link: _Link, reply: Reply, url: str, authorization: str) -> None:
        self._client = client
        self._link: _Link | None = link
        self._reply = reply
        self.status = reply.status
        self.headers = reply.headers
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
            return self._reply.read(size)
        except _BROKEN as error:
            self._client.raise_broken(error, self.origin)

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
            if (self._reply.remaining or 0) <= _MAX_DRAINED:
                while self._reply.remaining and self._reply.read(_MAX_DRAINED):
                    pass
        except _BROKEN:
            self._client.release(link, reusable=False)
        else:
            self._client.release(link, reusable=self._reply.keeps_connection)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass(eq=False, slots=True)
class _Link:
    """One connection, to its origin or to the proxy before it."""

    key: tuple[Origin, Proxy | None]
    connection: Connection
    used: bool = False


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
            busy = [link.connection.sock for link in self._busy]
        for sock in busy:
            if sock is not None:
                _shut_down(sock)

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
                reply = _exchange(link, method, target, headers, body)
            except (*_BROKEN, UnicodeError) as error:
                self.release(link, reusable=False)
                # A server may close an idle connection just as it is used again: that request it never saw.
                if was_used and not isinstance(body, Body) and not isinstance(error, TimeoutError):
                    continue
                self.raise_broken(error, origin)
            except BaseException:
                self.release(link, reusable=False)
                raise
            return Response(self, link, reply, url, headers.get("Authorization", ""))

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
            sock = link.connection.connect(_CONNECT_TIMEOUT_S)
        except (*_BROKEN, UnicodeError) as error:
            # The socket module raises UnicodeError for what cannot be a host's name.
            self.release(link, reusable=False)
            self._raise_connect(error, origin, proxy)
        sock.settimeout(_READ_TIMEOUT_S)
        return link

    def _connection(self, origin: Origin, proxy: Proxy | None) -> Connection:
        host, port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
        if origin.scheme == "http":
            return Connection(host, port)
        tunnel = None
        if proxy is not None:
            target = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
            fields = [("Host", target)]
            if proxy.authorization:
                fields.append(("Proxy-Authorization", proxy.authorization))
            tunnel = (target, fields)
        return Connection(host, port, tls=self._context(origin), server_name=origin.host, tunnel=tunnel)

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
        if proxy is not None and isinstance(error, OSError) and not self._aborted:
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


def _exchange(
    link: _Link, method: str, target: str, headers: Mapping[str, str], body: bytes | Body | None
) -> Reply:
    fields = [("Host", link.key[0].netloc)]
    if "Accept-Encoding" not in headers:
        fields.append(("Accept-Encoding", "identity"))
    fields.append(("User-Agent", "stagewright"))
    fields += headers.items()
    if body is not None:
        fields.append(("Content-Length", str(body.size if isinstance(body, Body) else len(body))))
    elif method in ("POST", "PUT", "PATCH"):
        fields.append(("Content-Length", "0"))
    return link.connection.request(method, target, fields, _chunks(body))


def _chunks(body: bytes | Body | None) -> Iterator[bytes]:
    if isinstance(body, Body):
        with body.open() as file:
            while block := file.read(_BLOCK):
                yield block
    elif body:
        yield body


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # Not connected any more, which is what was wanted.
        return
