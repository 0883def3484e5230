"""The layers of stored images that builds have left elsewhere, for what is no build: they are fetched when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from stagewright.content.blobs import BlobStore
from stagewright.errors import LostLayerError, NotFoundError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, parse_manifest
from stagewright.registry.reference import Reference
from stagewright.state import State
from stagewright.travel.opening import opener
from stagewright.travel.whereabouts import Whereabouts

if TYPE_CHECKING:
    from stagewright.config import Config
    from stagewright.registry.client import RegistryClient
    from stagewright.registry.documents import BlobProgress


class LeftLayers:
    """Those of the images of one store. `config` answers the configuration, `env` is the process's environment.

    `image` is what an error calls the image. Raises NotFoundError for a layer that no place gives.
    """

    def __init__(self, state: State, config: Callable[[], Config], env: Mapping[str, str]) -> None:
        self._state = state
        self._config = config
        self._env = env

    def bring(self, image: str, target: Descriptor) -> None:
        """Have all layers of an image in the store, or of those images of an index whose manifests are there."""
        self._fetch(image, _missing_below(self._state.blobs, target))

    def push(
        self, image: str, client: RegistryClient, reference: Reference, target: Descriptor, progress: BlobProgress
    ) -> None:
        """Push an image. Of what is missing here nothing is fetched that the registry has, be it in another repository.

        Raises what the client raises.
        """
        from stagewright.registry.transfer import push_image

        blobs = self._state.blobs
        missing = [blob.digest for blob in _missing_below(blobs, target)]

        def open_blob(blob: Descriptor) -> BinaryIO:
            if blob.digest in missing:
                self._fetch(image, [blob])
            return blobs.open_verified(blob.digest)

        with self._whereabouts() as whereabouts:
            mount_from = whereabouts.repositories(missing, reference.domain)
        push_image(client, reference, target, blobs, mount_from=mount_from, open_blob=open_blob, progress=progress)

    def _fetch(self, image: str, layers: Sequence[Descriptor]) -> None:
        if not layers:
            return
        with self._whereabouts() as whereabouts:
            try:
                whereabouts.bring(layers, self._state.blobs)
            except LostLayerError as lost:
                raise NotFoundError(f"{image}: {lost.message}", hint="build or pull the image once more") from lost

    @contextmanager
    def _whereabouts(self) -> Iterator[Whereabouts]:
        with opener(self._config, self._env, self._state.blobs) as opened:
            yield Whereabouts(self._state.places, opened, self._env)


def _missing_below(blobs: BlobStore, target: Descriptor) -> list[Descriptor]:
    found: dict[str, Descriptor] = {}
    pending = [target]
    while pending:
        descriptor = pending.pop()
        is_document = descriptor.media_type in mediatypes.INDEXES | mediatypes.MANIFESTS
        if is_document and blobs.has(descriptor.digest):
            document = parse_manifest(blobs.read(descriptor.digest), descriptor.media_type)
            pending += document.manifests if isinstance(document, Index) else (document.config, *document.layers)
        elif not (is_document or descriptor.media_type in mediatypes.FOREIGN_LAYERS or blobs.has(descriptor.digest)):
            found[descriptor.digest] = descriptor
    return list(found.values())
