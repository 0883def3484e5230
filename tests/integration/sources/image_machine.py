"""A state directory with image sources on it, and a registry of one image in the client's place."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from stagewright.content.blobs import BlobStore
from stagewright.content.db import Database
from stagewright.content.images import ImageStore
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, NotFoundError
from stagewright.image import mediatypes
from stagewright.image.config import ContainerConfig, ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest
from stagewright.image.platform import Platform, parse_platform
from stagewright.progress.events import Event, VertexEvent, WarningEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.records import replace
from stagewright.registry.client import RegistryClient
from stagewright.registry.errors import UnreachableError
from stagewright.registry.reference import Reference
from stagewright.snapshots.store import SnapshotStore
from stagewright.sources.image import ImageSource

AMD64, ARM64 = parse_platform("linux/amd64"), parse_platform("linux/arm64")
NAME = "registry.example/app:1"

Stream = Callable[[Descriptor, BlobStore, Callable[[int, int], None], threading.Event], None]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """A registry of one name, in the client's place. `asked` notes what was asked; `on_blob` runs before a blob.

    `streams` gets what `fetch_blob` is given of blobs whose digests it has, and fetches them.
    """

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.tag: Descriptor | None = None
        self.down = False
        self.asked: list[str] = []
        self.on_blob: Callable[[Descriptor], None] = lambda descriptor: None
        self.streams: dict[str, Stream] = {}

    def put(self, data: bytes, media_type: str) -> Descriptor:
        self.content[digest_of(data)] = data
        return Descriptor(media_type, digest_of(data), len(data))

    def image(self, *layers: bytes, platform: Platform = AMD64, diff_ids: tuple[str, ...] | None = None) -> Descriptor:
        """An image of plain tars, which are compressed; the tag leads to it."""
        descriptors = tuple(self.put(gzip.compress(layer, mtime=0), mediatypes.OCI_LAYER_GZIP) for layer in layers)
        known = diff_ids if diff_ids is not None else tuple(digest_of(layer) for layer in layers)
        config = ImageConfig(platform=platform, config=ContainerConfig(), diff_ids=known)
        manifest = Manifest(self.put(config.to_bytes(), mediatypes.OCI_CONFIG), descriptors)
        self.tag = self.put(manifest.to_bytes(), mediatypes.OCI_MANIFEST)
        return self.tag

    def index(self, **platforms: Descriptor) -> Descriptor:
        entries = tuple(replace(image, platform=parse_platform(f"linux/{name}")) for name, image in platforms.items())
        self.tag = self.put(Index(entries).to_bytes(), mediatypes.OCI_INDEX)
        return self.tag

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise UnreachableError("no route to registry.example", connected=False)

    def resolve(self, ref: Reference, cancel: threading.Event | None = None) -> Descriptor:
        self._answer("resolve")
        if self.tag is None:
            raise NotFoundError(f"{ref}: not found")
        return self.tag

    def fetch_manifest(self, ref: Reference, descriptor: Descriptor, cancel: threading.Event | None = None) -> bytes:
        self._answer("manifest")
        return self.content[descriptor.digest]

    def fetch_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        store: BlobStore,
        progress: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self._answer("blob")
        self.on_blob(descriptor)
        if cancel is not None and cancel.is_set():
            raise CanceledError
        if descriptor.digest in self.streams:
            assert progress is not None and cancel is not None
            return self.streams[descriptor.digest](descriptor, store, progress, cancel)
        data = self.content[descriptor.digest]
        store.write(data)
        if progress is not None:
            progress(len(data), len(data))
        return None


class Machine:
    """A state directory, and sources on it."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(folder / "metadata.db")
        self.blobs = BlobStore(folder / "content")
        self.snapshots = SnapshotStore(folder / "snapshots", self.db)
        self.images = ImageStore(self.db)
        self.registry = Registry()
        self.cancel = threading.Event()
        self.events: list[Event] = []

    def source(self, **options: object) -> ImageSource:
        client = cast(RegistryClient, self.registry)
        stores = (self.blobs, self.snapshots, self.images, self.db)
        return ImageSource(lambda: client, *stores, lambda: RemoteBlobs(self.blobs), **options)  # type: ignore[arg-type]

    def reporter(self) -> Reporter:
        return Reporter(Emitter(self.events.append), VertexEvent("sha256:0", "image"))

    def resolve(self, source: ImageSource, platform: Platform = AMD64, name: str = NAME) -> str:
        return source.resolve(name, platform, self.reporter(), self.cancel).manifest_descriptor.digest

    def pull(self, source: ImageSource | None = None) -> int | None:
        source = source or self.source()
        return source.snapshot(self.resolve(source), self.reporter(), self.cancel)

    def files(self, snapshot: int | None) -> dict[str, bytes]:
        with self.snapshots.view(snapshot) as root:
            base = Path(f"/proc/self/fd/{root}")
            return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}

    @property
    def warnings(self) -> list[str]:
        return [event.short for event in self.events if isinstance(event, WarningEvent)]
