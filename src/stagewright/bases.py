"""The images of one build: what the names in FROM, COPY and RUN mean now, asked for as good as all at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from stagewright.errors import CanceledError, StagewrightError
from stagewright.frontend.options import BaseImage, ImageRequest
from stagewright.progress.reporter import Reporter
from stagewright.registry.reference import Reference
from stagewright.sources.image import ImageSource, ResolvedImage

_RESOLVED_AT_ONCE = 16


class BaseImages:
    """Resolves images. `vertex` opens a vertex of its own in the progress, by name.

    `names` are those of the registries' images that were resolved, in full.
    """

    def __init__(
        self,
        images: ImageSource,
        vertex: Callable[[str], AbstractContextManager[Reporter]],
        cancel: threading.Event,
    ) -> None:
        self._images = images
        self._vertex = vertex
        self._cancel = cancel
        self.names: tuple[str, ...] = ()

    def resolve(self, requests: Sequence[ImageRequest]) -> list[BaseImage]:
        """What the names mean now, as good as all asked for at once."""
        results: list[ResolvedImage | BaseException | None] = [None] * len(requests)
        waiting = iter(range(len(requests)))

        def resolve() -> None:
            for index in waiting:
                try:
                    results[index] = self._resolve_one(requests[index])
                except BaseException as error:
                    results[index] = error

        threads = [threading.Thread(target=resolve) for _ in range(min(len(requests), _RESOLVED_AT_ONCE) - 1)]
        for thread in threads:
            thread.start()
        resolve()
        for thread in threads:
            thread.join()
        bases = []
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, BaseException):
                if isinstance(result, StagewrightError):
                    result.location = result.location or request.location
                    result.hint = request.hint or result.hint
                raise result
            assert result is not None
            pinned = str(result.reference.with_digest(result.manifest_descriptor.digest))
            bases.append(BaseImage(pinned, result.config))
            if request.context is None or request.context.kind != "layout":
                self.names += (str(result.reference),)
        return bases

    def _resolve_one(self, request: ImageRequest) -> ResolvedImage:
        if self._cancel.is_set():
            raise CanceledError
        context = request.context
        if context is not None and context.kind == "layout":
            name = context.name.partition("::")[0]
            with self._vertex(context.shown(f"load metadata for {name}")):
                return self._images.resolve_layout(name, context.value, request.platform, self._cancel)
        reference = Reference.parse(request.name)
        name = f"[internal] load metadata for {reference}"
        if context is not None:
            name = context.shown(f"load metadata for {request.name}")
        with self._vertex(name) as reporter:
            return self._images.resolve(request.name, request.platform, reporter, self._cancel)
