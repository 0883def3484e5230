"""Imported caches: read when the first key is missing here, all at once, and asked whenever a key is."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from stagewright.cache.keys import CachedKey, CachedResult, KeyStore
from stagewright.cancellation import LinkedEvent
from stagewright.content.db import Database
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, PrivilegeNeededError, RegistryError, StagewrightError
from stagewright.progress.reporter import Reporter
from stagewright.records import dataclass
from stagewright.snapshots.lazy import LazyLayers
from stagewright.travel.mounts import descriptors
from stagewright.travel.place import CacheStore
from stagewright.travel.record import CacheMount, CacheRecord, CacheStep

PATIENCE_S = 60.0
_LOOK_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Source:
    """One `--cache-from`: what it is called, what reads it, and the options that lead there from other builds.

    One that gives no answer within `patience_s` is passed over.
    """

    name: str
    store: CacheStore
    place: Mapping[str, str]
    patience_s: float


class Imports:
    """The caches of one build's `--cache-from`. Thread-safe.

    What goes wrong with one is a warning, and the build goes on without it. `vertex` opens a vertex of the progress.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        remote: RemoteBlobs,
        vertex: Callable[[str], AbstractContextManager[Reporter]],
        cancel: threading.Event,
    ) -> None:
        self._sources = sources
        self._remote = remote
        self._vertex = vertex
        self._cancel = cancel
        self._lock = threading.Lock()
        self._records: list[CacheRecord] | None = None
        self._unread: set[str] = set()
        self._steps: dict[str, list[tuple[CacheRecord, CacheStep]]] = {}

    def steps(self, key: str) -> Sequence[tuple[CacheRecord, CacheStep]]:
        """What the caches know of a key, those that were named first at first."""
        self._read()
        return self._steps.get(key, ())

    def sources(self) -> tuple[list[str], list[str]]:
        """What the caches are called that have answered, and those that could not be read."""
        names = [source.name for source in self._sources]
        return [name for name in names if name not in self._unread], [name for name in names if name in self._unread]

    def mount(self, identity: str) -> CacheMount | None:
        """The cache mount of that identity in the first cache that has one."""
        return self.mounts().get(identity)

    def mounts(self) -> dict[str, CacheMount]:
        """All cache mounts by their identities."""
        return {mount.id: mount for record in reversed(self._read()) for mount in reversed(record.mounts)}

    def _read(self) -> Sequence[CacheRecord]:
        with self._lock:
            if self._records is None:
                self._records = self._load_all()
                for record in self._records:
                    for step in record.steps:
                        for key in dict.fromkeys([step.canonical, *step.keys]):
                            self._steps.setdefault(key, []).append((record, step))
            return self._records

    def load_mounts(self) -> dict[str, CacheMount]:
        """As `mounts`, for who wants nothing else of the caches: raises StagewrightError where one cannot be read."""
        found: dict[str, CacheMount] = {}
        for source in self._sources:
            record = self._ask(source)
            self._learn(record, source)
            found = {**{mount.id: mount for mount in record.mounts}, **found}
        return found

    def _learn(self, record: CacheRecord, source: Source) -> None:
        """Note where the blobs of a cache are."""
        layers = dict.fromkeys(layer.known.blob.digest for layer in record.layers)
        for digest in (*layers, *(blob.digest for blob in descriptors(record.mounts))):
            self._remote.add(digest, source.store.fetch, source.place)

    def _load_all(self) -> list[CacheRecord]:
        loaded: list[CacheRecord | None] = [None] * len(self._sources)

        def load(index: int, source: Source) -> None:
            loaded[index] = self._load(source)

        threads = [
            threading.Thread(target=load, args=(index, source), name="cache-import")
            for index, source in enumerate(self._sources)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._cancel.is_set():
            raise CanceledError
        found = []
        for record, source in zip(loaded, self._sources, strict=True):
            if record is not None:
                # In their order, in which they are asked for blobs.
                self._learn(record, source)
                found.append(record)
        return found

    def _load(self, source: Source) -> CacheRecord | None:
        with self._vertex(f"importing cache from {source.name}") as reporter:
            try:
                record = self._ask(source)
                if not record.steps and not record.mounts:
                    reporter.warn(f"the cache {source.name} is of no use: it was exported by another builder")
                return record
            except (CanceledError, PrivilegeNeededError):
                return None  # Whoever asked for the caches finds out.
            except StagewrightError as error:
                detail = (error.hint,) if error.hint else ()
                # A registry says by itself what it was asked for.
                reason = error.message.removeprefix(f"{source.name}: ")
                reporter.warn(f"the cache {source.name} is not used: {reason}", detail=detail)
                self._unread.add(source.name)
                return None

    def _ask(self, source: Source) -> CacheRecord:
        """What a source has. Whoever waits for a server that is silent is left alone with it after a while."""
        stop = LinkedEvent(self._cancel)
        answers: queue.SimpleQueue[CacheRecord | BaseException] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(source.store.load(stop))
            except BaseException as error:
                answers.put(error)

        threading.Thread(target=ask, name="cache-import", daemon=True).start()
        end = time.monotonic() + source.patience_s
        while not self._cancel.is_set():
            try:
                answer = answers.get(timeout=_LOOK_INTERVAL_S)
            except queue.Empty:
                if time.monotonic() < end:
                    continue
                stop.set()
                raise RegistryError(f"there is no answer within {source.patience_s:g} seconds") from None
            if isinstance(answer, BaseException):
                raise answer
            return answer
        raise CanceledError


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
