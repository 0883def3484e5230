"""Snapshots without their folders: results of an imported cache, fetched and unpacked when somebody needs their files.

Such a snapshot is a row like any other, with the OCI chain ID of its layers; the row of `lazy_layers` says that its
folder is yet to come and a row of `layer_blobs` which blob it comes from. Where the blobs are is known only to the
build that imported the cache: to one that does not know, and has them not in its store, the snapshot is as good as
pruned. A folder comes as any does, by a rename in the transaction that makes the snapshot a usual one, so a build that
dies in between has changed nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from stagewright import privilege
from stagewright.cancellation import LinkedEvent
from stagewright.content.blobs import BlobStore
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, IntegrityError, LostLayerError
from stagewright.image.descriptor import Descriptor
from stagewright.progress.reporter import Reporter
from stagewright.records import dataclass
from stagewright.snapshots.compress import LayerBlob
from stagewright.snapshots.layers import LayerBlobs
from stagewright.snapshots.rows import SnapshotRow
from stagewright.snapshots.store import SnapshotStore

_DOWNLOADS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class KnownLayer:
    """A layer as another machine's store had it: its blob, and how that was packed (see `layer_blobs`).

    `created` is when it was made (Unix seconds), where an image's history would tell it.
    """

    blob: LayerBlob
    variant: str
    created: float | None = None


class LazyLayers:
    """Adds such snapshots, and has their folders made. Thread-safe.

    `vertex` opens a vertex of the progress, by its name and what sets it apart from others of that name.
    """

    def __init__(
        self,
        snapshots: SnapshotStore,
        layers: LayerBlobs,
        blobs: BlobStore,
        remote: RemoteBlobs,
        vertex: Callable[[str, str], AbstractContextManager[Reporter]],
        cancel: threading.Event,
    ) -> None:
        self._snapshots = snapshots
        self._layers = layers
        self._blobs = blobs
        self._remote = remote
        self._vertex = vertex
        self._cancel = cancel
        self._filling = threading.Lock()

    def add(self, chain: Sequence[KnownLayer]) -> int | None:
        """The snapshot of these layers, the bottom one first; None for none. What is here already is used."""
        snapshot: int | None = None
        name = ""
        for layer in chain:
            diff_id = layer.blob.diff_id
            name = "sha256:" + hashlib.sha256(f"{name} {diff_id}".encode()).hexdigest() if name else diff_id
            snapshot = self._snapshots.add_lazy(snapshot, name, layer.created)
            self._layers.learn(snapshot, layer.variant, layer.blob)
        return snapshot

    def obtainable(self, snapshot: int) -> bool:
        """Whether all files of a snapshot are here, or in blobs that are here or can be fetched."""
        return all(self._blob(row) is not None for row in self._snapshots.lazy_rows(snapshot))

    def fill(self, snapshot: int) -> None:
        """Fetch and unpack what is missing of a snapshot. Raises LostLayerError and CanceledError."""
        privilege.require()
        with self._filling:
            rows = self._snapshots.lazy_rows(snapshot)
            if rows:
                with self._vertex("[internal] fetching layers of imported caches", str(snapshot)) as reporter:
                    self._fill(rows, reporter)

    def _fill(self, rows: Sequence[SnapshotRow], reporter: Reporter) -> None:
        from concurrent.futures import ThreadPoolExecutor

        blobs = []
        for row in rows:
            blob = self._blob(row)
            if blob is None:
                raise LostLayerError(f"the files of snapshot {row.id} are in no imported cache that is known now")
            blobs.append(blob)
        stop = LinkedEvent(self._cancel)

        def fetch(blob: LayerBlob) -> None:
            with reporter.status(blob.digest, blob.size) as status:
                descriptor = Descriptor(blob.media_type, blob.digest, blob.size)
                self._remote.fetch(descriptor, status.update, stop)

        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, "layer-download") as pool:
            downloads = [pool.submit(fetch, blob) for blob in blobs]
            try:
                for row, blob, download in zip(rows, blobs, downloads, strict=True):
                    download.result()
                    try:
                        self._unpack(row, blob, reporter)
                    except IntegrityError as error:
                        if not self._blobs.discard_damaged(blob.digest):
                            # The cache says something else of the layer than it is. Without a blob it is a miss.
                            self._layers.forget(row.dir, blob)
                            raise LostLayerError(
                                f"layer {blob.digest} is not what an imported cache says: {error.message}",
                                hint="it is forgotten: build once more",
                            ) from error
                        fetch(blob)
                        self._unpack(row, blob, reporter)
            finally:
                stop.set()

    def _unpack(self, row: SnapshotRow, blob: LayerBlob, reporter: Reporter) -> None:
        from stagewright.snapshots.unpack import apply

        draft = self._snapshots.prepare(row.parent)
        try:
            with reporter.status(f"extracting {blob.digest}", blob.size) as status:

                def progress(count: int) -> None:
                    if self._cancel.is_set():
                        raise CanceledError
                    status.update(count)

                with self._blobs.open(blob.digest) as stream:
                    apply(stream, draft, lambda: self._snapshots.lowers(row.parent), blob.diff_id, progress)
        except BaseException:
            self._snapshots.discard(draft)
            raise
        self._snapshots.fill_in(row, draft)

    def _blob(self, row: SnapshotRow) -> LayerBlob | None:
        """A blob of the layer that is here or can be fetched."""
        return next((blob for blob in self._layers.known(row.dir) if self._remote.has(blob.digest)), None)
