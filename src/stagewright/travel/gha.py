"""Caches in the cache service of GitHub Actions, under the keys by which BuildKit keeps them there.

A blob's key has its digest. The record's key has the scope of the cache, that of the git ref, and a number that grows,
since entries never change: a look-up by the key's beginning finds the last one.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from stagewright.cancellation import Deadline
from stagewright.content.blobs import BlobStore
from stagewright.content.remote import Progress
from stagewright.errors import CanceledError, IntegrityError, NotFoundError, RegistryError
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import sha256_digest
from stagewright.registry.http import HttpClient
from stagewright.travel.ghaservice import CacheService, Found, KeyList, ServiceV1, ServiceV2
from stagewright.travel.options import GhaPlace
from stagewright.travel.record import MAX_SIZE, CacheRecord, merged

_TRIES = 20
_WRITE = 2


class GhaStore:
    """The caches of one scope, as far as the token of a job reaches. `client` makes the HTTP client when needed."""

    def __init__(self, client: Callable[[], HttpClient], place: GhaPlace) -> None:
        service = ServiceV2 if place.version == 2 else ServiceV1
        self._service: CacheService = service(client, place.url, place.token)
        self._client = client
        self._place = place
        self._lock = threading.Lock()
        self._export: Deadline | None = None
        self._listed: set[str] | None = None

    def load(self, cancel: threading.Event) -> CacheRecord:
        """See `CacheStore`. Those of the job's own git ref go before those of the default branch."""
        records = []
        for ref, _ in _refs(self._place.token):
            found = self._service.find(f"{self._index(ref)}#", cancel)
            if found is not None:
                data = bytearray()
                for block in self._service.read(found, cancel):
                    data += block
                    if len(data) > MAX_SIZE:
                        raise IntegrityError(f"cache config has more than {MAX_SIZE} bytes")
                records.append(CacheRecord.from_bytes(bytes(data)))
        if not records:
            raise NotFoundError("nothing was exported to it so far")
        return merged(records)

    def fetch(
        self, blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
    ) -> None:
        """See `CacheStore`."""
        found = self._find_blob(blob.digest, cancel)
        if found is None:
            raise NotFoundError(f"cache service: it has no blob {blob.digest} any more")
        with store.writer(expected=blob.digest, size=blob.size) as writer:
            for block in self._service.read(found, cancel):
                writer.write(block)
                if progress is not None:
                    progress(writer.offset, blob.size)
            writer.commit()

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], cancel: threading.Event) -> None:
        """See `CacheStore`. A key that is taken meanwhile is as good: it has the same bytes."""
        self._own_ref()
        with self._in_time(self._deadline(cancel)) as limited:
            if not self._is_there(blob.digest, limited):
                self._service.save(_blob_key(blob.digest), open_blob, blob.size, limited)

    def publish(self, record: CacheRecord, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """See `CacheStore`."""
        with self._in_time(self._deadline(cancel)) as limited:
            self._publish(record, limited)

    def _publish(self, record: CacheRecord, cancel: threading.Event) -> None:
        beginning = f"{self._index(self._own_ref())}#"
        data = record.to_bytes()
        found = self._service.find(beginning, cancel)
        last = found.key.removeprefix(beginning) if found is not None else "0"
        number = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0
        for _ in range(_TRIES):
            number += 1
            # One that is taken, and not found yet, is of another job that exports at this moment, or did not end.
            if self._service.save(f"{beginning}{number}", lambda: io.BytesIO(data), len(data), cancel):
                return
        raise RegistryError(f"cache service: all keys up to {beginning}{number} are taken")

    def _deadline(self, cancel: threading.Event) -> Deadline:
        """The end of an export, which begins with what is put first."""
        with self._lock:
            if self._export is None:
                self._export = Deadline(cancel, self._place.timeout_s)
            return self._export

    @contextmanager
    def _in_time(self, limited: Deadline) -> Iterator[Deadline]:
        try:
            yield limited
        except CanceledError:
            if limited.is_over:
                raise RegistryError(f"cache service: it takes longer than {self._place.timeout_s:g} seconds") from None
            raise

    def _is_there(self, digest: str, cancel: threading.Event) -> bool:
        if (listing := self._place.listing) is None:
            return self._find_blob(digest, cancel) is not None
        with self._lock:
            if self._listed is None:
                keys = KeyList(self._client, listing.api, listing.repository, listing.token)
                refs = [ref for ref, _ in _refs(self._place.token)]
                self._listed = keys.beginning_with(_blob_key(""), refs, cancel)
            return _blob_key(digest) in self._listed

    def _own_ref(self) -> str:
        """The git ref that the job may write for."""
        refs = [ref for ref, permission in _refs(self._place.token) if permission & _WRITE]
        if not refs:
            raise RegistryError("cache service: the token of this job may not write")
        return refs[-1]

    def _find_blob(self, digest: str, cancel: threading.Event | None) -> Found | None:
        key = _blob_key(digest)
        found = self._service.find(key, cancel)
        return found if found is not None and found.key == key else None

    def _index(self, ref: str) -> str:
        return f"index-{self._place.scope}-1-{sha256_digest(ref.encode())[7:15]}"


def _blob_key(digest: str) -> str:
    return f"buildkit-blob-1-{digest}"


def _refs(token: str) -> list[tuple[str, int]]:
    """The git refs whose entries a job's token may see, and what it may do there: 1 to read, 2 to write.

    They are in the token, a JSON web token, whose signature is for the server to check.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return [(str(entry["Scope"]), int(entry["Permission"])) for entry in json.loads(claims["ac"])]
    except (LookupError, ValueError, TypeError, binascii.Error):
        raise RegistryError("cache service: the token is none of a job: it does not say what it is for") from None
