"""Blobs of stored images that are where earlier builds have left them: in a cache, or where the image was pushed to."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from stagewright.content.blobs import BlobStore
from stagewright.content.places import BlobPlaces
from stagewright.content.remote import Fetch, Progress, RemoteBlobs
from stagewright.errors import NotFoundError, UsageError
from stagewright.image.descriptor import Descriptor
from stagewright.options import Cache
from stagewright.registry.reference import Reference
from stagewright.travel.opening import Opener
from stagewright.travel.options import parse_import
from stagewright.travel.place import CacheStore

_AT_ONCE = 4


class Whereabouts:
    """Fetches such blobs. `env` has what servers are asked with; `offline` knows of none.

    Its methods may be called from several threads.
    """

    def __init__(self, places: BlobPlaces, opener: Opener, env: Mapping[str, str], *, offline: bool = False) -> None:
        self._places = places
        self._opener = opener
        self._env = env
        self._offline = offline
        self._lock = threading.Lock()
        self._opened: dict[tuple[tuple[str, str], ...], CacheStore] = {}

    def of(self, digest: str) -> list[Fetch]:
        """What fetches a blob from each place that it is known to be in."""
        places = self._places.of(digest)
        return [self._fetch_from(place) for place in places if place["type"] == "local" or not self._offline]

    def bring(self, wanted: Iterable[Descriptor], store: BlobStore) -> None:
        """Have blobs in the store, a few at once. Raises LostLayerError for one that no place gives."""
        from concurrent.futures import ThreadPoolExecutor

        remote = RemoteBlobs(store, self.of)
        with ThreadPoolExecutor(_AT_ONCE, "layer-download") as pool:
            for done in [pool.submit(remote.fetch, blob) for blob in wanted]:
                done.result()

    def repositories(self, digests: Iterable[str], domain: str) -> tuple[str, ...]:
        """The paths of a registry's repositories that have some of these blobs."""
        found: dict[str, None] = {}
        for place in (place for digest in digests for place in self._places.of(digest)):
            if place["type"] == "registry" and (name := Reference.parse(place["ref"])).domain == domain:
                found[name.path] = None
        return tuple(found)

    def _fetch_from(self, options: dict[str, str]) -> Fetch:
        def fetch(
            blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
        ) -> None:
            self._open(options).fetch(blob, store, progress, cancel)

        return fetch

    def _open(self, options: dict[str, str]) -> CacheStore:
        """What reads in a place, which is opened once. Raises NotFoundError for a server that this build cannot ask."""
        key = tuple(sorted(options.items()))
        with self._lock:
            if key not in self._opened:
                attrs = {name: text for name, text in key if name != "type"}
                try:
                    place = parse_import(Cache(options["type"], attrs), self._env)
                except UsageError as error:
                    # Its credentials were those of the build that has left the blob there.
                    raise NotFoundError(error.message, hint=error.hint) from error
                self._opened[key] = self._opener.open(place)
            return self._opened[key]
