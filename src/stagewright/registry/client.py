"""The registry client: tags to descriptors, manifests and blobs in both directions (OCI distribution-spec 1.1)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from stagewright.config import Config, RegistryTable
from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError, RegistryError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import is_digest, sha256_digest, verify_digest
from stagewright.image.manifest import MAX_MANIFEST_SIZE, parse_manifest
from stagewright.records import replace
from stagewright.registry.credentials import CredentialStore
from stagewright.registry.hosts import Host, pull_hosts, registry_host, tables_by_address
from stagewright.registry.http import HttpClient, Response
from stagewright.registry.reference import Reference
from stagewright.registry.session import Session, check_status, retrying

if TYPE_CHECKING:
    from stagewright.registry.download import BlobStream

Progress = Callable[[int, int], None]

_ATTEMPTS = 3
_KNOWN_TYPES = mediatypes.INDEXES | mediatypes.MANIFESTS | mediatypes.SCHEMA1
_ACCEPT = ", ".join(
    [
        mediatypes.DOCKER_MANIFEST,
        mediatypes.DOCKER_MANIFEST_LIST,
        mediatypes.OCI_MANIFEST,
        mediatypes.OCI_INDEX,
        "*/*",
    ]
)


class RegistryClient:
    """Speaks to the registries of a configuration. Safe for use by several threads; connections and tokens are shared.

    `env` names proxies, the trust store and Docker's configuration directory. `progress` callbacks get the bytes done
    and the bytes in all; where they raise, the transfer ends with what they raised. A `cancel` event ends waits and
    transfers between two blocks with CanceledError; `abort()` also breaks off one that is stuck in a read.
    """

    def __init__(self, config: Config, env: Mapping[str, str] = os.environ) -> None:
        self._config = config
        self._env = env
        self._http = HttpClient(tables_by_address(config), env)
        self._session = Session(self._http, CredentialStore(env))
        self._trusting: dict[str, RegistryClient] = {}
        self._lock = threading.Lock()

    def trusting(self, domain: str) -> RegistryClient:
        """A client for a registry that may speak HTTP, or TLS with a certificate that nobody vouches for.

        It goes when this one does.
        """
        with self._lock:
            if domain not in self._trusting:
                tables = self._config.registries
                table = replace(tables.get(domain, RegistryTable()), insecure=True)
                config = replace(self._config, registries={**tables, domain: table})
                self._trusting[domain] = RegistryClient(config, self._env)
            return self._trusting[domain]

    def abort(self) -> None:
        """Break off everything that runs, with CanceledError; the client is of no use after it."""
        self._http.abort()
        for client in [*self._trusting.values()]:
            client.abort()

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()
        for client in [*self._trusting.values()]:
            client.close()

    def resolve(self, ref: Reference, cancel: threading.Event | None = None) -> Descriptor:
        """What `ref` names now: the descriptor of a manifest or an index.

        Raises NotFoundError, UnauthorizedError, UnreachableError, RegistryError, and IntegrityError for an answer that
        contradicts the digest in `ref`.
        """

        def attempt(host: Host) -> Descriptor:
            return retrying(lambda: self._head(host, ref) or self._get(host, ref), cancel, _ATTEMPTS)

        return self._session.first_of(pull_hosts(self._config, ref.domain), attempt)

    def fetch_manifest(self, ref: Reference, descriptor: Descriptor, cancel: threading.Event | None = None) -> bytes:
        """The bytes of a manifest or index, at most 8 MiB and verified against the descriptor. Raises as `resolve`."""
        if descriptor.size > MAX_MANIFEST_SIZE:
            raise IntegrityError(f"{ref}: manifest {descriptor.digest} has {descriptor.size} bytes, more than 8 MiB")

        def attempt(host: Host) -> bytes:
            return retrying(lambda: self._fetch_manifest(host, ref, descriptor), cancel, _ATTEMPTS)

        return self._session.first_of(pull_hosts(self._config, ref.domain), attempt)

    def fetch_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        store: BlobStore,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Bring a blob of `ref`'s repository into `store`, unless it is there. Verified, resumed and retried."""
        if store.has(descriptor.digest, descriptor.size):
            return
        from stagewright.registry.download import fetch_blob

        hosts = pull_hosts(self._config, ref.domain)
        fetch_blob(self._session, hosts, ref.path, descriptor, store, progress, cancel)

    def open_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        store: BlobStore,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> BlobStream:
        """A blob to be read while it arrives; `store` has it once it was read to its end and is right.

        Until then its bytes are not verified. Close the stream in any case.
        """
        from stagewright.registry.download import BlobStream

        hosts = pull_hosts(self._config, ref.domain)
        writer = store.writer(expected=descriptor.digest, size=descriptor.size)
        return BlobStream(self._session, hosts, ref.path, descriptor, writer, progress, cancel)

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        mount_from: Sequence[str] = (),
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> str:
        """Get a blob into `ref`'s repository. Returns how: "exists", "mounted" or "uploaded".

        `open_blob` gives its bytes, and is called only where they must be sent. `mount_from` are paths of repositories
        of the same registry that may have it. Raises UnauthorizedError, UnreachableError, RegistryError.
        """
        from stagewright.registry.upload import BlobUpload

        host = registry_host(self._config, ref.domain)
        return BlobUpload(self._session, host, ref.path, descriptor, open_blob, progress, cancel).run(mount_from)

    def push_manifest(self, ref: Reference, data: bytes, media_type: str, cancel: threading.Event | None = None) -> str:
        """Put a manifest or index under `ref`'s tag, or under its digest where it has no tag. Returns the digest.

        Raises IntegrityError where the digest in `ref`, or the one the registry answers with, is not that of `data`.
        """
        if ref.digest is not None:
            verify_digest(data, ref.digest)
        host = registry_host(self._config, ref.domain)
        repository = host.repository(ref.path)
        scopes = frozenset({f"repository:{repository}:pull,push"})
        path = f"/v2/{repository}/manifests/{ref.tag or ref.object}"
        digest = sha256_digest(data)

        def attempt() -> str:
            headers = {"Content-Type": media_type}
            with self._session.request(host, "PUT", path, scopes, headers=headers, body=data) as response:
                check_status(response, (201, 200, 202, 204), str(ref))
                answered = response.headers.get("Docker-Content-Digest")
            if answered and answered.startswith("sha256:") and answered != digest:
                raise IntegrityError(f"{ref}: the registry took manifest {digest} for {answered}")
            return digest

        return retrying(attempt, cancel, _ATTEMPTS)

    def _request_manifest(self, host: Host, method: str, ref: Reference, target: str) -> Response:
        repository = host.repository(ref.path)
        scopes = frozenset({f"repository:{repository}:pull"})
        path = f"/v2/{repository}/manifests/{target}"
        return self._session.request(host, method, path, scopes, headers={"Accept": _ACCEPT})

    def _head(self, host: Host, ref: Reference) -> Descriptor | None:
        """The descriptor from a HEAD request's headers, None where they do not say enough."""
        with self._request_manifest(host, "HEAD", ref, ref.object) as response:
            if response.status in (400, 405, 501):
                return None
            if response.status == 404:
                raise NotFoundError(f"{ref}: not found")
            check_status(response, (200,), str(ref))
            media_type = _media_type(response)
            digest = response.headers.get("Docker-Content-Digest") or ""
            length = response.headers.get("Content-Length") or ""
        if media_type not in _KNOWN_TYPES or not is_digest(digest) or not (length.isascii() and length.isdigit()):
            return None
        if ref.digest is not None and digest != ref.digest:
            raise IntegrityError(f"{ref}: {host.name} answered with digest {digest}")
        size = int(length[:20])
        return Descriptor(media_type, digest, size) if size else None

    def _get(self, host: Host, ref: Reference) -> Descriptor:
        """The descriptor of the document itself."""
        with self._request_manifest(host, "GET", ref, ref.object) as response:
            check_status(response, (200,), str(ref))
            data = response.read_all(MAX_MANIFEST_SIZE)
            media_type = _media_type(response)
        if ref.digest is not None:
            verify_digest(data, ref.digest)
        if media_type == "text/html":
            raise RegistryError(f"{ref}: {host.name} answered with a web page, not with a manifest")
        manifest = parse_manifest(data, media_type if media_type in _KNOWN_TYPES else "")
        return Descriptor(manifest.media_type, ref.digest or sha256_digest(data), len(data))

    def _fetch_manifest(self, host: Host, ref: Reference, descriptor: Descriptor) -> bytes:
        with self._request_manifest(host, "GET", ref, descriptor.digest) as response:
            check_status(response, (200,), f"{ref}: manifest {descriptor.digest}")
            data = response.read_all(descriptor.size)
        if len(data) != descriptor.size:
            raise IntegrityError(f"manifest {descriptor.digest} has {len(data)} bytes, expected {descriptor.size}")
        verify_digest(data, descriptor.digest)
        return data


def _media_type(response: Response) -> str:
    return (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
