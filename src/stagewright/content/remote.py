"""Blobs that are not in the store but can be fetched: where each of them is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, LostLayerError, NotFoundError, RegistryError, StagewrightError
from stagewright.image.descriptor import Descriptor

Progress = Callable[[int, int], None]
# The options of a --cache-from, as content/places.py keeps them.
Place = Mapping[str, str]


class Fetch(Protocol):
    """Brings a blob into the store, verified against its descriptor; raises StagewrightError."""

    def __call__(
        self, blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
    ) -> None: ...


class RemoteBlobs:
    """Which blobs can be fetched from where. Thread-safe; two threads that want one blob fetch it once.

    `noted` answers the places that earlier builds have noted of a blob, by its digest.
    """

    def __init__(self, store: BlobStore, noted: Callable[[str], Sequence[Fetch]] = lambda digest: ()) -> None:
        self._store = store
        self._noted = noted
        self._sources: dict[str, list[tuple[Fetch, Place]]] = {}
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    def add(self, digest: str, fetch: Fetch, place: Place) -> None:
        """Note a place of a blob; places are asked in the order in which they came, before those of earlier builds."""
        with self._lock:
            self._sources.setdefault(digest, []).append((fetch, place))

    def places(self, digest: str) -> list[Place]:
        """The places of a blob that this build has come to know."""
        return [place for _, place in self._sources.get(digest, ())]

    def has(self, digest: str) -> bool:
        """Whether the blob is in the store, or has a place that it can be fetched from."""
        return digest in self._sources or self._store.has(digest) or bool(self._noted(digest))

    def fetch(self, blob: Descriptor, progress: Progress | None = None, cancel: threading.Event | None = None) -> None:
        """Have a blob in the store. Raises LostLayerError where no place gives it, and CanceledError."""
        with self._lock:
            fetching = self._fetching.setdefault(blob.digest, threading.Lock())
        with fetching:
            if self._store.has(blob.digest, blob.size):
                return None
            reasons: list[StagewrightError] = []
            known = [fetch for fetch, _ in self._sources.get(blob.digest, ())]
            for fetch in (*known, *self._noted(blob.digest)):
                try:
                    return fetch(blob, self._store, progress, cancel)
                except (NotFoundError, RegistryError, IntegrityError) as error:
                    reasons.append(error)
        said = "; ".join(dict.fromkeys(error.message for error in reasons)) or "no place is known that has it"
        raise LostLayerError(f"layer {blob.digest} is not in the store and cannot be fetched: {said}")
