"""What the witnesses share: a Docker engine that has the stand-ins, and Stagewright without package settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker_engine import Engine, running_engine
from harness import Stagewright, StandinImages, is_root_of_machine

BASES = ("busybox:latest", "debian:trixie-slim")


@pytest.fixture(scope="session")
def engine(standin_images: StandinImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Docker engine that has the base images under their usual names."""
    if not is_root_of_machine():
        pytest.skip("needs root: dockerd makes control groups")
    with running_engine(tmp_path_factory.mktemp("engine") / "docker") as started:
        for base in BASES:
            mirrored = f"{standin_images.address}/docker.io/library/{base}"
            started.docker("pull", "--quiet", mirrored)
            started.docker("tag", mirrored, base)
        yield started


@pytest.fixture(scope="module")
def builder(standin_stagewright: Stagewright) -> Stagewright:
    """The command line with the stand-ins as base images, and nothing given to builds but what a test gives."""
    return replace(standin_stagewright, build_flags=())


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty build context."""
    folder = tmp_path / "context"
    folder.mkdir()
    return folder
