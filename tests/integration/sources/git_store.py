"""A state directory on which tests fetch repositories, and a look at the files that come."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from drafts import drafts

from stagewright.cache.locks import LockFile
from stagewright.content.db import Database
from stagewright.dockerfile.giturl import parse_git_ref
from stagewright.errors import StagewrightError
from stagewright.frontend.remote import git_source
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.progress.events import VertexEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.snapshots.store import SnapshotStore
from stagewright.sources.git import GitSource
from stagewright.sources.remote import RemoteSources


@dataclass
class GitStore:
    """The parts of a state directory that repositories need."""

    root: Path
    env: dict[str, str]
    secrets: dict[str, bytes] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    cancel: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.db = Database(self.root / "metadata.db")
        self.snapshots = SnapshotStore(self.root / "snapshots", self.db)
        self.locks = LockFile(self.root / "locks")

    def build(self, *, offline: bool = False) -> RemoteSources:
        """The sources of a new build."""

        def no_url() -> object:
            raise AssertionError("no URL was asked for")

        def make() -> GitSource:
            return GitSource(
                self.root / "git",
                self.snapshots,
                self.locks,
                self.env,
                self.secrets.get,
                self.agents.get,
                self.cancel,
                offline=offline,
            )

        return RemoteSources(no_url, make)  # type: ignore[arg-type]

    def meaning(self, text: str, **options: object) -> object:
        """What a repository means now."""
        return self.build().resolve(source(text, **options), reporter())

    def fetch(self, text: str, **options: object) -> Path:
        """The folder with its files."""
        build, vertex = self.build(), source(text, **options)
        build.resolve(vertex, reporter())
        return Path(self.snapshots.folder(build.snapshot(vertex, reporter())))

    def files(self, text: str, **options: object) -> dict[str, str]:
        """Its files with their texts; links with where they lead."""
        return files_below(self.fetch(text, **options))

    def failure(self, text: str, **options: object) -> StagewrightError:
        """What fetching it raises."""
        with pytest.raises(StagewrightError) as caught:
            self.fetch(text, **options)
        return caught.value

    def stored(self) -> bytes:
        """All bytes of the store, when what was thrown away has gone."""
        self.snapshots.close()
        return b"".join(path.read_bytes() for path in self.root.rglob("*") if path.is_file())

    def check(self) -> None:
        """Nothing was left behind."""
        self.snapshots.close()
        self.db.close()
        assert drafts(self.root / "snapshots") == []
        assert os.listdir(self.root / "snapshots" / "trash") == []


def source(text: str, **options: object) -> Vertex:
    """The vertex of a repository; options are those of `git_source`."""
    ref = parse_git_ref(text)
    assert ref is not None
    return git_source(ref, Metadata("ADD"), **options)  # type: ignore[arg-type]


def reporter() -> Reporter:
    return Reporter(Emitter(None), VertexEvent("sha256:1", "ADD"))


def files_below(folder: Path) -> dict[str, str]:
    """All that is no folder below one but for `.git`, with its text; links with where they lead."""
    found = {}
    for path, folders, names in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(path, name)))]:
            file = Path(path, name)
            found[str(file.relative_to(folder))] = f"-> {os.readlink(file)}" if file.is_symlink() else file.read_text()
    return found
