"""What a build is defined by: the Dockerfile, the vertex that COPY reads, and what an ignore file hides of that.

The main context is a folder of this machine, read where it lies, or something remote (see `frontend.remote`), which is
a vertex like any other: it is solved first, and the Dockerfile read out of its result. A context that comes in yet
another way needs no more than a vertex and `read_from`.
"""

from __future__ import annotations

import os
import posixpath
import select
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from stagewright.dockerfile.ast import Dockerfile
from stagewright.dockerfile.golang import parse_bool
from stagewright.dockerfile.ignore import Pattern, read_patterns
from stagewright.dockerfile.instructions import parse
from stagewright.dockerfile.suggest import similar_name
from stagewright.errors import CanceledError, NotFoundError, UsageError
from stagewright.frontend.contexts import MAIN_CONTEXT
from stagewright.frontend.options import local_context
from stagewright.frontend.remote import (
    CONTEXT_FILE,
    HTTP_SCHEMES,
    context_source,
    http_source,
    is_archive_context,
    unpacked,
)
from stagewright.graph.ops import FileOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.ops.result import Result
from stagewright.options import BuildOptions
from stagewright.progress.reporter import Reporter
from stagewright.records import dataclass
from stagewright.redaction import redact_url
from stagewright.snapshots.store import SnapshotStore
from stagewright.sources.remote import RemoteSources
from stagewright.sources.tree import Tree

IGNORE_FILE = ".dockerignore"
_DOCKERFILE = "Dockerfile"
_KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
_MAX_DOCKERFILE = 16 << 20
# What buildx takes of a URL.
_MAX_FETCHED = 512 << 10
_LOOK_INTERVAL_MS = 100
# How long somebody who writes to a pipe may take to open it.
_PATIENCE_MS = 10_000


@dataclass(frozen=True, slots=True)
class Definition:
    """A Dockerfile's bytes and its name in messages, the main context's vertex, and the patterns of a local context's
    ignore file."""

    data: bytes
    filename: str
    context: Vertex
    ignore_patterns: Sequence[Pattern] = ()

    def parse(self) -> Dockerfile:
        """The Dockerfile. Raises DockerfileError."""
        return parse(self.data, self.filename)


class DefinitionReader:
    """Reads the definition of one build.

    `vertex` opens a vertex of its own in the progress, by name; `solve` answers the result of one of the graph.
    """

    def __init__(
        self,
        options: BuildOptions,
        vertex: Callable[[str], AbstractContextManager[Reporter]],
        solve: Callable[[Vertex], Result],
        snapshots: SnapshotStore,
        remotes: RemoteSources,
        cancel: threading.Event,
    ) -> None:
        self._options = options
        self._vertex = vertex
        self._solve = solve
        self._snapshots = snapshots
        self._remotes = remotes
        self._cancel = cancel

    @property
    def name(self) -> str:
        """The name of the vertex that reading the Dockerfile is."""
        return f"[internal] load build definition from {posixpath.basename(self._options.file or _DOCKERFILE)}"

    def read(self) -> Definition:
        """The definition. Raises StagewrightError."""
        options = self._options
        if options.context == "-":
            return self._read_stdin()
        # A folder of that name wins: BuildKit's short form of GitHub's repositories looks like one.
        if os.path.isdir(options.context):
            return self._read_local()
        source = context_source(options.context, keep_git_dir=self._keeps_git_dir())
        if source is None:
            raise NotFoundError(f"the build context {options.context} is not a folder")
        return self._read_remote(source)

    def read_from(self, context: Vertex, result: Result, filename: str, shown: str) -> Definition:
        """The definition out of a context's result; `shown` is what messages call the Dockerfile `filename` in it."""
        with self._vertex(self.name) as reporter:
            data = self._given(reporter)
            if data is None:
                data = self._read_in(result, filename)
                _report(reporter, data)
        return Definition(data, shown, context)

    # --- a folder -------------------------------------------------------------------------------------------------

    def _read_local(self) -> Definition:
        options = self._options
        path = _in_any_case(options.file or os.path.join(options.context, _DOCKERFILE))
        with self._vertex(self.name) as reporter:
            data = self._given(reporter)
            if data is None:
                if options.file is None:
                    _check_inside(path, options.context, "Dockerfile")
                data = read_file(path, "Dockerfile", self._cancel)
                _report(reporter, data)
        shown = redact_url(path) if options.file is not None else os.path.basename(path)
        return Definition(data, shown, local_context(MAIN_CONTEXT), self._read_ignore_file(path))

    def _read_ignore_file(self, dockerfile: str) -> Sequence[Pattern]:
        paths = [f"{dockerfile}{IGNORE_FILE}"] if self._options.dockerfile is None else []
        for path in [*paths, os.path.join(self._options.context, IGNORE_FILE)]:
            if os.path.isfile(path):
                with self._vertex(f"[internal] load {IGNORE_FILE}"):
                    if self._options.file is None:
                        _check_inside(path, self._options.context, "ignore file")
                    return read_patterns(read_file(path, "ignore file", self._cancel), path)
        return ()

    # --- standard input -------------------------------------------------------------------------------------------

    def _read_stdin(self) -> Definition:
        """An archive, or a Dockerfile alone."""
        from stagewright.snapshots.streams import is_archive_head
        from stagewright.sources.archive import ARCHIVE, ArchiveSource, StandardInput

        stream = StandardInput(self._cancel)
        head = stream.head()
        if not head:
            raise UsageError("the build context on standard input is empty", hint="pipe an archive or a Dockerfile in")
        if is_archive_head(head):
            archive = ArchiveSource(self._snapshots)
            self._remotes.add(ARCHIVE, archive)
            with self._vertex("[internal] load remote build context") as reporter:
                op = archive.take(stream, reporter)
            context = Vertex(op, meta=Metadata("[internal] unpack build context"))
            filename = self._options.file or _DOCKERFILE
            return self.read_from(context, self._solve(context), filename, redact_url(filename))
        if self._options.file is not None or self._options.dockerfile is not None:
            raise UsageError("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
        with self._vertex(self.name) as reporter:
            data = _limited(stream.read_all(_MAX_DOCKERFILE), "Dockerfile", "on standard input")
            _report(reporter, data)
        return Definition(data, _DOCKERFILE, Vertex(FileOp((), base=None), meta=Metadata("scratch")))

    # --- what is elsewhere ----------------------------------------------------------------------------------------

    def _read_remote(self, source: Vertex) -> Definition:
        filename = self._options.file or _DOCKERFILE
        result = self._solve(source)
        if not is_archive_context(source):
            return self.read_from(source, result, filename, redact_url(filename))
        if self._holds_archive(result):
            source = unpacked(source)
            return self.read_from(source, self._solve(source), filename, redact_url(filename))
        # A text is the Dockerfile itself, whatever name was asked for, as in BuildKit.
        return self.read_from(source, result, CONTEXT_FILE, redact_url(self._options.context))

    def _holds_archive(self, result: Result) -> bool:
        from stagewright.snapshots.extract import is_archive

        with self._snapshots.view(result.snapshot) as root:
            with open(Tree(root).open(CONTEXT_FILE), "rb") as file:
                return is_archive(file)

    def _read_in(self, result: Result, filename: str) -> bytes:
        """A file of a context; one that is wanted by an absolute path is one of this machine, as to buildx."""
        if os.path.isabs(filename):
            return read_file(filename, "Dockerfile", self._cancel)
        folder, name = posixpath.split(filename)
        names = [filename, posixpath.join(folder, name.lower())] if name == _DOCKERFILE else [filename]
        with self._snapshots.view(result.snapshot) as root:
            tree = Tree(root, label=redact_url(self._options.context))
            for path in names:
                try:
                    entry = tree.entry(tree.resolve(path))
                except NotFoundError:
                    continue
                if not stat.S_ISREG(entry.info.st_mode):
                    raise UsageError(f"failed to read Dockerfile: {path} in the build context is not a file")
                with open(tree.open(entry.path), "rb") as file:
                    return _limited(file.read(_MAX_DOCKERFILE + 1), "Dockerfile", path)
        raise NotFoundError(
            f"failed to read Dockerfile: open {filename}: no such file or directory",
            hint="-f names a file of the build context",
        )

    def _keeps_git_dir(self) -> bool:
        try:
            return parse_bool(self._options.build_args.get(_KEEP_GIT_DIR, ""))
        except ValueError:
            return False

    def _given(self, reporter: Reporter) -> bytes | None:
        """The text of the Dockerfile where it is in no folder and no context: the caller gave it, or its URL."""
        data, file = self._options.dockerfile, self._options.file
        if data is None and file is not None and file.startswith(HTTP_SCHEMES):
            data = self._fetch(file)
        if data is not None:
            _report(reporter, data)
        return data

    def _fetch(self, url: str) -> bytes:
        source = http_source(url, Metadata(f"[internal] load {redact_url(url)}"), filename=_DOCKERFILE)
        with self._snapshots.view(self._solve(source).snapshot) as root:
            with open(Tree(root).open(_DOCKERFILE), "rb") as file:
                data = file.read(_MAX_FETCHED + 1)
        if len(data) > _MAX_FETCHED:
            raise UsageError(f"Dockerfile {redact_url(url)} is larger than {_MAX_FETCHED >> 10} KiB")
        return data


def _in_any_case(path: str) -> str:
    """The path itself, or that of `dockerfile` where there is no `Dockerfile`."""
    folder, name = os.path.split(path)
    lower = os.path.join(folder, name.lower())
    return lower if name == _DOCKERFILE and not os.path.lexists(path) and os.path.lexists(lower) else path


def _check_inside(path: str, context: str, what: str) -> None:
    """Refuse a link out of the context, which may be a stranger's: an error would show lines of what it leads to."""
    root = os.path.realpath(context)
    if os.path.commonpath((root, os.path.realpath(path))) != root:
        raise NotFoundError(
            f"failed to read {what}: {path} is a link out of the build context",
            hint="name the file that is meant with --file" if what == "Dockerfile" else None,
        )


def read_file(path: str, what: str, cancel: threading.Event) -> bytes:
    """The bytes of a Dockerfile or an ignore file, which may come through a pipe.

    Raises NotFoundError where it cannot be read, UsageError above 16 MiB, CanceledError once `cancel` is set.
    """
    try:
        # Opened otherwise, a pipe that nobody writes to would keep us where no signal reaches.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb", buffering=0) as file:
            mode = os.fstat(handle).st_mode
            if stat.S_ISFIFO(mode):
                return _limited(_read_pipe(handle, what, path, cancel), what, path)
            if not stat.S_ISREG(mode) and what == "ignore file":
                raise UsageError(f"the {what} {path} is not a file")
            os.set_blocking(handle, True)
            return _limited(file.read(_MAX_DOCKERFILE + 1), what, path)
    except FileNotFoundError:
        raise NotFoundError(
            f"failed to read {what}: open {path}: no such file or directory", hint=_near(path)
        ) from None
    except OSError as error:
        raise NotFoundError(f"failed to read {what}: open {path}: {error.strerror}") from None


def _near(path: str) -> str | None:
    """A question after the file that was perhaps meant."""
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return None
    best = similar_name(name, names)
    return f"did you mean {os.path.join(folder, best)}?" if best else None


def _read_pipe(handle: int, what: str, path: str, cancel: threading.Event) -> bytes:
    """All that is written to a pipe, once somebody writes to it."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    data = bytearray()
    patience_ms = _PATIENCE_MS
    while len(data) <= _MAX_DOCKERFILE:
        if cancel.is_set():
            raise CanceledError
        # Nothing can wait for a pipe and for an event.
        if not poll.poll(_LOOK_INTERVAL_MS):
            patience_ms -= _LOOK_INTERVAL_MS
            if patience_ms > 0:
                continue
        try:
            block = os.read(handle, _MAX_DOCKERFILE)
        except BlockingIOError:
            # Somebody will write: whoever is there may take any time.
            continue
        if not block:
            if not data and patience_ms <= 0:
                raise UsageError(f"the {what} {path} is a pipe that nobody writes to")
            break
        data += block
    return bytes(data)


def _limited(data: bytes, what: str, path: str) -> bytes:
    if len(data) > _MAX_DOCKERFILE:
        raise UsageError(f"the {what} {path} is larger than {_MAX_DOCKERFILE >> 20} MiB")
    return data


def _report(reporter: Reporter, data: bytes) -> None:
    with reporter.status(f"transferring dockerfile: {len(data)}B", len(data)) as row:
        row.update(len(data))
