"""An image's documents: the right platform's manifest behind a descriptor, and its config, brought into the store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError
from stagewright.image.config import MAX_CONFIG_SIZE, ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.image.platform import Platform
from stagewright.registry.reference import Reference

# The blob, its bytes done, its bytes in all. Called from several threads at once.
BlobProgress = Callable[[Descriptor, int, int], None]

_MAX_DEPTH = 3
# An index may name ten thousand others that name ten thousand more.
_MAX_DOCUMENTS = 200
_MAX_OFFERED = 30


class Origin(Protocol):
    """Where the documents and layers of images come from: a registry's client, or an image layout."""

    def fetch_manifest(self, ref: Reference, descriptor: Descriptor, cancel: threading.Event | None = None) -> bytes:
        """The bytes of a manifest or index, verified."""

    def fetch_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        store: BlobStore,
        progress: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Bring a blob into the store, verified; `progress` gets the bytes done and the bytes in all."""


def fetch_image(
    client: Callable[[], Origin],
    ref: Reference,
    descriptor: Descriptor,
    platform: Platform,
    store: BlobStore,
    *,
    progress: BlobProgress | None = None,
    cancel: threading.Event | None = None,
) -> tuple[Descriptor, Manifest, ImageConfig]:
    """Bring an image's manifest and config into `store`, and return them with the manifest's descriptor.

    `descriptor` is what `ref` names. Of an index the image that `platform` runs best is taken; an image that stands
    alone is taken whatever its platform. What the store has, undamaged, is not fetched; `client` is called when
    something must be. Raises NotFoundError where the index has nothing for the platform, IntegrityError for documents
    that contradict themselves, and as RegistryClient.
    """
    return _Documents(client, ref, store, progress, cancel).image(descriptor, platform)


class _Documents:
    """The documents of one image on their way into the store."""

    def __init__(
        self,
        client: Callable[[], Origin],
        ref: Reference,
        store: BlobStore,
        progress: BlobProgress | None,
        cancel: threading.Event | None,
    ) -> None:
        self._client = client
        self._ref = ref
        self._store = store
        self._progress = progress
        self._cancel = cancel
        self._looked_at = 0

    def image(self, descriptor: Descriptor, platform: Platform) -> tuple[Descriptor, Manifest, ImageConfig]:
        document = self._document(descriptor)
        if isinstance(document, Manifest):
            return descriptor, document, self._config(document)
        found = self._search(document, platform, _MAX_DEPTH)
        if found is None:
            offered = sorted({str(entry.platform) for entry in document.manifests if _is_image(entry)})
            raise NotFoundError(
                f"{self._ref}: no image for platform {platform}",
                hint=f"it has images for {', '.join(offered[:_MAX_OFFERED])}" if offered else None,
            )
        return found

    def _search(self, index: Index, platform: Platform, depth: int) -> tuple[Descriptor, Manifest, ImageConfig] | None:
        if depth == 0:
            raise IntegrityError(f"{self._ref}: its indexes are nested more than {_MAX_DEPTH} deep")
        for entry in index.select(platform):
            document = self._document(entry)
            if isinstance(document, Index):
                found = self._search(document, platform, depth - 1)
                if found is not None:
                    return found
                continue
            config = self._config(document)
            # An entry that does not name its platform has it in its config.
            if entry.platform is not None or Index((_with_platform(entry, config),)).select(platform):
                return entry, document, config
        return None

    def _document(self, descriptor: Descriptor) -> Manifest | Index:
        self._looked_at += 1
        if self._looked_at > _MAX_DOCUMENTS:
            raise IntegrityError(f"{self._ref}: its indexes name more than {_MAX_DOCUMENTS} images that could be meant")
        try:
            data = self._store.read(descriptor.digest)
        except (NotFoundError, IntegrityError):
            data = self._client().fetch_manifest(self._ref, descriptor, self._cancel)
            self._store.write(data)
        return parse_manifest(data, descriptor.media_type)

    def _config(self, manifest: Manifest) -> ImageConfig:
        blob = manifest.config
        if blob.size > MAX_CONFIG_SIZE:
            raise IntegrityError(f"{self._ref}: image config has {blob.size} bytes, more than {MAX_CONFIG_SIZE}")
        try:
            data = self._store.read(blob.digest)
        except (NotFoundError, IntegrityError):
            self._store.delete(blob.digest)
            report = partial(self._progress, blob) if self._progress is not None else None
            self._client().fetch_blob(self._ref, blob, self._store, report, self._cancel)
            data = self._store.read(blob.digest)
        config = ImageConfig.from_bytes(data)
        if len(config.diff_ids) != len(manifest.layers):
            raise IntegrityError(
                f"{self._ref}: the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}"
            )
        return config


def _is_image(entry: Descriptor) -> bool:
    return entry.platform is not None and not entry.platform.is_unknown


def _with_platform(entry: Descriptor, config: ImageConfig) -> Descriptor:
    return Descriptor(entry.media_type, entry.digest, entry.size, platform=config.platform)
