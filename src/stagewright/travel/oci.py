"""Caches as OCI images and indexes in BuildKit's form: in a registry, in a folder, and in the config of an image."""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from stagewright.content.blobs import BlobStore
from stagewright.content.remote import Progress
from stagewright.errors import CanceledError, IntegrityError, NotFoundError, StoreError
from stagewright.exporters.destination import replaced
from stagewright.image import mediatypes
from stagewright.image.config import INLINE_CACHE
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import sha256_digest, split_digest
from stagewright.image.gojson import Fields, loads_object
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.image.platform import Platform
from stagewright.records import replace
from stagewright.registry.documents import Origin
from stagewright.registry.reference import Reference
from stagewright.sources.layout import OciLayout
from stagewright.travel.options import LocalPlace
from stagewright.travel.record import CACHE_CONFIG, MAX_SIZE, CacheRecord

if TYPE_CHECKING:
    from stagewright.registry.client import RegistryClient

_REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_BLOCK = 1 << 20


class Form:
    """Which documents a cache is written as: a manifest or, otherwise, an index; of OCI's or Docker's media types."""

    def __init__(self, *, as_image: bool, oci_mediatypes: bool) -> None:
        self._as_image = as_image
        self._oci = oci_mediatypes

    def manifest(self, config: Descriptor, blobs: Sequence[Descriptor]) -> tuple[str, bytes]:
        """The outermost document and its media type."""
        if self._as_image:
            manifest = Manifest(config, tuple(blobs))
            return manifest.media_type, manifest.to_bytes()
        kind = mediatypes.OCI_INDEX if self._oci else mediatypes.DOCKER_MANIFEST_LIST
        return kind, Index((*blobs, config), kind).to_bytes()


class RegistryStore:
    """An image of a registry. `client` makes the registry client when it is first needed.

    `mount_from` answers paths of repositories of the same registry that may have some of the blobs.
    """

    def __init__(
        self,
        client: Callable[[], RegistryClient],
        ref: Reference,
        blobs: BlobStore,
        platform: Platform,
        form: Form | None = None,
        mount_from: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._client = client
        self._ref = ref
        self._blobs = blobs
        self._platform = platform
        self._form = form or Form(as_image=True, oci_mediatypes=True)
        self._mount_from = mount_from

    def load(self, cancel: threading.Event) -> CacheRecord:
        """See `CacheStore`."""
        client = self._client()
        target = client.resolve(self._ref, cancel)
        return _read_record(client, self._ref, target, self._blobs, self._platform, cancel)

    def fetch(
        self, blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
    ) -> None:
        """See `CacheStore`."""
        self._client().fetch_blob(self._ref, blob, store, progress, cancel)

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], cancel: threading.Event) -> None:
        """See `CacheStore`."""
        self._client().push_blob(self._ref, blob, open_blob, self._mount_from(), None, cancel)

    def publish(self, record: CacheRecord, blobs: Sequence[Descriptor], cancel: threading.Event) -> Descriptor:
        """See `CacheStore`."""
        digest = self._blobs.write(data := record.to_bytes())
        config = Descriptor(CACHE_CONFIG, digest, len(data))
        self.put(config, lambda: self._blobs.open(digest), cancel)
        media_type, document = self._form.manifest(config, blobs)
        self._client().push_manifest(self._ref, document, media_type, cancel)
        return Descriptor(media_type, sha256_digest(document), len(document))


class LocalStore:
    """An image of an OCI layout in a folder, which may hold others."""

    def __init__(self, place: LocalPlace, blobs: BlobStore, platform: Platform, form: Form | None = None) -> None:
        self._place = place
        self._layout = OciLayout(place.folder)
        self._blobs = blobs
        self._platform = platform
        self._form = form or Form(as_image=True, oci_mediatypes=True)
        # Blobs of a layout have no names, and whoever gives them asks for none.
        self._ref = Reference("localhost", "cache")

    def load(self, cancel: threading.Event) -> CacheRecord:
        """See `CacheStore`."""
        target = self._layout.find(self._place.tag, self._place.digest)
        return _read_record(self._layout, self._ref, target, self._blobs, self._platform, cancel)

    def fetch(
        self, blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
    ) -> None:
        """See `CacheStore`."""
        self._layout.fetch_blob(self._ref, blob, store, progress, cancel)

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], cancel: threading.Event) -> None:
        """See `CacheStore`."""
        path = self._path(blob.digest)
        try:
            if os.path.isfile(path) and os.path.getsize(path) == blob.size:
                return
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open_blob() as source, replaced(path) as file:
                while block := source.read(_BLOCK):
                    if cancel.is_set():
                        raise CanceledError
                    file.write(block)
        except OSError as error:
            raise StoreError(f"cannot write the cache {self._place.folder}: {error.strerror}") from error

    def publish(self, record: CacheRecord, blobs: Sequence[Descriptor], cancel: threading.Event) -> Descriptor:
        """See `CacheStore`."""
        data = record.to_bytes()
        config = Descriptor(CACHE_CONFIG, sha256_digest(data), len(data))
        media_type, document = self._form.manifest(config, blobs)
        target = Descriptor(media_type, sha256_digest(document), len(document))
        try:
            for digest, content in ((config.digest, data), (target.digest, document)):
                os.makedirs(os.path.dirname(self._path(digest)), exist_ok=True)
                _write(self._path(digest), content)
            _write(os.path.join(self._place.folder, "oci-layout"), _LAYOUT)
            # Last, so that whoever reads the layout meanwhile finds all that the index names.
            entry = replace(target, annotations={_REF_NAME: self._place.tag})
            with self._alone():
                _write(os.path.join(self._place.folder, "index.json"), Index((*self._others(), entry)).to_bytes())
        except OSError as error:
            raise StoreError(f"cannot write the cache {self._place.folder}: {error.strerror}") from error
        return target

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others from the index meanwhile, of which each keeps what is not its own."""
        folder = os.open(self._place.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # Not all network file systems lock folders.
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _others(self) -> list[Descriptor]:
        """What the folder's index leads to under other tags."""
        try:
            with open(os.path.join(self._place.folder, "index.json"), "rb") as file:
                index = parse_manifest(file.read())
        except FileNotFoundError:
            return []
        if not isinstance(index, Index):
            raise IntegrityError(f"{self._place.folder}: index.json is not an image index")
        return [entry for entry in index.manifests if entry.annotations.get(_REF_NAME) != self._place.tag]

    def _path(self, digest: str) -> str:
        return os.path.join(self._place.folder, "blobs", *split_digest(digest))


def _write(path: str, data: bytes) -> None:
    with replaced(path) as file:
        file.write(data)


def _read_record(
    origin: Origin, ref: Reference, target: Descriptor, blobs: BlobStore, platform: Platform, cancel: threading.Event
) -> CacheRecord:
    """The record below a descriptor, be it of a cache or of an image with a cache in its config."""
    document = _document(origin, ref, target, blobs, cancel)
    if isinstance(document, Index):
        for entry in document.manifests:
            if entry.media_type == CACHE_CONFIG:
                return CacheRecord.from_bytes(_blob(origin, ref, entry, blobs, cancel))
        chosen = next(iter(document.select(platform)), None)
        if chosen is None:
            raise NotFoundError(f"it holds no cache, and no image for {platform}")
        document = _document(origin, ref, chosen, blobs, cancel)
    if isinstance(document, Index):
        raise IntegrityError("its indexes are nested")
    config = _blob(origin, ref, document.config, blobs, cancel)
    if document.config.media_type == CACHE_CONFIG:
        return CacheRecord.from_bytes(config)
    inline = Fields(loads_object(config, "image config"), "image config").string(INLINE_CACHE)
    if not inline:
        raise NotFoundError("it is an image without a cache", hint="export one into it with --cache-to type=inline")
    try:
        return CacheRecord.from_bytes(base64.b64decode(inline, validate=True))
    except binascii.Error:
        raise IntegrityError(f"image config: {INLINE_CACHE} is not base64") from None


def _document(
    origin: Origin, ref: Reference, target: Descriptor, blobs: BlobStore, cancel: threading.Event
) -> Manifest | Index:
    try:
        data = blobs.read(target.digest)
    except (NotFoundError, IntegrityError):
        try:
            data = origin.fetch_manifest(ref, target, cancel)
        except IntegrityError as error:
            error.put_before(f"its manifest {target.digest} is damaged")
            raise
        blobs.write(data)
    return parse_manifest(data, target.media_type)


def _blob(origin: Origin, ref: Reference, target: Descriptor, blobs: BlobStore, cancel: threading.Event) -> bytes:
    if target.size > MAX_SIZE:
        raise IntegrityError(f"its config has {target.size} bytes, more than {MAX_SIZE}")
    try:
        return blobs.read(target.digest, MAX_SIZE)
    except (NotFoundError, IntegrityError):
        blobs.delete(target.digest)
        origin.fetch_blob(ref, target, blobs, None, cancel)
        return blobs.read(target.digest, MAX_SIZE)
