"""A stand-in for `stagewright.api` that records what the commands ask of it and answers what a test has set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

import stagewright
from stagewright.options import StepLimits


@dataclass(frozen=True)
class SecretSource:
    id: str
    path: str | None = None
    env: str | None = None
    data: bytes | None = None


@dataclass(frozen=True)
class SshSource:
    id: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    type: str
    dest: str | None = None
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildResult:
    digest: str | None = "sha256:" + "d" * 64
    config_digest: str | None = "sha256:" + "c" * 64

    def metadata(self) -> dict[str, Any]:
        return {"image.name": "app", "containerimage.digest": self.digest}


@dataclass(frozen=True)
class ImageInfo:
    name: str = "app:latest"
    digest: str = "sha256:" + "d" * 64
    config_digest: str = "sha256:" + "c" * 64
    created: float | None = 0.0
    size: int = 1_050_000
    platform: str = "linux/amd64"


@dataclass(frozen=True)
class UsageRow:
    kind: str
    id: str
    size: int
    created: float | None = None
    last_used: float | None = None
    in_use: bool = False
    description: str = ""
    shared: bool = False
    parent: str | None = None

    @property
    def reclaimable(self) -> bool:
        return not self.in_use


@dataclass(frozen=True)
class PruneReport:
    reclaimed: int
    rows: tuple[UsageRow, ...]
    busy: bool = False


class FakeLibrary(ModuleType):
    """The module; `calls` holds (name, arguments), `answers` the results by name (a callable is called)."""

    def __init__(self) -> None:
        super().__init__("stagewright.api")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers: dict[str, Any] = {"build": BuildResult()}
        for kind in (SecretSource, SshSource, StepLimits, Output, Cache, BuildResult, ImageInfo, UsageRow, PruneReport):
            setattr(self, kind.__name__, kind)
        self.Store = lambda **where: FakeStore(self, where)

    def build(self, **request: Any) -> Any:
        return self.answer("build", **request)

    def call(self, **request: Any) -> Any:
        return self.answer("call", **request)

    def answer(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((name, args, kwargs))
        answer = self.answers.get(name)
        return answer(*args, **kwargs) if callable(answer) else answer

    @property
    def request(self) -> dict[str, Any]:
        """The keyword arguments of the last build."""
        return self.calls[-1][2]


class FakeStore:
    def __init__(self, library: FakeLibrary, where: dict[str, Any]) -> None:
        self._library = library
        library.calls.append(("Store", (), where))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._library.answer(name, *args, **kwargs)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    monkeypatch.setitem(sys.modules, "stagewright.api", fake)
    monkeypatch.setattr(stagewright, "api", fake, raising=False)
    # It binds the types of the library when it is imported.
    monkeypatch.delitem(sys.modules, "stagewright.cli.specs", raising=False)
    for name in ("BUILDKIT_PROGRESS", "NO_COLOR", "DOCKER_DEFAULT_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    return fake
