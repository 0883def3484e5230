"""What every place of caches can do, however it keeps them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from stagewright.content.blobs import BlobStore
from stagewright.content.remote import Progress
from stagewright.image.descriptor import Descriptor
from stagewright.travel.record import CacheRecord


class CacheStore(Protocol):
    """A place of caches. Its methods may be called from several threads, and raise StagewrightError."""

    def load(self, cancel: threading.Event) -> CacheRecord:
        """Read what is there, without the blobs. Raises NotFoundError where there is nothing."""

    def fetch(
        self, blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
    ) -> None:
        """Bring a blob into the store, verified."""

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], cancel: threading.Event) -> None:
        """Have a blob there; `open_blob` gives its bytes, and is called only where they must be sent."""

    def publish(
        self, record: CacheRecord, blobs: Sequence[Descriptor], cancel: threading.Event
    ) -> Descriptor | None:
        """Let the place lead to this cache from now on; the blobs, all that it needs, have been put there.

        Answers what leads to the cache where that is a manifest or an index.
        """
