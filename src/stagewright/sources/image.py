"""Images as inputs: what a name means now, its config, and its layers as a snapshot."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from stagewright import privilege
from stagewright.content.blobs import BlobStore
from stagewright.content.db import Database
from stagewright.content.images import ImageStore
from stagewright.errors import IntegrityError, LostLayerError, NotFoundError, RegistryError
from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Manifest
from stagewright.image.platform import Platform
from stagewright.progress.reporter import Reporter
from stagewright.records import dataclass
from stagewright.registry.documents import Origin, fetch_image
from stagewright.registry.errors import UnreachableError
from stagewright.registry.reference import Reference
from stagewright.snapshots.layers import LayerBlobs
from stagewright.snapshots.store import SnapshotStore

if TYPE_CHECKING:
    from stagewright.content.remote import RemoteBlobs
    from stagewright.registry.client import RegistryClient

# Without a time for which resolutions are trusted, their age is told to the minute.
_AGE_RESOLUTION_S = 60


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image that a name means now.

    `manifest_descriptor` leads to the platform's manifest. `origin` is asked for layers that are not here yet.
    """

    reference: Reference
    manifest_descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    origin: Callable[[], Origin]


class ImageSource:
    """Resolves names and unpacks images. Thread-safe.

    `client` makes the registry client when the network is first needed. A resolution is trusted for `ttl_s` seconds.
    `offline` never asks a registry; `pull` never asks the image store. `left` answers what knows where builds have
    left layers of images of the store.
    """

    def __init__(
        self,
        client: Callable[[], RegistryClient],
        blobs: BlobStore,
        snapshots: SnapshotStore,
        images: ImageStore,
        db: Database,
        left: Callable[[], RemoteBlobs],
        *,
        ttl_s: float = 0,
        offline: bool = False,
        pull: bool = False,
    ) -> None:
        self._client = client
        self._blobs = blobs
        self._snapshots = snapshots
        self._images = images
        self._db = db
        self._left = left
        self._layers = LayerBlobs(snapshots, blobs, db)
        self._ttl_s = ttl_s
        self._offline = offline
        self._pull = pull
        self._resolved: dict[str, ResolvedImage] = {}
        self._lock = threading.Lock()

    # --- what a name means ----------------------------------------------------------------------------------------

    def resolve(self, name: str, platform: Platform, reporter: Reporter, cancel: threading.Event) -> ResolvedImage:
        """What the image name `name` means now for the platform.

        Raises UsageError for a name that is none, NotFoundError, RegistryError, IntegrityError, and CanceledError where
        `cancel` is set meanwhile.
        """
        reference = Reference.parse(name)
        stored = None if self._pull else self._images.get(str(reference))
        if stored is not None:
            try:
                return self._load(reference, stored, platform, cancel, _no_client, partial(self._stored, reference))
            except NotFoundError:
                # It may hold an index of which only one platform was pulled.
                pass
        try:
            target = self._resolve_remote(reference, reporter, cancel)
            online = partial(self._online, reference)
            return self._load(reference, target, platform, cancel, online, online)
        except RegistryError as error:
            # A connection knows nothing of images.
            if reference.path not in error.message:
                error.put_before(reference.familiar())
            raise

    def resolve_layout(self, name: str, layout: str, platform: Platform, cancel: threading.Event) -> ResolvedImage:
        """The image of an OCI image layout, `path[:tag][@digest]`, for the platform; `name` is what to call it.

        Raises NotFoundError, IntegrityError and StoreError.
        """
        from stagewright.sources.layout import OciLayout, parse_layout

        folder, tag, digest = parse_layout(layout)
        origin = OciLayout(folder)
        target = origin.find(tag, digest)
        reference = Reference.parse(name).with_digest(target.digest)
        return self._load(reference, target, platform, cancel, lambda: origin, lambda: origin)

    def _resolve_remote(self, reference: Reference, reporter: Reporter, cancel: threading.Event) -> Descriptor:
        known = self._last_resolution(reference)
        if known is not None:
            descriptor, when = known
            fresh = self._ttl_s > 0 and 0 <= time.time() - when < self._ttl_s
            pinned = reference.digest is not None
            if self._offline or fresh or pinned:
                return descriptor
        if self._offline:
            raise NotFoundError(
                f"{reference.familiar()}: not known here, and --offline forbids asking its registry",
                hint="build once without --offline",
            )
        try:
            descriptor = self._client().resolve(reference, cancel)
        except UnreachableError as error:
            if known is None:
                raise
            reporter.warn(
                f"{reference.familiar()}: using {known[0].digest} as last resolved, its registry cannot be asked:"
                f" {error.message}"
            )
            return known[0]
        self._keep_resolution(reference, descriptor, known)
        return descriptor

    def _keep_resolution(
        self, reference: Reference, descriptor: Descriptor, known: tuple[Descriptor, float] | None
    ) -> None:
        now = time.time()
        if known is not None and known[0] == descriptor and not self._ttl_s and 0 <= now - known[1] < _AGE_RESOLUTION_S:
            return
        self._db.execute(
            "INSERT OR REPLACE INTO resolutions (name, value, resolved) VALUES (?, ?, ?)",
            (str(reference), json.dumps(descriptor.to_json()), now),
        )

    def _last_resolution(self, reference: Reference) -> tuple[Descriptor, float] | None:
        rows = self._db.query("SELECT value, resolved FROM resolutions WHERE name = ?", (str(reference),))
        if not rows:
            return None
        return self._db.decoded(rows[0][0], Descriptor.from_json), float(rows[0][1])

    def _load(
        self,
        reference: Reference,
        target: Descriptor,
        platform: Platform,
        cancel: threading.Event,
        documents: Callable[[], Origin],
        layers: Callable[[], Origin],
    ) -> ResolvedImage:
        """The platform's manifest and config behind a descriptor; `documents` has those that are missing."""
        found = fetch_image(documents, reference, target, platform, self._blobs, cancel=cancel)
        resolved = ResolvedImage(reference, *found, layers)
        with self._lock:
            self._resolved[resolved.manifest_descriptor.digest] = resolved
        return resolved

    def _stored(self, reference: Reference) -> Origin:
        return _Stored(self._left(), partial(self._online, reference))

    def _online(self, reference: Reference) -> RegistryClient:
        if self._offline:
            raise NotFoundError(
                f"{reference.familiar()}: a part of the image is not here, and --offline forbids a pull",
                hint="build once without --offline",
            )
        return self._client()

    # --- its files ------------------------------------------------------------------------------------------------

    def snapshot(self, manifest_digest: str, reporter: Reporter, cancel: threading.Event) -> int | None:
        """The snapshot of a resolved image's files, pulling and unpacking the layers that are missing.

        None for an image without layers.
        """
        resolved = self._resolved[manifest_digest]
        layers, diff_ids = resolved.manifest.layers, resolved.config.diff_ids
        chains = chain_ids(diff_ids)
        done, snapshot = len(chains), None
        while done and (snapshot := self._snapshots.by_chain(chains[done - 1])) is None:
            done -= 1
        missing = list(zip(layers, diff_ids, chains, strict=True))[done:]
        if not missing:
            return snapshot
        for layer, _, _ in missing:
            if layer.media_type not in mediatypes.LAYER_COMPRESSION:
                raise IntegrityError(
                    f"{resolved.reference.familiar()}: layer {layer.digest} is of the unknown media type"
                    f" {layer.media_type!r}"
                )
        privilege.require()
        from stagewright.sources.pulling import Pull, WantedLayer

        def fetch(layer: Descriptor, progress: Callable[[int, int], None], stop: threading.Event) -> None:
            resolved.origin().fetch_blob(resolved.reference, layer, self._blobs, progress, stop)

        pull = Pull(self._blobs, self._snapshots, self._layers, fetch, reporter, cancel)
        return pull.run([WantedLayer(*layer) for layer in missing], snapshot)

    def fetch_again(self, digest: str, cancel: threading.Event) -> bool:
        """Fetch a layer's blob that was in the store once; whether an image that this build has resolved names it."""
        with self._lock:
            known = list(self._resolved.values())
        for resolved in known:
            for layer in resolved.manifest.layers:
                if layer.digest == digest:
                    resolved.origin().fetch_blob(resolved.reference, layer, self._blobs, None, cancel)
                    return True
        return False


def _no_client() -> RegistryClient:
    raise NotFoundError("a part of the image is not in the image store")


class _Stored:
    """Where layers are that an image of the store is without: where a build has left them, else with its name."""

    def __init__(self, left: RemoteBlobs, online: Callable[[], Origin]) -> None:
        self._left = left
        self._online = online

    def fetch_manifest(self, ref: Reference, descriptor: Descriptor, cancel: threading.Event | None = None) -> bytes:
        return self._online().fetch_manifest(ref, descriptor, cancel)

    def fetch_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        store: BlobStore,
        progress: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        if not self._left.has(descriptor.digest):
            return self._online().fetch_blob(ref, descriptor, store, progress, cancel)
        try:
            self._left.fetch(descriptor, progress, cancel)
        except LostLayerError as lost:
            raise NotFoundError(f"{ref.familiar()}: {lost.message}", hint="build or pull the image once more") from lost
        return None


def chain_ids(diff_ids: tuple[str, ...]) -> list[str]:
    """The OCI chain ID of each layer: of the first its diff ID, of others the digest of the chain so far and theirs."""
    chains: list[str] = []
    for diff_id in diff_ids:
        if chains:
            chains.append("sha256:" + hashlib.sha256(f"{chains[-1]} {diff_id}".encode()).hexdigest())
        else:
            chains.append(diff_id)
    return chains
