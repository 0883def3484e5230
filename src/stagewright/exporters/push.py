"""Pushing an image that is in the store, and showing how far that is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from stagewright.exporters.result import Services
from stagewright.image.descriptor import Descriptor
from stagewright.progress.reporter import Reporter, Status
from stagewright.registry.reference import Reference


def push(
    services: Services,
    reference: Reference,
    descriptor: Descriptor,
    bases: Iterable[str],
    reporter: Reporter,
    *,
    insecure: bool,
) -> None:
    """Push an image under a name, or under its digest where the name has no tag.

    `bases` are names of images whose repositories may have some of the blobs already. With `insecure` the registry may
    speak HTTP, or TLS with a certificate that nobody vouches for. Raises what the registry client raises.
    """
    from stagewright.registry.transfer import push_image

    sources = [Reference.parse(name) for name in bases]
    mount_from = [source.path for source in sources if source.domain == reference.domain]
    client = services.client()
    progress = _Progress(reporter, f"pushing manifest for {reference}@{descriptor.digest}")
    push_image(
        client.trusting(reference.domain) if insecure else client,
        reference,
        descriptor,
        services.blobs,
        mount_from=tuple(dict.fromkeys(mount_from)),
        open_blob=services.open_blob,
        progress=progress.report,
        cancel=services.cancel,
    )
    progress.end()


class _Progress:
    """Two rows: the bytes of all layers, and from then on the manifest."""

    def __init__(self, reporter: Reporter, manifest: str) -> None:
        self._reporter = reporter
        self._manifest = manifest
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[int, int]] = {}
        self._layers = Status(reporter, "pushing layers", 0, time.time())
        self._layers.update(0)

    def report(self, blob: Descriptor, current: int, total: int) -> None:
        with self._lock:
            self._blobs[blob.digest] = (current, total)
            done = sum(entry[0] for entry in self._blobs.values())
            self._layers.update(done, sum(entry[1] for entry in self._blobs.values()))

    def end(self) -> None:
        self._layers.done()
        with self._reporter.status(self._manifest):
            pass
