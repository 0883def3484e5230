"""Fixtures: a store, a registry for each test, no waits between tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_servers import start_registry

from stagewright.content.blobs import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagewright.registry.session._FIRST_WAIT_S", 0.001)


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an open docker-registry."""
    process, address = start_registry(tmp_path_factory.mktemp("registry"), {})
    yield address
    process.kill()
    process.wait()
