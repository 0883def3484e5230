"""How the images of a Dockerfile are asked for: all at once, in a bounded number of threads, under whose name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from stagewright.bases import BaseImages
from stagewright.errors import CanceledError, NotFoundError, SourceRange, SourceText
from stagewright.frontend.contexts import NamedContext
from stagewright.frontend.options import BaseImage, ImageRequest
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Manifest
from stagewright.image.platform import host_platform
from stagewright.progress.events import Event, VertexEvent
from stagewright.progress.reporter import Emitter
from stagewright.registry.reference import Reference
from stagewright.sources.image import ImageSource, ResolvedImage

DIGEST = "sha256:" + "1" * 64


def resolved(name: str) -> ResolvedImage:
    manifest = Manifest(Descriptor("", DIGEST, 1), ())
    config = ImageConfig(host_platform())
    return ResolvedImage(Reference.parse(name), Descriptor("", DIGEST, 1), manifest, config, lambda: cast(Any, None))


class FakeImages:
    """An image source that answers by a function."""

    def __init__(self, answer: Callable[[str], ResolvedImage]) -> None:
        self._answer = answer

    def resolve(self, name: str, *rest: object) -> ResolvedImage:
        return self._answer(name)

    def resolve_layout(self, name: str, layout: str, *rest: object) -> ResolvedImage:
        return self._answer(f"{name}:{layout}")


def bases(
    answer: Callable[[str], ResolvedImage], events: list[Event] | None = None, cancel: threading.Event | None = None
) -> BaseImages:
    emitter = Emitter(None if events is None else events.append)
    images = cast(ImageSource, FakeImages(answer))
    return BaseImages(images, lambda name: emitter.vertex(name, name), cancel or threading.Event())


def request(name: str, context: NamedContext | None = None) -> ImageRequest:
    return ImageRequest(name, host_platform(), None, context=context)


def pinned(images: Sequence[BaseImage]) -> list[str]:
    return [image.pinned for image in images]


def test_many_images_are_asked_for_by_few_threads() -> None:
    asked: list[str] = []
    threads: set[threading.Thread] = set()
    together = threading.Barrier(2)

    def answer(name: str) -> ResolvedImage:
        threads.add(threading.current_thread())
        asked.append(name)
        if name in ("image0", "image1"):
            together.wait(10)
        raise NotFoundError(f"{name}: not found")

    requests = [request(f"image{number}") for number in range(500)]
    with pytest.raises(NotFoundError, match="image0: not found"):
        bases(answer).resolve(requests)
    assert sorted(asked) == sorted(item.name for item in requests)
    assert 2 <= len(threads) <= 16


def test_images_are_pinned_in_the_order_of_the_requests() -> None:
    images = bases(resolved)
    assert pinned(images.resolve([request("b"), request("a:1"), request(f"c@{DIGEST}")])) == [
        f"docker.io/library/b:latest@{DIGEST}",
        f"docker.io/library/a:1@{DIGEST}",
        f"docker.io/library/c@{DIGEST}",
    ]
    assert images.names[:2] == ("docker.io/library/b:latest", "docker.io/library/a:1")


def test_work_for_named_contexts_is_named_after_them() -> None:
    events: list[Event] = []
    images = bases(resolved, events)
    image, layout = NamedContext("base", "image", "app:1"), NamedContext("other::linux/amd64", "layout", "dir")
    assert pinned(images.resolve([request("plain"), request("app:1", image), request("", layout)])) == [
        f"docker.io/library/plain:latest@{DIGEST}",
        f"docker.io/library/app:1@{DIGEST}",
        f"docker.io/library/other:dir@{DIGEST}",
    ]
    assert {event.name for event in events if isinstance(event, VertexEvent)} == {
        "[internal] load metadata for docker.io/library/plain:latest",
        "[context base] load metadata for app:1",
        "[context other::linux/amd64] load metadata for other",
    }
    # No registry has what a layout has.
    assert images.names == ("docker.io/library/plain:latest", "docker.io/library/app:1")


def test_an_error_gets_the_place_and_the_hint_of_its_request() -> None:
    def answer(name: str) -> ResolvedImage:
        raise NotFoundError("not found", hint="own")

    place = SourceRange(SourceText("Dockerfile", "FROM a"), 1, 1)
    with pytest.raises(NotFoundError) as caught:
        bases(answer).resolve([ImageRequest("a", host_platform(), place, "did you mean b?")])
    assert (caught.value.location, caught.value.hint) == (place, "did you mean b?")


def test_a_canceled_build_asks_for_nothing() -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CanceledError):
        bases(resolved, cancel=cancel).resolve([request("a")])
