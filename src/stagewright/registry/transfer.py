"""Whole images between a registry and the store: their documents and layers here, and all of it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from stagewright.content.blobs import BlobStore
from stagewright.errors import CanceledError, IntegrityError
from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.image.platform import Platform
from stagewright.registry.documents import BlobProgress, fetch_image
from stagewright.registry.reference import Reference

if TYPE_CHECKING:
    from concurrent.futures import Future

    from stagewright.registry.client import RegistryClient

_MAX_DEPTH = 3
_PARALLEL = 4


def pull_image(
    client: RegistryClient,
    ref: Reference,
    platform: Platform,
    store: BlobStore,
    *,
    progress: BlobProgress | None = None,
    cancel: threading.Event | None = None,
) -> tuple[Descriptor, Manifest, ImageConfig]:
    """As `fetch_image`, for what the registry says that `ref` names now."""
    target = client.resolve(ref, cancel)
    return fetch_image(lambda: client, ref, target, platform, store, progress=progress, cancel=cancel)


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
    open_blob: Callable[[Descriptor], BinaryIO] | None = None,
    progress: BlobProgress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Push the manifest or index that `descriptor` names, and all below it, from `store`. See `ImagePush`."""
    with ImagePush(
        client, ref, store, mount_from=mount_from, open_blob=open_blob, progress=progress, cancel=cancel
    ) as image:
        image.finish(ref, descriptor)


class ImagePush:
    """Pushes an image to the repository of `ref`: blobs, then manifests, each after those that it names, then a tag.

    Used as a context manager, whose end stops what is left to do. A blob may be missing in the store where the registry
    has it or can mount it from `mount_from` (paths of repositories of the same registry), or where `open_blob` gets it
    from elsewhere. Raises NotFoundError for one that is nowhere, and as RegistryClient.
    """

    def __init__(
        self,
        client: RegistryClient,
        ref: Reference,
        store: BlobStore,
        *,
        mount_from: Sequence[str] = (),
        open_blob: Callable[[Descriptor], BinaryIO] | None = None,
        progress: BlobProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._client = client
        self._ref = ref
        self._store = store
        self._mount_from = mount_from
        self._open_blob = open_blob
        self._progress = progress
        self._cancel = cancel
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_PARALLEL, "transfer")
        self._pushes: dict[str, Future[None]] = {}

    def __enter__(self) -> ImagePush:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def begin(self, blob: Descriptor) -> None:
        """Push a blob from now on, beside what the caller does; `finish` raises what it fails with."""
        if blob.digest not in self._pushes and blob.media_type not in mediatypes.FOREIGN_LAYERS:
            self._pushes[blob.digest] = self._pool.submit(self._push, blob)

    def finish(self, ref: Reference, descriptor: Descriptor) -> None:
        """Push what is left to push of the manifest or index that `descriptor` names, and put it under `ref`."""
        from concurrent.futures import FIRST_EXCEPTION, wait

        manifests: dict[str, tuple[Descriptor, bytes]] = {}
        blobs: dict[str, Descriptor] = {}
        _collect(self._store, descriptor, manifests, blobs, _MAX_DEPTH)
        for blob in blobs.values():
            self.begin(blob)
        for push in wait(self._pushes.values(), return_when=FIRST_EXCEPTION).done:
            push.result()
        for entry, data in manifests.values():
            is_top = entry.digest == descriptor.digest
            target = ref if is_top else Reference(ref.domain, ref.path, digest=entry.digest)
            self._client.push_manifest(target, data, entry.media_type, self._cancel)

    def _push(self, blob: Descriptor) -> None:
        report = _blob_progress(blob, self._progress, self._stop)
        opened = partial(self._open_blob or (lambda known: self._store.open_verified(known.digest)), blob)
        self._client.push_blob(self._ref, blob, opened, self._mount_from, report, self._cancel)
        report(blob.size, blob.size)


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
        blobs.update((blob.digest, blob) for blob in (document.config, *document.layers))
    manifests[descriptor.digest] = (descriptor, data)


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
