"""The missing layers of an image: downloaded and unpacked at once, several at a time, and made snapshots in order.

A layer is unpacked while it arrives, aside and without regard to those below it, which most layers do not need. It
becomes a snapshot when three things are certain: the blob is what its digest says, its contents are what the diff ID
says, and the layer below has become one. What does not get there leaves nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stagewright.cancellation import LinkedEvent
from stagewright.content.blobs import BlobStore
from stagewright.errors import CanceledError, IntegrityError, StagewrightError, StoreError, system_reason
from stagewright.image.descriptor import Descriptor
from stagewright.progress.reporter import Reporter
from stagewright.records import dataclass, replace
from stagewright.snapshots.compress import LayerBlob
from stagewright.snapshots.layers import LayerBlobs
from stagewright.snapshots.store import Draft, SnapshotStore
from stagewright.snapshots.tarreader import Readable
from stagewright.snapshots.tree import copy_metadata
from stagewright.snapshots.unpack import apply

_DOWNLOADS_AT_ONCE = 4
_MAX_UNPACKS_AT_ONCE = 4

Fetch = Callable[[Descriptor, Callable[[int, int], None], threading.Event], None]
"""Brings a layer into the blob store unless it is there; the callback is told the bytes done and in all."""


@dataclass(frozen=True, slots=True)
class WantedLayer:
    """A layer that is to become a snapshot: its blob, its diff ID, and the chain ID of all layers up to it."""

    blob: Descriptor
    diff_id: str
    chain_id: str


class Pull:
    """Pulls the layers of one image, the bottom one first, onto the snapshot `parent`."""

    def __init__(
        self,
        blobs: BlobStore,
        snapshots: SnapshotStore,
        layers: LayerBlobs,
        fetch: Fetch,
        reporter: Reporter,
        cancel: threading.Event,
    ) -> None:
        self._blobs = blobs
        self._snapshots = snapshots
        self._layers = layers
        self._reporter = reporter
        self._fetch = fetch
        # Set once the build is canceled, and when a layer has failed: then none of the others is of use.
        self._stop = LinkedEvent(cancel)

    def run(self, wanted: Sequence[WantedLayer], parent: int | None) -> int | None:
        """The snapshot of all the layers. Raises what kept one from becoming a part of it."""
        downloads = _Downloads([layer.blob for layer in wanted], self._fetch_one, self._stop)
        # What each layer stands on, as soon as that is there.
        below: list[Future[int | None]] = [Future() for _ in range(len(wanted) + 1)]
        below[0].set_result(parent)
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_UNPACKS_AT_ONCE, len(wanted)), "layer-unpack")
        unpacked = [
            pool.submit(self._unpack, layer, downloads, under) for layer, under in zip(wanted, below[:-1], strict=True)
        ]
        try:
            for number, layer in enumerate(wanted):
                below[number + 1].set_result(self._commit(unpacked[number].result(), layer, below[number].result()))
            return below[-1].result()
        except CanceledError:
            downloads.check()
            raise
        finally:
            self._stop.set()
            for future in below:
                if not future.done():
                    future.set_exception(CanceledError())
            downloads.close()
            pool.shutdown(cancel_futures=True)
            for unpacking in unpacked:
                if not unpacking.cancelled() and unpacking.exception() is None:
                    draft = unpacking.result()
                    if draft is not None:
                        self._snapshots.discard(draft)

    def _fetch_one(self, layer: Descriptor, begun: threading.Event) -> None:
        if self._blobs.has(layer.digest, layer.size):
            return
        with self._reporter.status(layer.digest, layer.size) as row:

            def progress(current: int, total: int) -> None:
                row.update(current, total)
                begun.set()

            self._fetch(layer, progress, self._stop)

    def _unpack(self, layer: WantedLayer, downloads: _Downloads, below: Future[int | None]) -> Draft | None:
        """The layer's draft, complete and verified; None where another build has made a snapshot of it."""
        if self._snapshots.by_chain(layer.chain_id) is not None:
            return None
        downloads.wait_for_begin(layer.blob)
        with self._reporter.status(f"extracting {layer.blob.digest}", layer.blob.size) as row:

            def attempt(stream: Readable) -> Draft:
                return self._apply(stream, layer, row.update, lambda: self._snapshots.lowers(below.result()))

            has_come = self._blobs.has(layer.blob.digest, layer.blob.size)
            tail = None if has_come else self._blobs.follow(layer.blob.digest)
            if tail is not None:
                try:
                    with tail:
                        return attempt(tail)
                except StagewrightError:
                    # The download may have broken off, and either has failed then or begun anew.
                    pass
            downloads.wait(layer.blob)
            try:
                with self._blobs.open(layer.blob.digest) as stream:
                    return attempt(stream)
            except IntegrityError:
                if not self._blobs.discard_damaged(layer.blob.digest):
                    raise  # The image itself is wrong.
                # It was whole when it came: the disk has damaged it since.
                self._fetch_one(layer.blob, threading.Event())
                with self._blobs.open(layer.blob.digest) as stream:
                    return attempt(stream)

    def _apply(
        self,
        stream: Readable,
        layer: WantedLayer,
        report: Callable[[int], None],
        lowers: Callable[[], tuple[str, ...]],
    ) -> Draft:
        draft = self._snapshots.prepare(None)
        try:

            def progress(count: int) -> None:
                if self._stop.is_set():
                    raise CanceledError
                report(count)

            apply(stream, draft, lowers, layer.diff_id, progress)
        except BaseException:
            self._snapshots.discard(draft)
            raise
        return draft

    def _commit(self, unpacked: Draft | None, layer: WantedLayer, parent: int | None) -> int:
        known = self._snapshots.by_chain(layer.chain_id)
        if known is not None:
            return known
        assert unpacked is not None
        draft = replace(unpacked, parent=parent)
        lowers = self._snapshots.lowers(parent)
        try:
            if lowers:
                copy_metadata(lowers[0], draft.fs)
        except OSError as error:
            raise StoreError(f"cannot unpack layer {layer.blob.digest}: {system_reason(error)}") from error
        snapshot = self._snapshots.commit_layer(draft, layer.chain_id)
        blob = layer.blob
        self._layers.record_pulled(snapshot, LayerBlob(blob.media_type, blob.digest, blob.size, layer.diff_id))
        return snapshot


class _Downloads:
    """Layers that download in threads, a few at once, in their order. Once `stop` is set no more are started.

    `fetch` gets a layer, and an event to set when its first bytes are there.
    """

    def __init__(
        self, layers: Sequence[Descriptor], fetch: Callable[[Descriptor, threading.Event], None], stop: threading.Event
    ) -> None:
        self._layers = {layer.digest: layer for layer in layers}
        self._queue = list(reversed(self._layers))
        self._begun = {digest: threading.Event() for digest in self._queue}
        self._done = {digest: threading.Event() for digest in self._queue}
        self._fetch = fetch
        self._stop = stop
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        count = min(_DOWNLOADS_AT_ONCE, len(self._queue))
        self._threads = [threading.Thread(target=self._work, name="layer-download", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (layer := self._next()) is not None:
            try:
                self._fetch(layer, self._begun[layer.digest])
            except BaseException as error:
                self._fail(error)
                return
            self._done[layer.digest].set()
            self._begun[layer.digest].set()
        if self._stop.is_set():
            self._fail(CanceledError())

    def _next(self) -> Descriptor | None:
        with self._lock:
            if self._stop.is_set() or not self._queue:
                return None
            return self._layers[self._queue.pop()]

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self._stop.set()
        for event in (*self._done.values(), *self._begun.values()):
            event.set()

    def wait_for_begin(self, layer: Descriptor) -> None:
        """Return when the layer's first bytes, or all of them, are there."""
        self._begun[layer.digest].wait()

    def wait(self, layer: Descriptor) -> None:
        """Return when the layer's blob is there; raises what kept a download from succeeding."""
        self._done[layer.digest].wait()
        self.check()

    def check(self) -> None:
        """Raise what kept a download from succeeding, if one has failed."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait for the downloads that run."""
        for thread in self._threads:
            thread.join()
