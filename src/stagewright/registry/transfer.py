"""Whole images between a registry and the store: the right platform's manifest, its config, its layers, and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from stagewright.content.blobs import BlobStore
from stagewright.errors import CanceledError, IntegrityError, NotFoundError
from stagewright.image import mediatypes
from stagewright.image.config import MAX_CONFIG_SIZE, ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.image.platform import Platform
from stagewright.registry.client import RegistryClient
from stagewright.registry.reference import Reference

T = TypeVar("T")

# The blob, its bytes done, its bytes in all. Called from several threads at once.
BlobProgress = Callable[[Descriptor, int, int], None]

_MAX_DEPTH = 3
_PARALLEL = 4


def pull_image(
    client: RegistryClient,
    ref: Reference,
    platform: Platform,
    store: BlobStore,
    *,
    descriptor: Descriptor | None = None,
    progress: BlobProgress | None = None,
    cancel: threading.Event | None = None,
) -> tuple[Descriptor, Manifest, ImageConfig]:
    """Bring an image's manifest and config into `store`, and return them with the manifest's descriptor.

    `descriptor` is what `ref` is known to name; without it the registry is asked. Of an index the image that `platform`
    runs best is taken; an image that stands alone is taken whatever its platform. What the store has is not fetched.
    Raises NotFoundError where the index has nothing for the platform, IntegrityError for documents that contradict
    themselves, and as RegistryClient.
    """
    if descriptor is None:
        descriptor = client.resolve(ref, cancel)
    return _Puller(client, ref, store, progress, cancel).image(descriptor, platform)


def fetch_layers(
    client: RegistryClient,
    ref: Reference,
    manifest: Manifest,
    store: BlobStore,
    *,
    progress: BlobProgress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Bring an image's layers into `store`, several at once. The first failure ends the others and is raised."""
    unique = {layer.digest: layer for layer in manifest.layers}

    def fetch(layer: Descriptor, stop: threading.Event) -> None:
        client.fetch_blob(ref, layer, store, _blob_progress(layer, progress, stop), cancel)

    _run_parallel(unique.values(), fetch)


def push_image(
    client: RegistryClient,
    ref: Reference,
    descriptor: Descriptor,
    store: BlobStore,
    *,
    mount_from: Sequence[str] = (),
    progress: BlobProgress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Push the manifest or index that `descriptor` names, and all below it, from `store`.

    Blobs go first, several at once; then manifests, each after those that it names; then the tag of `ref`. A blob may
    be missing in the store where the registry has it or can mount it from `mount_from` (paths of repositories of the
    same registry). Raises NotFoundError for one that is nowhere, and as RegistryClient.
    """
    manifests: dict[str, tuple[Descriptor, bytes]] = {}
    blobs: dict[str, Descriptor] = {}
    _collect(store, descriptor, manifests, blobs, _MAX_DEPTH)

    def push(blob: Descriptor, stop: threading.Event) -> None:
        report = _blob_progress(blob, progress, stop)
        client.push_blob(ref, blob, lambda: store.open(blob.digest), mount_from, report, cancel)
        report(blob.size, blob.size)

    _run_parallel(blobs.values(), push)
    for entry, data in manifests.values():
        is_top = entry.digest == descriptor.digest
        target = ref if is_top else Reference(ref.domain, ref.path, digest=entry.digest)
        client.push_manifest(target, data, entry.media_type, cancel)


class _Puller:
    """One image on its way into the store."""

    def __init__(
        self,
        client: RegistryClient,
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

    def image(self, descriptor: Descriptor, platform: Platform) -> tuple[Descriptor, Manifest, ImageConfig]:
        document = self._document(descriptor)
        if isinstance(document, Manifest):
            return descriptor, document, self._config(document)
        found = self._search(document, platform, _MAX_DEPTH)
        if found is None:
            offered = sorted({str(entry.platform) for entry in document.manifests if _is_image(entry)})
            raise NotFoundError(
                f"{self._ref}: no image for platform {platform}",
                hint=f"it has images for {', '.join(offered)}" if offered else None,
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
        try:
            data = self._store.read(descriptor.digest)
        except (NotFoundError, IntegrityError):
            data = self._client.fetch_manifest(self._ref, descriptor, self._cancel)
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
            report = _blob_progress(blob, self._progress, threading.Event())
            self._client.fetch_blob(self._ref, blob, self._store, report, self._cancel)
            data = self._store.read(blob.digest)
        config = ImageConfig.from_bytes(data)
        if len(config.diff_ids) != len(manifest.layers):
            raise IntegrityError(
                f"{self._ref}: the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}"
            )
        return config


def _collect(
    store: BlobStore,
    descriptor: Descriptor,
    manifests: dict[str, tuple[Descriptor, bytes]],
    blobs: dict[str, Descriptor],
    depth: int,
) -> None:
    """Gather what has to be pushed; manifests in an order in which none comes before one that it names."""
    if descriptor.digest in manifests:
        return
    data = store.read(descriptor.digest)
    document = parse_manifest(data, descriptor.media_type)
    if isinstance(document, Index):
        if depth == 0:
            raise IntegrityError(f"index {descriptor.digest} is nested more than {_MAX_DEPTH} deep")
        for entry in document.manifests:
            _collect(store, entry, manifests, blobs, depth - 1)
    else:
        for blob in (document.config, *document.layers):
            if blob.media_type not in mediatypes.FOREIGN_LAYERS:
                blobs[blob.digest] = blob
    manifests[descriptor.digest] = (descriptor, data)


def _is_image(entry: Descriptor) -> bool:
    return entry.platform is not None and not entry.platform.is_unknown


def _with_platform(entry: Descriptor, config: ImageConfig) -> Descriptor:
    return Descriptor(entry.media_type, entry.digest, entry.size, platform=config.platform)


def _blob_progress(
    blob: Descriptor, progress: BlobProgress | None, stop: threading.Event
) -> Callable[[int, int], None]:
    """The progress callback of one transfer; it ends the transfer once `stop` is set."""

    def report(current: int, total: int) -> None:
        if stop.is_set():
            raise CanceledError
        if progress is not None:
            progress(blob, current, total)

    return report


def _run_parallel(blobs: Iterable[Descriptor], work: Callable[[Descriptor, threading.Event], None]) -> None:
    """Call `work` for each blob in a few threads; after a failure the rest is stopped, and the failure raised."""
    waiting = list(reversed(list(blobs)))
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        while not stop.is_set():
            try:
                blob = waiting.pop()
            except IndexError:
                return
            try:
                work(blob, stop)
            except BaseException as error:
                failures.append(error)
                stop.set()

    threads = [threading.Thread(target=run, name="transfer") for _ in range(min(_PARALLEL, len(waiting)) - 1)]
    for thread in threads:
        thread.start()
    run()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
