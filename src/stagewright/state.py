"""The state directory: where it is, and the stores that live in it, opened once each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from stagewright.cache.keys import KeyStore
from stagewright.cache.locks import LockFile
from stagewright.cache.mounts import CacheMounts
from stagewright.content.blobs import BlobStore
from stagewright.content.db import Database
from stagewright.content.images import ImageStore
from stagewright.content.places import BlobPlaces
from stagewright.errors import StoreError
from stagewright.history.archive import Archive
from stagewright.snapshots.store import SnapshotStore

# The file in a state directory whose time of change is that of the last collection of garbage.
COLLECTED = "collected"


def default_root(env: Mapping[str, str]) -> str:
    """`STAGEWRIGHT_ROOT`, else /var/lib/stagewright for root and a folder of the user's data for others."""
    if env.get("STAGEWRIGHT_ROOT"):
        return env["STAGEWRIGHT_ROOT"]
    if os.geteuid() == 0:
        return "/var/lib/stagewright"
    data = env.get("XDG_DATA_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "stagewright")


class State:
    """The stores below `root`; each is opened when it is first used. Raises StoreError where that fails.

    `snapshotter` is how layers are merged, a name of `snapshots.selection.NAMES`.
    """

    def __init__(self, root: str | None, env: Mapping[str, str], snapshotter: str = "auto") -> None:
        self.root = Path(os.path.abspath(root or default_root(env)))
        self._snapshotter = snapshotter

    @cached_property
    def db(self) -> Database:
        return Database(self.root / "metadata.db")

    @cached_property
    def blobs(self) -> BlobStore:
        blobs = BlobStore(self.root / "content")
        blobs.on_new = lambda digest: self.db.unsynced.note("blob", digest)
        return blobs

    @cached_property
    def snapshots(self) -> SnapshotStore:
        return SnapshotStore(self.root / "snapshots", self.db, self._snapshotter)

    @cached_property
    def images(self) -> ImageStore:
        return ImageStore(self.db)

    @cached_property
    def places(self) -> BlobPlaces:
        return BlobPlaces(self.db)

    @cached_property
    def keys(self) -> KeyStore:
        return KeyStore(self.db)

    @cached_property
    def locks(self) -> LockFile:
        self.db  # noqa: B018 - makes the folder
        return LockFile(self.root / "locks")

    @cached_property
    def cache_mounts(self) -> CacheMounts:
        return CacheMounts(self.root / "mounts", self.db, self.locks)

    @cached_property
    def history(self) -> Archive:
        return Archive(self.root / "history", self.locks)

    @property
    def context_indexes(self) -> Path:
        """The folder of the stat indexes of build contexts."""
        return self.root / "contexts"

    @property
    def git_repositories(self) -> Path:
        """The folder of the bare repositories that keep what was fetched from git remotes."""
        return self.root / "git"

    def close(self) -> None:
        try:
            if "snapshots" in self.__dict__:
                self.snapshots.close()
        finally:
            if "db" in self.__dict__:
                if self.db.unsynced.any:
                    self._ask_for_sync()
                self.db.close()

    def _ask_for_sync(self) -> None:
        # What was done is done; the next build asks again.
        with suppress(OSError, StoreError):
            mounts = self.db.unsynced.noted("cache mount")
            self.db.unsynced.ask({name for name in mounts if self.cache_mounts.is_used(name)})
