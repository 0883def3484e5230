"""What in the store is needed for what: the documents, blobs and layers of images, and the snapshots below others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError
from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.image.platform import host_platform
from stagewright.records import dataclass, field
from stagewright.snapshots.rows import SnapshotRow
from stagewright.sources.image import chain_ids
from stagewright.sources.remote import URL_ROW
from stagewright.state import State

_DOCUMENTS = mediatypes.INDEXES | mediatypes.MANIFESTS


@dataclass(slots=True)
class Reach:
    """Everything below some descriptors: the digests of blobs, and the chain IDs of the layers of images."""

    blobs: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)


def reach(blobs: BlobStore, roots: Iterable[Descriptor]) -> Reach:
    """All that is below `roots`, themselves included.

    What is named but not in the store counts, too, since it may come; what is below a document that is missing or
    damaged can't be known.
    """
    found = Reach()
    pending = list(roots)
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in found.blobs:
            continue
        found.blobs.add(descriptor.digest)
        try:
            if descriptor.media_type in _DOCUMENTS:
                pending += _below(parse_manifest(blobs.read(descriptor.digest), descriptor.media_type))
            elif descriptor.media_type in mediatypes.CONFIGS:
                found.chains.update(chain_ids(ImageConfig.from_bytes(blobs.read(descriptor.digest)).diff_ids))
        except (NotFoundError, IntegrityError):
            continue
    return found


def needed_by_images(state: State) -> Reach:
    """What the named images are made of."""
    return reach(state.blobs, [image.descriptor for image in state.images.list()])


def needed_by_resolutions(state: State) -> Reach:
    """What the images are made of that names in FROM were last resolved to."""
    rows = state.db.query("SELECT value FROM resolutions WHERE name NOT LIKE ?", (f"{URL_ROW}%",))
    return reach(state.blobs, [state.db.decoded(value, Descriptor.from_json) for (value,) in rows])


def with_ancestors(rows: Sequence[SnapshotRow], wanted: set[int]) -> set[int]:
    """The ids in `wanted` and those of all snapshots below them; `rows` are all snapshots."""
    parents = {row.id: row.parent for row in rows}
    found: set[int] = set()
    for start in wanted:
        snapshot: int | None = start
        while snapshot is not None and snapshot not in found:
            found.add(snapshot)
            snapshot = parents.get(snapshot)
    return found


def _below(document: Manifest | Index) -> list[Descriptor]:
    entries = document.manifests if isinstance(document, Index) else (document.config, *document.layers)
    return [*entries, *([document.subject] if document.subject is not None else [])]


def image_manifest(blobs: BlobStore, target: Descriptor) -> tuple[Descriptor, Manifest]:
    """The image that a name leads to, and its descriptor.

    Of an index that is the host platform's, else the first one that is here. Raises NotFoundError where none is, and
    IntegrityError for damage.
    """
    document = parse_manifest(blobs.read(target.digest), target.media_type)
    if isinstance(document, Manifest):
        return target, document
    images = [entry for entry in document.manifests if entry.platform is None or not entry.platform.is_unknown]
    for entry in dict.fromkeys(entry.digest for entry in (*document.select(host_platform()), *images)):
        if blobs.has(entry):
            chosen = next(image for image in images if image.digest == entry)
            return image_manifest(blobs, chosen)
    raise NotFoundError(f"no image of index {target.digest} is in the store")
