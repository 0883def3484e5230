"""Imported caches: read when the first key is missing here, all at once, and asked whenever a key is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from stagewright.cache.keys import CachedKey, CachedResult, KeyStore
from stagewright.content.db import Database
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, PrivilegeNeededError, StagewrightError
from stagewright.progress.reporter import Reporter
from stagewright.snapshots.lazy import LazyLayers
from stagewright.travel.mounts import descriptors
from stagewright.travel.place import CacheStore
from stagewright.travel.record import CacheMount, CacheRecord, CacheStep


class Imports:
    """The caches of one build's `--cache-from`, by what they are called. Thread-safe.

    What goes wrong with one is a warning, and the build goes on without it. `vertex` opens a vertex of the progress.
    """

    def __init__(
        self,
        stores: Mapping[str, CacheStore],
        remote: RemoteBlobs,
        vertex: Callable[[str], AbstractContextManager[Reporter]],
        cancel: threading.Event,
    ) -> None:
        self._stores = stores
        self._remote = remote
        self._vertex = vertex
        self._cancel = cancel
        self._lock = threading.Lock()
        self._records: list[tuple[CacheRecord, CacheStore]] | None = None
        self._steps: dict[str, list[tuple[CacheRecord, CacheStep]]] = {}

    def steps(self, key: str) -> Sequence[tuple[CacheRecord, CacheStep]]:
        """What the caches know of a key, those that were named first at first."""
        self._read()
        return self._steps.get(key, ())

    def mount(self, identity: str) -> CacheMount | None:
        """The cache mount of that identity in the first cache that has one."""
        return self.mounts().get(identity)

    def mounts(self) -> dict[str, CacheMount]:
        """All cache mounts by their identities."""
        return {mount.id: mount for record, _ in reversed(self._read()) for mount in reversed(record.mounts)}

    def _read(self) -> Sequence[tuple[CacheRecord, CacheStore]]:
        with self._lock:
            if self._records is None:
                self._records = self._load_all()
                for record, store in self._records:
                    self._learn(record, store)
                    for step in record.steps:
                        for key in dict.fromkeys([step.canonical, *step.keys]):
                            self._steps.setdefault(key, []).append((record, step))
            return self._records

    def load_mounts(self) -> dict[str, CacheMount]:
        """As `mounts`, for who wants nothing else of the caches: raises StagewrightError where one cannot be read."""
        found: dict[str, CacheMount] = {}
        for store in self._stores.values():
            record = store.load(self._cancel)
            self._learn(record, store)
            found = {**{mount.id: mount for mount in record.mounts}, **found}
        return found

    def _learn(self, record: CacheRecord, store: CacheStore) -> None:
        """Note where the blobs of a cache are."""
        for layer in record.layers:
            self._remote.add(layer.known.blob.digest, store.fetch)
        for blob in descriptors(record.mounts):
            self._remote.add(blob.digest, store.fetch)

    def _load_all(self) -> list[tuple[CacheRecord, CacheStore]]:
        loaded: list[CacheRecord | None] = [None] * len(self._stores)

        def load(index: int, name: str, store: CacheStore) -> None:
            loaded[index] = self._load(name, store)

        threads = [
            threading.Thread(target=load, args=(index, name, store), name="cache-import")
            for index, (name, store) in enumerate(self._stores.items())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._cancel.is_set():
            raise CanceledError
        stores = self._stores.values()
        return [(record, store) for record, store in zip(loaded, stores, strict=True) if record is not None]

    def _load(self, name: str, store: CacheStore) -> CacheRecord | None:
        with self._vertex(f"importing cache from {name}") as reporter:
            try:
                return store.load(self._cancel)
            except (CanceledError, PrivilegeNeededError):
                return None  # Whoever asked for the caches finds out.
            except StagewrightError as error:
                detail = (error.hint,) if error.hint else ()
                reporter.warn(f"the cache {name} is not used: {error.message}", detail=detail)
                return None


class ImportingKeys(KeyStore):
    """Keys and results of the store, and where it has none those of imported caches."""

    def __init__(self, db: Database, imports: Imports, lazy: LazyLayers) -> None:
        super().__init__(db)
        self._imports = imports
        self._lazy = lazy
        self.obtainable = lazy.obtainable

    def lookup(self, key: str) -> CachedKey | None:
        """See `KeyStore`. What is found in an imported cache is the store's own from now on, but for its files."""
        found = super().lookup(key)
        if found is not None and found.result is not None:
            return found
        known = self._imports.steps(found.canonical) if found is not None else ()
        for record, step in (*known, *self._imports.steps(key)):
            if not step.has_result:
                if found is None:
                    # As if the result had been pruned: what is built on it may be there.
                    self.link(key, step.canonical)
                    found = CachedKey(step.canonical, None)
                continue
            snapshot = self._lazy.add(record.chain(step.layer))
            if snapshot is None or self._lazy.obtainable(snapshot):
                self.save(list({key, step.canonical}), step.canonical, snapshot, step.name)
                return CachedKey(step.canonical, CachedResult(snapshot))
        return found
