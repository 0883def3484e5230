"""Pushing an image while it is made, and showing how far that is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import TracebackType

from stagewright.exporters.result import Services
from stagewright.image.descriptor import Descriptor
from stagewright.progress.reporter import Reporter, Status
from stagewright.registry.reference import Reference


class Push:
    """The push of an image to the repository of `reference`. Used as a context manager.

    `bases` are names of images whose repositories may have some of the blobs already. With `insecure` the registry may
    speak HTTP, or TLS with a certificate that nobody vouches for. Raises what the registry client raises.
    """

    def __init__(
        self, services: Services, reference: Reference, bases: Iterable[str], reporter: Reporter, *, insecure: bool
    ) -> None:
        from stagewright.registry.transfer import ImagePush

        sources = [Reference.parse(name) for name in bases]
        mount_from = [source.path for source in sources if source.domain == reference.domain]
        client = services.client()
        self._progress = _Progress(reporter)
        self._image = ImagePush(
            client.trusting(reference.domain) if insecure else client,
            reference,
            services.blobs,
            mount_from=tuple(dict.fromkeys(mount_from)),
            open_blob=services.open_blob,
            progress=self._progress.report,
            cancel=services.cancel,
        )

    def __enter__(self) -> Push:
        self._image.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._image.__exit__(kind, error, tb)

    def begin(self, layer: Descriptor) -> None:
        """Push a layer while others are made."""
        self._image.begin(layer)

    def finish(self, target: Reference, descriptor: Descriptor) -> None:
        """Push what is left of the image, under a name or under its digest where the name has no tag."""
        self._image.finish(target, descriptor)
        self._progress.end(f"pushing manifest for {target}@{descriptor.digest}")


class _Progress:
    """Two rows: the bytes of all layers, and from then on the manifest."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[int, int]] = {}
        self._layers: Status | None = None

    def report(self, blob: Descriptor, current: int, total: int) -> None:
        with self._lock:
            self._blobs[blob.digest] = (current, total)
            if self._layers is None:
                self._layers = Status(self._reporter, "pushing layers", 0, time.time())
            done = sum(entry[0] for entry in self._blobs.values())
            self._layers.update(done, sum(entry[1] for entry in self._blobs.values()))

    def end(self, manifest: str) -> None:
        if self._layers is not None:
            self._layers.done()
        with self._reporter.status(manifest):
            pass
