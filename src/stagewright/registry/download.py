"""Blobs from a registry into the store: verified as they stream, resumed where a connection breaks."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stagewright.content.blobs import BlobStore, BlobWriter
from stagewright.errors import IntegrityError
from stagewright.image.descriptor import Descriptor
from stagewright.patterns import pattern
from stagewright.registry.errors import UnreachableError
from stagewright.registry.hosts import Host
from stagewright.registry.http import Response
from stagewright.registry.session import Session, back_off, check_cancel, check_status

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Progress = Callable[[int, int], None]

_BLOCK = 256 << 10
# Failures in a row without a new byte, and failures over all, that a download survives.
_MAX_STALLS = 5
_MAX_FAILURES = 30

_CONTENT_RANGE = pattern(r"bytes (\d{1,18})-\d+/(?:\d+|\*)", re.ASCII)


class BlobStream(io.RawIOBase):
    """A blob's bytes as they arrive, to be read once; the store gets the blob when all were read and are right.

    The read that would return the last bytes raises IntegrityError instead where the digest is wrong. Reading raises
    UnreachableError where the registry stays away, CanceledError once `cancel` is set. Closing before the end discards
    what came. `resumed` tells whether the bytes are of more than one response, `host` who sends them.
    """

    def __init__(
        self,
        session: Session,
        hosts: Sequence[Host],
        path: str,
        descriptor: Descriptor,
        writer: BlobWriter,
        progress: Progress | None,
        cancel: threading.Event | None,
    ) -> None:
        super().__init__()
        self._session = session
        self._hosts = hosts
        self._path = path
        self._descriptor = descriptor
        self._writer = writer
        self._progress = progress
        self._cancel = cancel
        self._response: Response | None = None
        self._stalls = 0
        self._failures = 0
        self._done = False
        self.host = hosts[0]
        self.resumed = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next(min(len(view), _BLOCK))
        view[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        """Read to the end, after which the blob is in the store."""
        while self._next(_BLOCK):
            pass

    def close(self) -> None:
        if not self.closed:
            self._drop_response()
            self._writer.discard()
        super().close()

    def _next(self, size: int) -> bytes:
        if self._done or not size:
            return b""
        check_cancel(self._cancel)
        remaining = self._descriptor.size - self._writer.offset
        data = self._receive(min(size, remaining)) if remaining else b""
        self._writer.write(data)
        if self._writer.offset == self._descriptor.size:
            self._writer.commit()
            self._drop_response()
            self._done = True
        if self._progress is not None:
            self._progress(self._writer.offset, self._descriptor.size)
        return data

    def _receive(self, size: int) -> bytes:
        """The next bytes, at least one, through as many responses as it takes."""
        while True:
            try:
                if self._response is None:
                    self.resumed = self._writer.offset > 0
                    self._response = self._session.first_of(self._hosts, self._connect)
                data = self._response.read(size)
                if not data:
                    raise UnreachableError(f"{self.host.name}: the blob ended too early", connected=True)
                self._stalls = 0
                return data
            except UnreachableError as error:
                self._drop_response()
                self._stalls += 1
                self._failures += 1
                never_reached = not error.connected and self._writer.offset == 0
                if never_reached or self._stalls >= _MAX_STALLS or self._failures >= _MAX_FAILURES:
                    raise
                back_off(self._stalls, self._cancel, error.retry_after_s)

    def _connect(self, host: Host) -> Response:
        """A response whose next byte is the one at the writer's offset."""
        offset = self._writer.offset
        response = self._get(host, offset)
        try:
            if offset and response.status == 200:
                _skip(response, offset)
            elif offset and not _starts_at(response, offset):
                response.close()
                response = self._get(host, 0)
                check_status(response, (200,), f"blob {self._descriptor.digest}")
                _skip(response, offset)
            else:
                check_status(response, (200, 206) if offset else (200,), f"blob {self._descriptor.digest}")
                _check_length(response, self._descriptor, offset)
        except BaseException:
            response.close()
            raise
        self.host = host
        return response

    def _get(self, host: Host, offset: int) -> Response:
        repository = host.repository(self._path)
        return self._session.request(
            host,
            "GET",
            f"/v2/{repository}/blobs/{self._descriptor.digest}",
            frozenset({f"repository:{repository}:pull"}),
            headers={"Range": f"bytes={offset}-"} if offset else {},
        )

    def _drop_response(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def fetch_blob(
    session: Session,
    hosts: Sequence[Host],
    path: str,
    descriptor: Descriptor,
    store: BlobStore,
    progress: Progress | None,
    cancel: threading.Event | None,
) -> None:
    """Bring a blob into the store. Bytes that turn out wrong are thrown away and fetched anew.

    Where they were of several responses, they are fetched from zero once more; where they were of one, the next host
    is asked. Raises IntegrityError after that, else as BlobStream.
    """
    remaining, retried = list(hosts), False
    while True:
        writer = store.writer(expected=descriptor.digest, size=descriptor.size)
        with BlobStream(session, remaining, path, descriptor, writer, progress, cancel) as stream:
            try:
                return stream.drain()
            except IntegrityError:
                if stream.resumed and not retried:
                    retried = True
                    continue
                remaining = [host for host in remaining if host != stream.host]
                if not remaining:
                    raise


def _starts_at(response: Response, offset: int) -> bool:
    matched = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range") or "")
    return response.status == 206 and matched is not None and int(matched.group(1)) == offset


def _skip(response: Response, count: int) -> None:
    while count:
        data = response.read(min(count, _BLOCK))
        if not data:
            raise UnreachableError(f"{response.origin.netloc}: the blob ended too early", connected=True)
        count -= len(data)


def _check_length(response: Response, descriptor: Descriptor, offset: int) -> None:
    text = response.headers.get("Content-Length") or ""
    if text.isascii() and text.isdigit() and int(text[:20]) != descriptor.size - offset:
        raise IntegrityError(
            f"blob {descriptor.digest}: {response.origin.netloc} announces {int(text[:20])} bytes, "
            f"expected {descriptor.size - offset}"
        )
