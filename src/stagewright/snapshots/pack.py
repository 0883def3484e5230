"""Layer blobs: made from a snapshot's folder, or from another blob of the same layer."""

from __future__ import annotations

from collections.abc import Callable

from stagewright import privilege
from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError
from stagewright.snapshots.compress import Compression, LayerBlob, LayerSink
from stagewright.snapshots.sinks import CHUNK
from stagewright.snapshots.streams import ReadAhead, decompressed
from stagewright.snapshots.tarwriter import write_tree


def pack(
    folder: str,
    blobs: BlobStore,
    compression: Compression,
    *,
    epoch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LayerBlob:
    """Make the blob of a layer from its folder (absolute, overlay format) and put it into the blob store.

    Times later than `epoch` (Unix seconds) become `epoch`. Equal folders give equal bytes. `progress` is told the bytes
    of files read so far. The media type is OCI's. Raises StoreError where a file cannot be read or the disk refuses,
    and PrivilegeNeededError.
    """
    # Elsewhere its files have other owners, as seen from there, and some cannot be read.
    privilege.require()
    with LayerSink(blobs, compression) as sink:
        write_tree(folder, sink, epoch=epoch, progress=progress)
        return sink.finish()


def convert(blob: LayerBlob, blobs: BlobStore, compression: Compression) -> LayerBlob:
    """Make a blob of the same tar, so of the same diff ID, with another compression.

    Raises IntegrityError where the blob does not hold what its diff ID says, NotFoundError where it is not here.
    """
    with (
        blobs.open(blob.digest) as file,
        ReadAhead(decompressed(file)) as source,
        LayerSink(blobs, compression) as sink,
    ):
        while piece := source.read(CHUNK):
            sink.write(piece)
        if source.digest() != blob.diff_id:
            raise IntegrityError(f"blob {blob.digest} does not hold the layer {blob.diff_id}")
        return sink.finish()
