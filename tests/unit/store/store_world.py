"""Images, snapshots and cache rows made by hand in a state directory of their own."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest
from stagewright.image.platform import Platform, host_platform
from stagewright.sources.image import chain_ids
from stagewright.state import State
from stagewright.store import Store


def tar_of(**files: bytes) -> bytes:
    """A plain tar archive of a few files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class World:
    """A state directory, the store on it, and what tests put there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root.parent / "stagewright.toml"
        self.config.touch()
        self.state = State(str(root), {})
        self.store = Store(root, self.config)

    def close(self) -> None:
        self.store.close()
        self.state.close()

    def image(self, name: str | None, *layers: bytes, platform: Platform | None = None) -> Descriptor:
        """An image with a file of these bytes in each of its layers, which are plain tars."""
        blobs = self.state.blobs
        tars = [tar_of(file=content) for content in layers]
        config = ImageConfig(
            platform or host_platform(),
            created="2024-05-06T07:08:09Z",
            diff_ids=tuple(map(digest_of, tars)),
        ).to_bytes()
        descriptors = [Descriptor(mediatypes.OCI_LAYER, blobs.write(data), len(data)) for data in tars]
        manifest = Manifest(
            Descriptor(mediatypes.OCI_CONFIG, blobs.write(config), len(config)), tuple(descriptors)
        ).to_bytes()
        found = Descriptor(
            mediatypes.OCI_MANIFEST, blobs.write(manifest), len(manifest), platform=platform or host_platform()
        )
        if name is not None:
            self.state.images.put(name, found)
        return found

    def index(self, name: str, *images: Descriptor) -> Descriptor:
        data = Index(images).to_bytes()
        found = Descriptor(mediatypes.OCI_INDEX, self.state.blobs.write(data), len(data))
        self.state.images.put(name, found)
        return found

    def manifest(self, target: Descriptor) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.state.blobs.read(target.digest))
        return document

    def blobs_of(self, target: Descriptor) -> set[str]:
        document = self.manifest(target)
        return {target.digest, document["config"]["digest"], *(layer["digest"] for layer in document["layers"])}

    def all_blobs(self) -> set[str]:
        return {digest for digest, _ in self.state.blobs.digests()}

    def snapshot(self, parent: int | None, content: bytes = b"x") -> int:
        """A snapshot with one file."""
        draft = self.state.snapshots.prepare(parent)
        Path(draft.fs, "file").write_bytes(content)
        snapshot = self.state.snapshots.commit(draft)
        # As at the end of a build: what is left of the draft has gone.
        self.state.snapshots.close()
        return snapshot

    def unpacked(self, target: Descriptor) -> list[int]:
        """Snapshots for all layers of an image, the bottom one first."""
        config = ImageConfig.from_bytes(self.state.blobs.read(self.manifest(target)["config"]["digest"]))
        snapshots: list[int] = []
        for chain, layer in zip(chain_ids(config.diff_ids), self.manifest(target)["layers"], strict=True):
            made = self.snapshot(snapshots[-1] if snapshots else None)
            snapshots.append(self.state.snapshots.set_chain(made, chain))
            self.packed(snapshots[-1], layer["digest"])
        return snapshots

    def packed(self, snapshot: int, digest: str, variant: str = "") -> None:
        self.state.db.execute(
            "INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?, ?, 1, ?)",
            (self.state.snapshots.dir(snapshot), variant, mediatypes.OCI_LAYER, digest, digest),
        )

    def result(self, key: str, snapshot: int | None, name: str = "RUN make") -> None:
        self.state.keys.save([f"d:{key}"], key, snapshot, name)

    def resolution(self, name: str, target: Descriptor) -> None:
        self.state.db.execute(
            "INSERT INTO resolutions VALUES (?, ?, ?)", (name, json.dumps(target.to_json()), time.time())
        )

    def cache_mount(self, identity: str, content: bytes) -> Path:
        def fill(folder: str) -> None:
            Path(folder, "kept").write_bytes(content)

        with self.state.cache_mounts.use(identity, "shared", fill, None) as folder:
            return Path(folder)

    def count(self, table: str) -> int:
        return int(self.state.db.query(f"SELECT count(*) FROM {table}")[0][0])

    def snapshot_ids(self) -> list[int]:
        return [row.id for row in self.state.snapshots.rows()]
