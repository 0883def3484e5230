"""The cache service of GitHub Actions, and of servers like it, in both versions of its HTTP interface.

An entry is a key, of a version that says what wrote it, and bytes that never change. A look-up by the beginning of a
key answers the newest entry. What signed URLs lead to, in the second version, is a blob of Azure's storage.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import urlencode

from stagewright.errors import RegistryError
from stagewright.image.digest import sha256_digest
from stagewright.image.gojson import Fields, loads_object
from stagewright.records import dataclass
from stagewright.registry.errors import UnreachableError
from stagewright.registry.http import HttpClient, Response
from stagewright.registry.session import back_off, check_cancel, check_status, retrying

# BuildKit's: who names its blobs by their digests finds those of others.
_VERSION = sha256_digest(b"|go-actionscache-1.0").partition(":")[2]
_TWIRP = "twirp/github.actions.results.api.v1.CacheService"
_ATTEMPTS = 4
_CHUNK = 32 << 20
_BLOCK = 1 << 20
_MAX_ANSWER = 1 << 20
_TAKEN = 409
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Found:
    """An entry: its whole key, and the URL of its bytes, which is good for a while and for whoever has it."""

    key: str
    url: str


class CacheService:
    """A cache service at a URL, with the token of a job. `client` makes the HTTP client when it is first needed."""

    def __init__(self, client: Callable[[], HttpClient], url: str, token: str) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def find(self, key: str, cancel: threading.Event | None) -> Found | None:
        """The newest entry whose key begins with `key`. Raises RegistryError."""
        raise NotImplementedError

    def save(self, key: str, open_content: Callable[[], BinaryIO], size: int, cancel: threading.Event | None) -> bool:
        """Make an entry of `size` bytes; False, and nothing else, where the key is taken. Raises RegistryError."""
        raise NotImplementedError

    def read(self, found: Found, cancel: threading.Event | None) -> Iterator[bytes]:
        """An entry's bytes; a broken download goes on where it was. Raises RegistryError, also in the middle."""
        offset = 0
        for attempt in range(1, _ATTEMPTS + 1):
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            try:
                with self._client().request("GET", found.url, headers) as response:
                    check_status(response, (206,) if offset else (200,), f"cache entry {found.key}")
                    while block := response.read(_BLOCK):
                        check_cancel(cancel)
                        offset += len(block)
                        yield block
                return
            except UnreachableError:
                if attempt == _ATTEMPTS:
                    raise
                back_off(attempt, cancel)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        statuses: Sequence[int],
        cancel: threading.Event | None,
    ) -> tuple[int, Fields]:
        """The status and the JSON object of an answer; an empty one for none."""
        data = None if body is None else json.dumps(body).encode()

        def attempt() -> tuple[int, bytes]:
            with self._client().request(method, f"{self._url}/{path}", self._headers, data) as response:
                check_status(response, statuses, "cache service")
                return response.status, response.read_all(_MAX_ANSWER) if response.status < 300 else b""

        status, answer = retrying(attempt, cancel, _ATTEMPTS)
        return status, Fields(
            loads_object(answer or b"{}", "answer of the cache service"), "answer of the cache service"
        )

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes,
        statuses: Sequence[int],
        cancel: threading.Event | None,
    ) -> None:
        def attempt() -> None:
            response: Response = self._client().request(method, url, headers, data)
            with response:
                check_status(response, statuses, "cache service")

        retrying(attempt, cancel, _ATTEMPTS)


class KeyList:
    """The keys of a repository's entries, as GitHub's API lists them for who has a token of that."""

    def __init__(self, client: Callable[[], HttpClient], api: str, repository: str, token: str) -> None:
        self._client = client
        self._url = f"{api.rstrip('/')}/repos/{repository}/actions/caches"
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}

    def beginning_with(self, key: str, refs: Sequence[str], cancel: threading.Event | None) -> set[str]:
        """All keys of these git refs that begin with `key`. Raises RegistryError."""
        found: set[str] = set()
        for ref in refs:
            page, count = 1, _PAGE
            while count == _PAGE:
                query = urlencode({"per_page": _PAGE, "page": page, "key": key, "ref": ref})
                entries = retrying(partial(self._page, query), cancel, _ATTEMPTS)
                found.update(entry.string("key") for entry in entries if entry.string("version") == _VERSION)
                page, count = page + 1, len(entries)
        return found

    def _page(self, query: str) -> Sequence[Fields]:
        what = "GitHub's list of caches"
        with self._client().request("GET", f"{self._url}?{query}", self._headers) as response:
            check_status(response, (200,), what)
            return Fields(loads_object(response.read_all(_MAX_ANSWER), what), what).objects("actions_caches")


class ServiceV1(CacheService):
    """The first version, which runners before 2025 and most other servers have."""

    def __init__(self, client: Callable[[], HttpClient], url: str, token: str) -> None:
        super().__init__(client, f"{url.rstrip('/')}/_apis/artifactcache", token)
        self._headers["Accept"] = "application/json;api-version=6.0-preview.1"

    def find(self, key: str, cancel: threading.Event | None) -> Found | None:
        """See `CacheService`."""
        query = urlencode({"keys": key, "version": _VERSION})
        _, answer = self._ask("GET", f"cache?{query}", None, (200, 204), cancel)
        matched, url = answer.string("cacheKey"), answer.string("archiveLocation")
        return Found(matched, url) if matched and url else None

    def save(self, key: str, open_content: Callable[[], BinaryIO], size: int, cancel: threading.Event | None) -> bool:
        """See `CacheService`."""
        request = {"key": key, "version": _VERSION}
        status, answer = self._ask("POST", "caches", request, (200, 201, _TAKEN), cancel)
        if status == _TAKEN:
            return False
        number = answer.integer("cacheId") or answer.integer("cacheID")
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        with open_content() as content:
            for start, chunk in _chunks(content):
                headers["Content-Range"] = f"bytes {start}-{start + len(chunk) - 1}/*"
                self._send("PATCH", f"{self._url}/caches/{number}", headers, chunk, (200, 204), cancel)
        self._ask("POST", f"caches/{number}", {"size": size}, (200, 201, 204), cancel)
        return True


class ServiceV2(CacheService):
    """The second version, GitHub's own since 2025."""

    def find(self, key: str, cancel: threading.Event | None) -> Found | None:
        """See `CacheService`."""
        request = {"key": key, "restore_keys": [key], "version": _VERSION}
        status, answer = self._ask("POST", f"{_TWIRP}/GetCacheEntryDownloadURL", request, (200, 404), cancel)
        if status == 404 or not answer.boolean("ok"):
            return None
        return Found(answer.string("matched_key"), answer.string("signed_download_url"))

    def save(self, key: str, open_content: Callable[[], BinaryIO], size: int, cancel: threading.Event | None) -> bool:
        """See `CacheService`."""
        request = {"key": key, "version": _VERSION}
        status, answer = self._ask("POST", f"{_TWIRP}/CreateCacheEntry", request, (200, _TAKEN), cancel)
        if status == _TAKEN or not answer.boolean("ok"):
            return False
        with open_content() as content:
            self._upload(answer.string("signed_upload_url"), content, size, cancel)
        request = {"key": key, "version": _VERSION, "size_bytes": size}  # type: ignore[dict-item]
        _, answer = self._ask("POST", f"{_TWIRP}/FinalizeCacheEntryUpload", request, (200,), cancel)
        if not answer.boolean("ok"):
            raise RegistryError(f"cache service: the entry {key} was sent and not taken")
        return True

    def _upload(self, url: str, content: BinaryIO, size: int, cancel: threading.Event | None) -> None:
        """Put a blob, in blocks if it has more than one, which a list then makes one of."""
        if size <= _CHUNK:
            self._send("PUT", url, {"x-ms-blob-type": "BlockBlob"}, content.read(), (201,), cancel)
            return
        names = []
        for start, chunk in _chunks(content):
            names.append(base64.b64encode(b"%016d" % start).decode())
            query = urlencode({"comp": "block", "blockid": names[-1]})
            self._send("PUT", _with(url, query), {}, chunk, (201,), cancel)
        listed = "".join(f"<Latest>{name}</Latest>" for name in names)
        document = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'
        self._send("PUT", _with(url, "comp=blocklist"), {"Content-Type": "text/xml"}, document.encode(), (201,), cancel)


def _with(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _chunks(content: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The pieces of a content, and where each begins."""
    start = 0
    while chunk := content.read(_CHUNK):
        yield start, chunk
        start += len(chunk)
