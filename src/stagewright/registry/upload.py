"""Blobs from here to a registry: found there, mounted from another repository, or uploaded."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, urlencode

from stagewright.errors import NotFoundError, RegistryError
from stagewright.image.descriptor import Descriptor
from stagewright.registry.errors import StatusError, UnauthorizedError
from stagewright.registry.hosts import Host
from stagewright.registry.http import Body, Response, join_url
from stagewright.registry.session import Session, check_cancel, check_status, retrying

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Progress = Callable[[int, int], None]

_ATTEMPTS = 5
_MAX_MOUNTS = 3
_CHUNK = 16 << 20
_MAX_CHUNK = 256 << 20
# What registries and the proxies before them answer to a blob in one piece that they want in several.
_WANTS_CHUNKS = frozenset({404, 405, 411, 413, 415, 416, 501})


class _Counting(io.RawIOBase):
    """A blob as it is sent: tells how much was read of it, and ends in CanceledError once canceled."""

    def __init__(self, file: BinaryIO, total: int, progress: Progress | None, cancel: threading.Event | None) -> None:
        super().__init__()
        self._file = file
        self._total = total
        self._progress = progress
        self._cancel = cancel
        self._sent = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        check_cancel(self._cancel)
        view = memoryview(buffer).cast("B")
        data = self._file.read(len(view))
        view[: len(data)] = data
        self._sent += len(data)
        if self._progress is not None:
            self._progress(self._sent, self._total)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class BlobUpload:
    """One blob on its way to one repository of a registry.

    `open_blob` gives the blob's bytes from the start; it is called only if they must be sent, and again for a retry.
    """

    def __init__(
        self,
        session: Session,
        host: Host,
        path: str,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        progress: Progress | None,
        cancel: threading.Event | None,
    ) -> None:
        self._session = session
        self._host = host
        self._repository = host.repository(path)
        self._scopes = frozenset({f"repository:{self._repository}:pull,push"})
        self._descriptor = descriptor
        self._open_blob = open_blob
        self._progress = progress
        self._cancel = cancel
        self._begun: tuple[str, int] | None = None
        self._what = f"blob {descriptor.digest}"

    def run(self, mount_from: Sequence[str]) -> str:
        """Get the blob there. Returns "exists", "mounted" or "uploaded".

        `mount_from` are paths of repositories of the same registry that may have the blob.
        """
        if retrying(self._exists, self._cancel, _ATTEMPTS):
            return "exists"
        for path in [path for path in mount_from if self._host.repository(path) != self._repository][:_MAX_MOUNTS]:
            if self._mount(self._host.repository(path)):
                return "mounted"
        retrying(self._upload, self._cancel, _ATTEMPTS)
        return "uploaded"

    def _exists(self) -> bool:
        path = f"/v2/{self._repository}/blobs/{self._descriptor.digest}"
        with self._session.request(self._host, "HEAD", path, self._scopes) as response:
            if response.status == 404:
                return False
            check_status(response, (200,), self._what)
            return True

    def _mount(self, repository: str) -> bool:
        scopes = self._scopes | {f"repository:{repository}:pull"}
        query = urlencode({"mount": self._descriptor.digest, "from": repository})
        try:
            with self._session.request(
                self._host, "POST", f"/v2/{self._repository}/blobs/uploads/?{query}", scopes
            ) as response:
                if response.status == 202:
                    # The registry would rather have the bytes, and has begun an upload for them.
                    self._begun = self._read_upload(response)
                return response.status == 201
        except UnauthorizedError:
            # The other repository may be closed to us, which says nothing about this one.
            return False

    def _upload(self) -> None:
        body = Body(self._open, self._descriptor.size)
        headers = {"Content-Type": "application/octet-stream"}
        url = self._finish_url(self._begin()[0])
        with self._session.request_url(self._host, "PUT", url, self._scopes, headers=headers, body=body) as response:
            if response.status not in _WANTS_CHUNKS:
                check_status(response, (201, 204), self._what)
                return
            refused = response.status
        try:
            self._upload_chunks()
        except (StatusError, NotFoundError) as error:
            error.hint = f"in one piece it was refused with status {refused}"
            raise

    def _upload_chunks(self) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        location, smallest = self._begin()
        size, start = min(max(_CHUNK, smallest), _MAX_CHUNK), 0
        with self._open() as file:
            while chunk := file.read(size):
                headers["Content-Range"] = f"{start}-{start + len(chunk) - 1}"
                with self._session.request_url(
                    self._host, "PATCH", location, self._scopes, headers=headers, body=chunk
                ) as response:
                    check_status(response, (202, 201, 204), self._what)
                    location = self._location(response)
                start += len(chunk)
        with self._session.request_url(self._host, "PUT", self._finish_url(location), self._scopes) as response:
            check_status(response, (201, 204), self._what)

    def _begin(self) -> tuple[str, int]:
        """A new upload: its URL, and the size in bytes of the smallest chunk that it takes."""
        begun, self._begun = self._begun, None
        if begun is not None:
            return begun
        path = f"/v2/{self._repository}/blobs/uploads/"
        with self._session.request(self._host, "POST", path, self._scopes) as response:
            check_status(response, (202,), self._repository)
            return self._read_upload(response)

    def _read_upload(self, response: Response) -> tuple[str, int]:
        smallest = response.headers.get("OCI-Chunk-Min-Length") or ""
        return self._location(response), int(smallest[:20]) if smallest.isascii() and smallest.isdigit() else 0

    def _location(self, response: Response) -> str:
        location = response.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._what}: {self._host.name} did not say where to upload it to")
        return join_url(response.url, location)

    def _finish_url(self, location: str) -> str:
        return f"{location}{'&' if '?' in location else '?'}digest={quote(self._descriptor.digest, safe='')}"

    def _open(self) -> BinaryIO:
        counting = _Counting(self._open_blob(), self._descriptor.size, self._progress, self._cancel)
        return io.BufferedReader(counting, 256 << 10)
