"""Which blobs a snapshot's layer is known as, and the one way to get one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stagewright.content.blobs import BlobStore
from stagewright.content.db import Database
from stagewright.image import mediatypes
from stagewright.snapshots.compress import Compression, LayerBlob
from stagewright.snapshots.store import SnapshotStore

# The variant of a blob that came from a registry or an archive.
_PULLED = ""


class LayerBlobs:
    """The table `layer_blobs`. A known blob is never made again; two threads that want one make it once."""

    def __init__(self, snapshots: SnapshotStore, blobs: BlobStore, db: Database) -> None:
        self._snapshots = snapshots
        self._blobs = blobs
        self._db = db
        self._lock = threading.Lock()
        self._making: dict[tuple[str, str], threading.Lock] = {}

    def record_pulled(self, snapshot: int, blob: LayerBlob) -> None:
        """Note the blob that a snapshot was unpacked from."""
        self._record(self._snapshots.dir(snapshot), _PULLED, blob)

    def pulled(self, snapshot: int) -> LayerBlob | None:
        """The blob that a snapshot was unpacked from, whether its bytes are still here or not."""
        return self._known(self._snapshots.dir(snapshot), _PULLED)

    def obtain(
        self,
        snapshot: int,
        compression: Compression,
        *,
        force: bool = False,
        epoch: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> LayerBlob:
        """The blob of a snapshot's own layer, in the blob store; packed if it must be.

        A blob as it was pulled is taken whatever its compression, unless `force` asks for this one: then it is
        compressed anew, with its diff ID kept. `epoch` is for layers that are packed here (Unix seconds).
        """
        folder = self._snapshots.dir(snapshot)
        pulled = self._present(folder, _PULLED)
        if pulled is not None and not (force and _differs(pulled, compression)):
            return pulled
        variant = str(compression)
        if pulled is None and epoch is not None:
            variant += f":epoch={epoch}"
        with self._lock:
            making = self._making.setdefault((folder, variant), threading.Lock())
        with making:
            blob = self._present(folder, variant)
            if blob is None:
                from stagewright.snapshots.pack import convert, pack

                if pulled is not None:
                    blob = convert(pulled, self._blobs, compression)
                else:
                    blob = pack(
                        self._snapshots.folder(snapshot), self._blobs, compression, epoch=epoch, progress=progress
                    )
                self._record(folder, variant, blob)
        return blob

    def digests(self) -> set[str]:
        """The digests of all blobs that some snapshot is known as."""
        return {digest for (digest,) in self._db.query("SELECT digest FROM layer_blobs")}

    def _present(self, folder: str, variant: str) -> LayerBlob | None:
        blob = self._known(folder, variant)
        return blob if blob is not None and self._blobs.has(blob.digest) else None

    def _known(self, folder: str, variant: str) -> LayerBlob | None:
        rows = self._db.query(
            "SELECT media_type, digest, size, diff_id FROM layer_blobs WHERE dir = ? AND variant = ?", (folder, variant)
        )
        return LayerBlob(*rows[0]) if rows else None

    def _record(self, folder: str, variant: str, blob: LayerBlob) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO layer_blobs (dir, variant, media_type, digest, size, diff_id)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (folder, variant, blob.media_type, blob.digest, blob.size, blob.diff_id),
        )


def _differs(blob: LayerBlob, compression: Compression) -> bool:
    wanted = "" if compression.type == "uncompressed" else compression.type
    return mediatypes.LAYER_COMPRESSION.get(blob.media_type) != wanted
