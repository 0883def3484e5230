"""How the images of a Dockerfile are asked for: all at once, in a bounded number of threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stagewright.builder import Builder
from stagewright.errors import NotFoundError
from stagewright.frontend.options import ImageRequest
from stagewright.image.platform import host_platform
from stagewright.options import BuildOptions
from stagewright.progress.reporter import Emitter


def test_many_images_are_asked_for_by_few_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    threads: set[threading.Thread] = set()
    together = threading.Barrier(2)

    def resolve(builder: Builder, request: ImageRequest) -> None:
        name = request.name
        threads.add(threading.current_thread())
        asked.append(name)
        if name in ("image0", "image1"):
            together.wait(10)
        raise NotFoundError(f"{name}: not found")

    monkeypatch.setattr(Builder, "_resolve_one", resolve)
    builder = Builder(BuildOptions(str(tmp_path), root=str(tmp_path)), {}, Emitter(None), threading.Event(), {})
    requests = [ImageRequest(f"image{number}", host_platform(), None) for number in range(500)]
    with pytest.raises(NotFoundError, match="image0: not found"):
        builder.resolve(requests)
    builder.close()
    assert sorted(asked) == sorted(request.name for request in requests)
    assert 2 <= len(threads) <= 16
