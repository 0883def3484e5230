"""A worker on real stores, and trees written and read as data, for tests of ops."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from stagewright.cache.keys import KeyStore
from stagewright.cache.locks import LockFile
from stagewright.cache.mounts import CacheMounts
from stagewright.content.db import Database
from stagewright.dockerfile.ignore import Matcher, read_patterns
from stagewright.graph.ops import CopyAction, FileAction, FileOp, Op, SourceOp
from stagewright.graph.vertex import Vertex
from stagewright.ops.base import OpRunner
from stagewright.ops.dispatch import runners
from stagewright.ops.result import Result
from stagewright.ops.worker import Worker
from stagewright.progress.events import Event, VertexEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.sandbox.spec import Runtime
from stagewright.snapshots.store import SnapshotStore
from stagewright.sources.image import ImageSource
from stagewright.sources.local import LocalContext
from stagewright.sources.remote import RemoteSources

CONTEXT = Vertex(SourceOp("local://context"))
Make = str | bytes | None | Callable[[str], object]


class Bench:
    """Ops run by hand in a state directory of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context_folder = folder / "context"
        self.context_folder.mkdir()
        self.db = Database(folder / "state" / "metadata.db")
        self.snapshots = SnapshotStore(folder / "state" / "snapshots", self.db)
        self.keys = KeyStore(self.db)
        self.locks = LockFile(folder / "state" / "locks")
        self.cancel = threading.Event()
        self.events: list[Event] = []
        self.ignore: Matcher | None = None
        self.secrets: dict[str, bytes] = {}
        self.sockets: dict[str, str] = {}
        self.runtime: Runtime | None = None
        self._contexts: list[LocalContext] = []
        self.worker = Worker(
            snapshots=self.snapshots,
            keys=self.keys,
            cache_mounts=CacheMounts(folder / "state" / "mounts", self.db, self.locks),
            cancel=self.cancel,
            images=cast(ImageSource, None),
            remotes=cast(RemoteSources, None),
            runtime=lambda: cast(Runtime, self.runtime),
            context=lambda name: self.context(),
            secrets=self.secrets,
            ssh_socket=self.sockets.get,
        )
        self.runner_of: Callable[[Vertex], OpRunner] = runners(self.worker)

    def close(self) -> None:
        if self.runtime is not None:
            self.runtime.close()
        for context in self._contexts:
            context.close()
        self.snapshots.close()
        self.db.close()

    def context(self) -> LocalContext:
        if not self._contexts:
            self._contexts.append(
                LocalContext(str(self.context_folder), self.folder / "state" / "contexts", self.ignore)
            )
        return self._contexts[0]

    def next_build(self) -> None:
        """Forget what one build remembers: the context is opened anew."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self.runner_of = runners(self.worker)

    def hide(self, patterns: str) -> None:
        self.ignore = Matcher(read_patterns(patterns.encode()))

    def reporter(self) -> Reporter:
        return Reporter(Emitter(self.events.append), VertexEvent("sha256:0", "step"))

    def snapshot(self, files: Mapping[str, Make], parent: int | None = None) -> int:
        """A snapshot with these files on top of `parent` (see `write`)."""
        draft = self.snapshots.prepare(parent)
        with self.snapshots.mount(draft) as root:
            write(f"/proc/self/fd/{root}", files)
        return self.snapshots.commit(draft)

    def run(self, op: Op, *inputs: Result, vertices: tuple[Vertex, ...] = ()) -> Result:
        vertex = Vertex(
            op, vertices or tuple(CONTEXT if source.context else Vertex(SourceOp("x")) for source in inputs)
        )
        runner = self.runner_of(vertex)
        for index in runner.content_inputs(vertex):
            runner.content_digest(vertex, index, inputs[index])
        return runner.run(vertex, inputs, self.reporter())

    def copy(
        self,
        source: str,
        dest: str,
        *,
        base: int | None = None,
        stage: int | None = None,
        owner: str = "",
        mode: str = "",
        unpack: bool = False,
    ) -> int:
        """The snapshot that one COPY makes, from the context or from the snapshot `stage`."""
        origin = Result(stage) if stage is not None else Result(context="context")
        action = CopyAction(1, source, dest, owner=owner, mode=mode, unpack=unpack, optional=True)
        result = self.run(FileOp((action,), base=0), Result(base), origin)
        assert result.snapshot is not None
        return result.snapshot

    def files(self, *actions: FileAction, base: int | None = None) -> int:
        result = self.run(FileOp(actions, base=0), Result(base))
        assert result.snapshot is not None
        return result.snapshot

    def key(self, action: CopyAction, stage: int | None = None) -> str:
        origin = Result(stage) if stage is not None else Result(context="context")
        vertex = Vertex(FileOp((action,), base=None), (CONTEXT,))
        return self.runner_of(vertex).content_digest(vertex, 0, origin)

    def tree(self, snapshot: int | None) -> dict[str, str]:
        """All of a snapshot's merged files: contents of files, `-> target` of links, `/` for folders."""
        with self.snapshots.view(snapshot) as root:
            return read(f"/proc/self/fd/{root}")

    def stat(self, snapshot: int, path: str) -> os.stat_result:
        with self.snapshots.view(snapshot) as root:
            return os.stat(path, dir_fd=root, follow_symlinks=False)

    def mode(self, snapshot: int, path: str) -> str:
        return f"{stat.S_IMODE(self.stat(snapshot, path).st_mode):o}"

    def owner(self, snapshot: int, path: str) -> tuple[int, int]:
        info = self.stat(snapshot, path)
        return info.st_uid, info.st_gid


def write(root: str | Path, files: Mapping[str, Make]) -> None:
    """Write files below `root`: text by path, `-> target` for a link, None for a folder, or a function of the path."""
    for path, what in files.items():
        full = os.path.join(str(root), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if what is None:
            os.makedirs(full, exist_ok=True)
        elif callable(what):
            what(full)
        elif isinstance(what, str) and what.startswith("-> "):
            os.symlink(what[3:], full)
        else:
            with open(full, "wb") as file:
                file.write(what.encode() if isinstance(what, str) else what)


def read(root: str) -> dict[str, str]:
    found = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            full = os.path.join(folder, name)
            path = os.path.relpath(full, root)
            kind = os.lstat(full).st_mode
            if stat.S_ISLNK(kind):
                found[path] = f"-> {os.readlink(full)}"
            elif stat.S_ISDIR(kind):
                found[path] = "/"
            elif stat.S_ISREG(kind):
                with open(full, "rb") as file:
                    found[path] = file.read().decode(errors="replace")
            else:
                found[path] = f"{stat.S_IFMT(kind):o}"
    return found
