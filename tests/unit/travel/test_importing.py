"""Imported caches: asked at once, merged in their order, and none that fails or is silent keeps a build waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stagewright.content.blobs import BlobStore
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, RegistryError
from stagewright.image import mediatypes
from stagewright.progress.events import Event, VertexEvent, WarningEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.snapshots.compress import LayerBlob
from stagewright.snapshots.lazy import KnownLayer
from stagewright.travel.importing import Imports, Source
from stagewright.travel.record import CacheLayer, CacheRecord, CacheStep


def record(letter: str) -> CacheRecord:
    blob = LayerBlob(mediatypes.OCI_LAYER_GZIP, f"sha256:{letter * 64}", 1, f"sha256:{letter * 64}")
    return CacheRecord((CacheLayer(KnownLayer(blob, "gzip"), None),), (CacheStep("c:1", ("d:1",), letter, layer=0),))


class Store:
    """A place that answers as it is told to; the others of a build are asked at the same time."""

    def __init__(self, answer: CacheRecord | Exception | threading.Event, meeting: threading.Barrier | None = None):
        self.answer = answer
        self.meeting = meeting

    def load(self, cancel: threading.Event) -> CacheRecord:
        if self.meeting is not None:
            self.meeting.wait()
        if isinstance(self.answer, threading.Event):
            self.answer.wait()
            return CacheRecord()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def fetch(self, *arguments: object) -> None:
        """Never asked for here."""


def imports(
    folder: Path, *stores: Store, patience_s: float = 60, cancel: threading.Event | None = None
) -> tuple[Imports, list[Event], RemoteBlobs]:
    events: list[Event] = []
    emitter = Emitter(events.append)

    @contextmanager
    def vertex(name: str) -> Iterator[Reporter]:
        yield Reporter(emitter, VertexEvent(f"sha256:{name}", name))

    remote = RemoteBlobs(BlobStore(folder))
    sources = [
        Source(f"cache {number}", store, {"number": str(number)}, patience_s)  # type: ignore[arg-type]
        for number, store in enumerate(stores)
    ]
    return Imports(sources, remote, vertex, cancel or threading.Event()), events, remote


def warned(events: list[Event]) -> list[str]:
    return sorted(event.short for event in events if isinstance(event, WarningEvent))


def test_all_are_asked_at_once_and_what_was_named_first_comes_first(tmp_path: Path) -> None:
    meeting = threading.Barrier(3)
    stores = (Store(record("a"), meeting), Store(RegistryError("broken"), meeting), Store(record("b"), meeting))
    found, events, remote = imports(tmp_path, *stores)
    assert [step.name for _, step in found.steps("d:1")] == ["a", "b"]
    assert warned(events) == ["the cache cache 1 is not used: broken"]
    assert remote.places(f"sha256:{'b' * 64}") == [{"number": "2"}]
    assert found.steps("d:2") == ()


def test_one_that_is_silent_is_passed_over(tmp_path: Path) -> None:
    silent = threading.Event()
    found, events, _ = imports(tmp_path, Store(silent), Store(record("b")), patience_s=0.01)
    assert [step.name for _, step in found.steps("c:1")] == ["b"]
    assert warned(events) == ["the cache cache 0 is not used: there is no answer within 0.01 seconds"]
    silent.set()


def test_a_cancel_ends_the_wait(tmp_path: Path) -> None:
    silent, cancel = threading.Event(), threading.Event()
    cancel.set()
    found, events, _ = imports(tmp_path, Store(silent), cancel=cancel)
    with pytest.raises(CanceledError):
        found.steps("c:1")
    assert warned(events) == []
    silent.set()


def test_one_of_another_builder_is_told_of(tmp_path: Path) -> None:
    found, events, _ = imports(tmp_path, Store(CacheRecord()))
    assert found.steps("c:1") == ()
    assert warned(events) == ["the cache cache 0 is of no use: it was exported by another builder"]
