"""Graphs of real ops on real stores: what a second build runs, and what it says when it cannot."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from drafts import drafts

from stagewright.cache.keys import KeyStore
from stagewright.cache.locks import LockFile
from stagewright.cache.mounts import CacheMounts
from stagewright.content.db import Database
from stagewright.errors import CanceledError, NotFoundError, SourceRange, SourceText, StepFailedError
from stagewright.graph.ops import CopyAction, ExecOp, FileOp, Mount, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.ops.dispatch import runners
from stagewright.ops.result import Result
from stagewright.ops.worker import Worker
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent
from stagewright.progress.reporter import Emitter
from stagewright.sandbox.native import NativeRuntime
from stagewright.snapshots.store import SnapshotStore
from stagewright.solver.solver import Solver
from stagewright.sources.image import ImageSource
from stagewright.sources.local import LocalContext
from stagewright.sources.remote import RemoteSources

BUSYBOX = shutil.which("busybox")
pytestmark = pytest.mark.skipif(BUSYBOX is None, reason="needs a static busybox")
CONTEXT = Vertex(SourceOp("local://context"), meta=Metadata("context"))
DOCKERFILE = SourceText("Dockerfile", "FROM scratch\nCOPY missing /\nRUN false\n")


class Machine:
    """A state directory with a build context beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = folder / "context"
        self.context.mkdir()
        shutil.copy(str(BUSYBOX), self.context / "busybox")
        self.runtime = NativeRuntime()

    def write(self, path: str, text: str) -> None:
        (self.context / path).parent.mkdir(parents=True, exist_ok=True)
        (self.context / path).write_text(text)

    def build(
        self, *targets: Vertex, jobs: int | None = None, on_event: Callable[[Build, Event], None] | None = None
    ) -> Build:
        return Build(self, targets, jobs, on_event)


class Build:
    """One build in the machine's state directory, with connections of its own as another process has them.

    `on_event` is called with each event, too.
    """

    def __init__(
        self,
        machine: Machine,
        targets: tuple[Vertex, ...],
        jobs: int | None,
        on_event: Callable[[Build, Event], None] | None,
    ) -> None:
        state = machine.folder / "state"
        self.events: list[Event] = []
        self._on_event = on_event
        self.cancel = threading.Event()
        db = Database(state / "metadata.db")
        snapshots, keys, locks = SnapshotStore(state / "snapshots", db), KeyStore(db), LockFile(state / "locks")
        context = LocalContext(str(machine.context), state / "contexts", None)
        worker = Worker(
            snapshots=snapshots,
            keys=keys,
            cache_mounts=CacheMounts(state / "mounts", db, locks),
            cancel=self.cancel,
            images=cast(ImageSource, None),
            remotes=cast(RemoteSources, None),
            runtime=lambda: machine.runtime,
            context=lambda name: context,
            secrets={},
            ssh_socket=lambda id: None,
        )
        self.error: BaseException | None = None
        self.results: list[Result] = []
        try:
            solver = Solver(runners(worker), keys, locks, Emitter(self._take), self.cancel, jobs)
            self.results = solver.solve(targets)
            self.trees = [self._read(snapshots, result) for result in self.results]
        except BaseException as error:
            self.error = error
        finally:
            context.close()
            db.close()

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(self, event)

    def _read(self, snapshots: SnapshotStore, result: Result) -> dict[str, str]:
        with snapshots.view(result.snapshot) as root:
            base = Path(f"/proc/self/fd/{root}")
            files = {str(path.relative_to(base)): path for path in base.rglob("*")}
            return {name: path.read_text() for name, path in files.items() if path.is_file() and name != "bin/busybox"}

    def last(self, name: str) -> VertexEvent:
        return [event for event in self.events if isinstance(event, VertexEvent) and event.name == name][-1]

    @property
    def ran(self) -> set[str]:
        vertices = {event.name: event for event in self.events if isinstance(event, VertexEvent)}
        return {name for name, event in vertices.items() if event.completed and not event.cached} - {"context"}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.runtime.close()


def copy(name: str, source: Vertex, path: str, dest: str, base: Vertex | None = None, line: int = 2) -> Vertex:
    inputs = (source,) if base is None else (base, source)
    op = FileOp((CopyAction(len(inputs) - 1, path, dest),), base=None if base is None else 0)
    return Vertex(op, inputs, meta=Metadata(name, location=SourceRange(DOCKERFILE, line, line)))


def run(name: str, base: Vertex, command: str) -> Vertex:
    args = ("/bin/busybox", "sh", "-c", command)
    op = ExecOp(args, ("PATH=/bin",), "/", (Mount("bind", "/", 0),))
    return Vertex(op, (base,), meta=Metadata(name, location=SourceRange(DOCKERFILE, 3, 3)))


BASE = copy("base", CONTEXT, "busybox", "/bin/busybox")


def test_what_did_not_change_does_not_run(machine: Machine) -> None:
    machine.write("requirements", "1")
    machine.write("app/main", "1")
    install = run("install", copy("copy 1", CONTEXT, "requirements", "/", BASE), "echo installed > /lib")
    target = run("test", copy("copy 2", CONTEXT, "app", "/app", install), "busybox cat /app/main > /out")
    first = machine.build(target)
    assert first.error is None
    assert first.ran == {"base", "copy 1", "install", "copy 2", "test"}
    assert first.trees == [{"requirements": "1", "lib": "installed\n", "app/main": "1", "out": "1"}]
    for path in ("requirements", "app/main", "app"):
        os.utime(machine.context / path, (1, 1))
    assert machine.build(target).ran == set()
    machine.write("app/main", "2")
    second = machine.build(target)
    assert second.ran == {"copy 2", "test"}
    assert second.trees[0]["out"] == "2"
    machine.write("unrelated", "x")
    assert machine.build(target).ran == set()


def test_a_stage_rebuilt_to_equal_files_leaves_its_readers(machine: Machine) -> None:
    def target(command: str) -> Vertex:
        stage = run("stage", BASE, f"echo same > /dist; {command}")
        return run("last", copy("copy", stage, "/dist", "/", BASE), "busybox cat /dist > /out")

    assert machine.build(target("true")).error is None
    assert machine.build(target("echo x > /elsewhere")).ran == {"stage"}
    assert machine.build(target("echo more >> /dist")).ran == {"stage", "copy", "last"}


def test_reading_the_context_is_seen(machine: Machine) -> None:
    machine.write("a", "12345")
    first = machine.build(copy("copy", CONTEXT, "a", "/"))
    rows = [event for event in first.events if isinstance(event, StatusEvent)]
    assert rows[-1].id == "transferring context:"
    assert rows[-1].vertex == CONTEXT.digest and rows[-1].completed is not None
    # Twice where the file was too young to be trusted when it was compared after the copy.
    assert rows[-1].current in (5, 10)
    assert first.last("context").completed is not None and not first.last("context").error


def test_a_missing_source_names_its_line(machine: Machine) -> None:
    build = machine.build(run("run", copy("copy", CONTEXT, "missing", "/", BASE), "true"))
    assert isinstance(build.error, NotFoundError)
    assert build.error.message == '"/missing": not found'
    assert build.error.location == SourceRange(DOCKERFILE, 2, 2)
    assert build.last("copy").error == '"/missing": not found'
    stage = machine.build(copy("copy", BASE, "/missing", "/"))
    assert isinstance(stage.error, NotFoundError) and stage.error.location == SourceRange(DOCKERFILE, 2, 2)


def test_a_failing_step_kills_its_siblings(machine: Machine) -> None:
    slow = run("slow", BASE, "echo begun; busybox sleep 600")
    failing = run("failing", BASE, "busybox sleep 0.3; exit 3")
    build = machine.build(slow, failing, jobs=2)
    assert isinstance(build.error, StepFailedError) and build.error.exit_code == 3
    assert build.last("slow").error.endswith("canceled")
    assert drafts(machine.folder / "state" / "snapshots") == []
    assert not [thread for thread in threading.enumerate() if thread.name == "stagewright-worker"]


def test_a_build_whose_context_changes_meanwhile_succeeds_and_is_not_remembered(machine: Machine) -> None:
    machine.write("app", "old")
    target = copy("copy", CONTEXT, "app", "/", run("step", BASE, "echo begun"))

    def change(build: Build, event: Event) -> None:
        if isinstance(event, LogEvent):
            machine.write("app", "new and longer")

    build = machine.build(target, on_event=change)
    assert build.error is None
    assert build.trees == [{"app": "new and longer"}]
    machine.write("app", "old")
    again = machine.build(target)
    assert again.ran == {"copy"}
    assert again.trees == [{"app": "old"}]


def test_two_builds_at_once_share_their_work(machine: Machine) -> None:
    machine.write("a", "x")
    shared = run("shared", copy("copy", CONTEXT, "a", "/", BASE), "busybox sleep 0.5; echo $$ > /pid")
    builds: list[Build] = []
    threads = [threading.Thread(target=lambda: builds.append(machine.build(shared))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [build.error for build in builds] == [None] * 3
    assert sum("shared" in build.ran for build in builds) == 1
    assert len({build.results[0] for build in builds}) == 1


def test_canceling_ends_all(machine: Machine) -> None:
    def cancel(build: Build, event: Event) -> None:
        if isinstance(event, LogEvent):
            build.cancel.set()

    build = machine.build(run("slow", BASE, "echo begun; busybox sleep 600"), on_event=cancel)
    assert isinstance(build.error, CanceledError)
    assert build.last("slow").error.endswith("canceled")
