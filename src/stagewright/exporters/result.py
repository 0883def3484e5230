"""What exporters take and give, and the stores that they work with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, ParamSpec

from stagewright.config import Config
from stagewright.content.blobs import BlobStore
from stagewright.content.images import ImageStore
from stagewright.content.places import BlobPlaces
from stagewright.errors import CanceledError
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.platform import Platform
from stagewright.records import dataclass, field
from stagewright.snapshots.layers import LayerBlobs
from stagewright.snapshots.store import SnapshotStore

if TYPE_CHECKING:
    from stagewright.content.remote import RemoteBlobs
    from stagewright.registry.client import RegistryClient
    from stagewright.snapshots.compress import LayerBlob

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The result of a build.

    `snapshot` holds its files (None: none), `layers` are the snapshots of the whole chain, the bottom one first.
    `config` is the image's config, whose diff IDs and missing times the exporter fills in. `epoch` is
    SOURCE_DATE_EPOCH in seconds. `annotations` are those of `--annotation`, keys with their `manifest:` and the like.
    `bases` are the names of images that some layers came from, in repositories that a registry can mount blobs from.
    `cache` makes the cache that goes into the image's config of the blobs of the layers.
    """

    platform: Platform
    snapshot: int | None
    layers: tuple[int, ...]
    config: ImageConfig
    epoch: int | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    cache: Callable[[Sequence[LayerBlob]], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """What exporters work with. `client` makes the registry client when the network is first needed.

    `env` is the process's environment. `cancel` ends exports when it is set. `remote` answers what knows where layers
    are that came with an imported cache and are not in `blobs`, and `places` is where later builds find that.
    """

    snapshots: SnapshotStore
    blobs: BlobStore
    layers: LayerBlobs
    images: ImageStore
    config: Config
    env: Mapping[str, str]
    client: Callable[[], RegistryClient]
    cancel: threading.Event
    places: BlobPlaces
    remote: Callable[[], RemoteBlobs]

    def open_blob(self, blob: Descriptor) -> BinaryIO:
        """A blob, fetched from an imported cache where it is not in the store. Raises NotFoundError."""
        if not self.blobs.has(blob.digest) and self.remote().has(blob.digest):
            self.remote().fetch(blob, cancel=self.cancel)
        return self.blobs.open_verified(blob.digest)

    def check_canceled(self) -> None:
        """Raise CanceledError once the build is canceled."""
        if self.cancel.is_set():
            raise CanceledError

    def cancelable(self, progress: Callable[P, None]) -> Callable[P, None]:
        """The same callback, which ends the work that it is told of once the build is canceled."""

        def report(*arguments: P.args, **options: P.kwargs) -> None:
            self.check_canceled()
            progress(*arguments, **options)

        return report


@dataclass(frozen=True, slots=True)
class Exported:
    """An image that was made: its manifest's descriptor, its config's digest (the image ID), layers, whole names."""

    descriptor: Descriptor
    config_digest: str
    layers: tuple[Descriptor, ...]
    names: tuple[str, ...] = ()
