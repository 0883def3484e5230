"""Which blobs a snapshot's layer is known as, and the one way to get one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stagewright.content.blobs import BlobStore
from stagewright.content.db import Database
from stagewright.content.remote import RemoteBlobs
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.snapshots.compress import Compression, LayerBlob
from stagewright.snapshots.store import SnapshotStore

# The variant of a blob that came from a registry or an archive.
_PULLED = ""


class LayerBlobs:
    """The table `layer_blobs`. A known blob is never made again; two threads that want one make it once.

    Blobs that are not in the store may be where what `remote` answers knows. `fetch_again` is asked for a base image's
    layer that was in the store once, by its digest, and says whether it is there again.
    """

    def __init__(
        self,
        snapshots: SnapshotStore,
        blobs: BlobStore,
        db: Database,
        remote: Callable[[], RemoteBlobs] | None = None,
        fetch_again: Callable[[str], bool] = lambda digest: False,
    ) -> None:
        self._snapshots = snapshots
        self._blobs = blobs
        self._db = db
        self._remote = remote
        self._fetch_again = fetch_again
        self._lock = threading.Lock()
        self._making: dict[tuple[str, str], threading.Lock] = {}

    def record_pulled(self, snapshot: int, blob: LayerBlob) -> None:
        """Note the blob that a snapshot was unpacked from."""
        self._record(self._snapshots.dir(snapshot), _PULLED, blob)

    def pulled(self, snapshot: int) -> LayerBlob | None:
        """The blob that a snapshot was unpacked from, whether its bytes are still here or not."""
        return self._known(self._snapshots.dir(snapshot), _PULLED)

    def is_here(self, snapshot: int) -> bool:
        """Whether a snapshot's own layer is in the store, its folder or a blob of it."""
        name = self._snapshots.dir(snapshot)
        return not self._snapshots.is_lazy(name) or any(self._blobs.has(blob.digest) for blob in self.known(name))

    def obtain(
        self,
        snapshot: int,
        compression: Compression,
        *,
        force: bool = False,
        epoch: int | None = None,
        fetch: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> LayerBlob:
        """The blob of a snapshot's own layer, in the blob store; packed if it must be.

        A blob as it was pulled is taken whatever its compression, unless `force` asks for this one: then it is
        compressed anew, with its diff ID kept. `epoch` is for layers that are packed here (Unix seconds). Without
        `fetch` a blob that can be fetched may be left where it is.
        """
        folder = self._snapshots.dir(snapshot)
        pulled = self._known(folder, _PULLED)
        converts = force and pulled is not None and _differs(pulled, compression)
        pulled = self._present(folder, _PULLED, fetch or converts)
        if pulled is not None and not converts:
            return pulled
        variant = str(compression)
        if pulled is None and epoch is not None:
            variant += f":epoch={epoch}"
        with self._lock:
            making = self._making.setdefault((folder, variant), threading.Lock())
        with making:
            blob = self._present(folder, variant, fetch)
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

    def learn(self, snapshot: int, variant: str, blob: LayerBlob) -> None:
        """Note a blob of a snapshot's own layer that another machine packed, unless one of the variant is known."""
        self._db.execute(
            "INSERT OR IGNORE INTO layer_blobs (dir, variant, media_type, digest, size, diff_id)"
            " SELECT dir, ?, ?, ?, ?, ? FROM snapshots WHERE id = ?",
            (variant, blob.media_type, blob.digest, blob.size, blob.diff_id, snapshot),
        )

    def forget(self, folder: str, blob: LayerBlob) -> None:
        """Forget that a folder is known as this blob."""
        self._db.execute("DELETE FROM layer_blobs WHERE dir = ? AND digest = ?", (folder, blob.digest))

    def known(self, folder: str) -> list[LayerBlob]:
        """All blobs that a folder is known as, the one that was pulled first."""
        rows = self._db.query(
            "SELECT media_type, digest, size, diff_id FROM layer_blobs WHERE dir = ? ORDER BY variant", (folder,)
        )
        return [LayerBlob(*row) for row in rows]

    def variant(self, snapshot: int, blob: LayerBlob) -> str:
        """How a known blob of a snapshot was packed."""
        rows = self._db.query(
            "SELECT variant FROM layer_blobs WHERE dir = ? AND digest = ? ORDER BY variant",
            (self._snapshots.dir(snapshot), blob.digest),
        )
        return str(rows[0][0])

    def _present(self, folder: str, variant: str, fetch: bool) -> LayerBlob | None:
        """A known blob that is in the store, or has come there now; without `fetch` also one that could come."""
        blob = self._known(folder, variant)
        if blob is None or self._blobs.has(blob.digest):
            return blob
        remote = self._remote() if self._remote is not None else None
        if remote is None or not remote.has(blob.digest):
            # Packed anew it would have other bytes than its image has.
            return blob if variant == _PULLED and self._fetch_again(blob.digest) else None
        if fetch:
            remote.fetch(Descriptor(blob.media_type, blob.digest, blob.size))
        return blob

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
