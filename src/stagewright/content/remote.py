"""Blobs that are not in the store but can be fetched: where each of them is, as long as one build runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, LostLayerError, NotFoundError, RegistryError, StagewrightError
from stagewright.image.descriptor import Descriptor

Progress = Callable[[int, int], None]


class Fetch(Protocol):
    """Brings a blob into the store, verified against its descriptor; raises StagewrightError."""

    def __call__(
        self, blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
    ) -> None: ...


class RemoteBlobs:
    """Which blobs can be fetched from where. Thread-safe; two threads that want one blob fetch it once."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._sources: dict[str, list[Fetch]] = {}
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    def add(self, digest: str, fetch: Fetch) -> None:
        """Note a place of a blob; places are asked in the order in which they came."""
        with self._lock:
            self._sources.setdefault(digest, []).append(fetch)

    def has(self, digest: str) -> bool:
        """Whether the blob is in the store, or has a place that it can be fetched from."""
        return digest in self._sources or self._store.has(digest)

    def fetch(self, blob: Descriptor, progress: Progress | None = None, cancel: threading.Event | None = None) -> None:
        """Have a blob in the store. Raises LostLayerError where no place gives it, and CanceledError."""
        with self._lock:
            fetching = self._fetching.setdefault(blob.digest, threading.Lock())
        with fetching:
            if self._store.has(blob.digest, blob.size):
                return None
            reasons: list[StagewrightError] = []
            for fetch in self._sources.get(blob.digest, ()):
                try:
                    return fetch(blob, self._store, progress, cancel)
                except (NotFoundError, RegistryError, IntegrityError) as error:
                    reasons.append(error)
        said = "; ".join(dict.fromkeys(error.message for error in reasons)) or "no place is known that has it"
        raise LostLayerError(f"layer {blob.digest} of an imported cache cannot be fetched: {said}")
