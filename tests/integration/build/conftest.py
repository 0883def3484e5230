"""Fixtures: a context to fill and build on the stand-in base images, with a state directory for each test."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Stagewright, StandinImages, runner
from workbench import Workbench, end_builds

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def ended_builds() -> Iterator[None]:
    """No build that a test has started outlives it, also where the test fails."""
    yield
    end_builds()


@pytest.fixture
def builder(standin_images: StandinImages, tmp_path: Path) -> Iterator[Stagewright]:
    """The command line with an empty state directory and the stand-ins as base images."""
    yield from runner(tmp_path / "state", standin_images.config)


@pytest.fixture(scope="module")
def shared_builder(standin_images: StandinImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stagewright]:
    """The same with one state directory for the tests of a module, which then share what they pulled and built."""
    yield from runner(tmp_path_factory.mktemp("shared") / "state", standin_images.config)


@pytest.fixture
def shared_bench(shared_builder: Stagewright, tmp_path: Path) -> Workbench:
    """An empty context, and the command line with the module's state directory."""
    context = tmp_path / "context"
    context.mkdir()
    return Workbench(shared_builder, context)


@pytest.fixture
def bench(builder: Stagewright, tmp_path: Path) -> Workbench:
    """An empty context, and a command line with an empty state directory."""
    context = tmp_path / "context"
    context.mkdir()
    return Workbench(builder, context)


@pytest.fixture
def other(bench: Workbench, standin_images: StandinImages, tmp_path: Path) -> Iterator[Workbench]:
    """The same context on another machine: a state directory that is empty."""
    for machine in runner(tmp_path / "other", standin_images.config):
        yield Workbench(machine, bench.context)


@pytest.fixture
def orphans() -> Iterator[None]:
    """While it lasts, processes whose parents have died become this process's children."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
