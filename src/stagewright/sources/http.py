"""Files behind URLs: what a URL holds now, and that file as a snapshot.

What is known of a URL is kept with its ETag, so that a file that has not changed is not fetched again: a HEAD request
tells. A file that has is streamed to where its snapshot will have it, and hashed on the way, since only its digest
makes its key; whether anyone needs it shows later.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from stagewright.errors import CanceledError, IntegrityError, NotFoundError, RegistryError, StoreError, UsageError
from stagewright.graph.ops import SourceOp
from stagewright.records import dataclass
from stagewright.redaction import redact_url
from stagewright.sources.remote import URL_ROW

if TYPE_CHECKING:
    from stagewright.content.db import Database
    from stagewright.progress.reporter import Reporter, Status
    from stagewright.registry.http import HttpClient, Response
    from stagewright.snapshots.store import Draft, SnapshotStore

Secret = Callable[[str], bytes | None]

_ATTEMPTS = 3
_BLOCK = 256 << 10
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class _Known:
    """What a URL was seen to hold: the file's digest and its Last-Modified (Unix seconds), under that ETag."""

    etag: str
    digest: str
    modified: int | None


@dataclass(slots=True)
class _Download:
    """A file that has come, in the draft of a snapshot."""

    draft: Draft
    digest: str
    modified: int | None
    etag: str


class HttpSource:
    """Files behind URLs. Thread-safe; closed by `close`.

    `secret` answers a build's secrets: those called
    HTTP_AUTH_HEADER_HOST and HTTP_AUTH_TOKEN_HOST authorize requests to that host. `offline` forbids to ask servers.
    """

    def __init__(
        self,
        client: HttpClient,
        snapshots: SnapshotStore,
        db: Database,
        secret: Secret,
        cancel: threading.Event,
        *,
        offline: bool = False,
    ) -> None:
        self._client = client
        self._snapshots = snapshots
        self._db = db
        self._secret = secret
        self._cancel = cancel
        self._offline = offline
        self._lock = threading.Lock()
        self._downloads: dict[SourceOp, _Download] = {}
        self._digests: dict[SourceOp, str] = {}

    def resolve(self, op: SourceOp, reporter: Reporter) -> object:
        """What the URL holds now: name, digest and time of the file (JSON-able).

        With a checksum that is known without asking. Raises NotFoundError, RegistryError for what servers do,
        IntegrityError, StoreError, and CanceledError.
        """
        attrs = dict(op.attrs)
        filename, checksum = attrs["http.filename"], attrs.get("http.checksum", "")
        if checksum:
            digest, modified = checksum, None
        else:
            digest, modified = self._look(op, filename, reporter)
        self._digests[op] = digest
        return ["http", filename, digest, modified]

    def snapshot(self, op: SourceOp, reporter: Reporter) -> int:
        """The snapshot with the file, of 0:0 and mode 0600, whose time is the server's Last-Modified (else 0).

        Raises as `resolve`, which has to come first; IntegrityError where the file is another one by now.
        """
        with self._lock:
            download = self._downloads.pop(op, None)
        filename, expected = dict(op.attrs)["http.filename"], self._digests[op]
        if download is None:
            download = self._fetch(op, filename, expected.partition(":")[0], reporter)
        try:
            if download.digest != expected:
                raise IntegrityError(
                    f"digest mismatch for {redact_url(op.identifier)}: {download.digest} (expected: {expected})"
                )
            path = os.path.join(download.draft.fs, filename)
            os.utime(path, (download.modified or 0, download.modified or 0))
            return self._snapshots.commit(download.draft)
        except BaseException:
            self._snapshots.discard(download.draft)
            raise

    def close(self) -> None:
        """Throw away what came and was of no use."""
        for download in self._downloads.values():
            self._snapshots.discard(download.draft)
        self._downloads.clear()

    # --- what a URL holds -----------------------------------------------------------------------------------------

    def _look(self, op: SourceOp, filename: str, reporter: Reporter) -> tuple[str, int | None]:
        known = self._last(op.identifier)
        if self._offline:
            if known is None:
                raise NotFoundError(
                    f"{redact_url(op.identifier)}: not known here, and --offline forbids asking its server",
                    hint="build once without --offline",
                )
            return known.digest, known.modified
        if known is not None and self._is_unchanged(op.identifier, known):
            return known.digest, known.modified
        download = self._fetch(op, filename, "sha256", reporter)
        with self._lock:
            self._downloads[op] = download
        self._keep(op.identifier, download)
        return download.digest, download.modified

    def _is_unchanged(self, url: str, known: _Known) -> bool:
        """Whether the server says that the file is still the one with that ETag.

        Some servers send ETags and don't heed If-None-Match, so they are compared here, weak ones as strong ones.
        """
        try:
            with self._request("HEAD", url, {"If-None-Match": known.etag}) as response:
                etag = _etag(response)
                return (response.status == 200 and etag == known.etag) or (
                    response.status == 304 and etag in ("", known.etag)
                )
        except RegistryError:
            # Not all servers know HEAD. What is really wrong the download will tell.
            return False

    def _last(self, url: str) -> _Known | None:
        rows = self._db.query("SELECT value FROM resolutions WHERE name = ?", (_row(url),))
        if not rows:
            return None
        return self._db.decoded(rows[0][0], lambda value: _Known(value["etag"], value["digest"], value["modified"]))

    def _keep(self, url: str, download: _Download) -> None:
        if not download.etag:
            self._db.execute("DELETE FROM resolutions WHERE name = ?", (_row(url),))
            return
        value = {"etag": download.etag, "digest": download.digest, "modified": download.modified}
        self._db.execute(
            "INSERT OR REPLACE INTO resolutions (name, value, resolved) VALUES (?, ?, ?)",
            (_row(url), json.dumps(value), time.time()),
        )

    # --- the file ---------------------------------------------------------------------------------------------------

    def _fetch(self, op: SourceOp, filename: str, algorithm: str, reporter: Reporter) -> _Download:
        from stagewright.registry.session import retrying

        if self._offline:
            raise NotFoundError(f"{redact_url(op.identifier)}: not here, and --offline forbids fetching it")
        draft = self._snapshots.prepare(None)
        try:
            with reporter.status(f"downloading {filename}") as row:
                return retrying(
                    lambda: self._receive(op.identifier, draft, filename, algorithm, row), self._cancel, _ATTEMPTS
                )
        except BaseException:
            self._snapshots.discard(draft)
            raise

    def _receive(self, url: str, draft: Draft, filename: str, algorithm: str, row: Status) -> _Download:
        """One try to fetch the whole file."""
        from stagewright.registry.session import check_status

        digest = hashlib.new(algorithm)
        with self._request("GET", url, {}) as response:
            check_status(response, range(200, 300), redact_url(url))
            length = response.headers.get("Content-Length") or ""
            row.update(0, int(length[:18]) if length.isdecimal() else 0)
            try:
                handle = os.open(
                    os.path.join(draft.fs, filename),
                    os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
                    _MODE,
                )
                with open(handle, "wb", buffering=0) as file:
                    os.fchmod(handle, _MODE)
                    for block in _decoded(response, row):
                        if self._cancel.is_set():
                            raise CanceledError
                        digest.update(block)
                        file.write(block)
            except OSError as error:
                raise StoreError(f"cannot write what {redact_url(url)} holds: {error.strerror}") from error
            modified = _time(response.headers.get("Last-Modified") or "")
            return _Download(draft, f"{algorithm}:{digest.hexdigest()}", modified, _etag(response))

    def _request(self, method: str, url: str, headers: dict[str, str]) -> Response:
        from urllib.parse import quote, urlsplit

        # As Go's client: what a URL cannot hold is escaped, and a body may come compressed.
        url = quote(url, safe="!#$%&'()*+,/:;=?@[]~", errors="surrogateescape")
        sent = {"Accept-Encoding": "gzip", **headers}
        try:
            parts = urlsplit(url)
            authorization = self._authorization(parts.hostname or "", parts.username, parts.password)
        except ValueError:
            raise NotFoundError(f"{redact_url(url)} is no URL that can be fetched") from None
        if authorization:
            if not authorization.isascii() or not authorization.isprintable():
                raise UsageError(f"{redact_url(url)}: the secret for its server is no line of plain text")
            sent["Authorization"] = authorization
        return self._client.request(method, url, sent)

    def _authorization(self, host: str, user: str | None, password: str | None) -> str:
        for name, prefix in ((f"HTTP_AUTH_HEADER_{host}", ""), (f"HTTP_AUTH_TOKEN_{host}", "Bearer ")):
            if (value := self._secret(name)) is not None:
                return prefix + value.decode(errors="surrogateescape").strip()
        if user is None:
            return ""
        import base64
        from urllib.parse import unquote_to_bytes

        pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password or "")
        return "Basic " + base64.b64encode(pair).decode()


def _row(url: str) -> str:
    # URLs may hold credentials, which belong in no database.
    return URL_ROW + hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()


def _etag(response: Response) -> str:
    return (response.headers.get("ETag") or "").removeprefix("W/")


def _time(text: str) -> int | None:
    """The Unix seconds of an HTTP date, None where it is none."""
    from datetime import UTC, datetime
    from email.utils import parsedate

    with suppress(ValueError, TypeError):
        parsed = parsedate(text)
        if parsed is not None:
            return int(datetime(*parsed[:6], tzinfo=UTC).timestamp())
    return None


def _decoded(response: Response, row: Status) -> Iterator[bytes]:
    """The body in blocks, unpacked where the server compressed it on the way. `row` counts what came."""
    received = 0
    gzipped = (response.headers.get("Content-Encoding") or "").strip().lower() == "gzip"
    unpacker = _Gunzip() if gzipped else None
    while data := response.read(_BLOCK):
        received += len(data)
        row.update(received)
        if unpacker is None:
            yield data
        else:
            yield from unpacker.feed(data)
    # As Go's client: a body of no bytes at all is an empty file.
    if unpacker is not None and received:
        unpacker.finish()


class _Gunzip:
    """Undoes gzip, in blocks of bounded size, of one member after another."""

    def __init__(self) -> None:
        import zlib

        self._zlib = zlib
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes unpack to. Raises IntegrityError."""
        try:
            while True:
                if self._member.eof:
                    self._member = self._zlib.decompressobj(wbits=31)
                block = self._member.decompress(data, _BLOCK)
                yield block
                data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
                # A full block may not have been all that there was to say.
                if not data and (self._member.eof or len(block) < _BLOCK):
                    return
        except self._zlib.error as error:
            raise IntegrityError(f"the server sent a broken gzip stream: {error}") from error

    def finish(self) -> None:
        """Raise IntegrityError where the stream ended within a member."""
        if not self._member.eof:
            raise IntegrityError("the server sent a gzip stream that ends too early")
