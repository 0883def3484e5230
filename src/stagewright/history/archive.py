"""Where records of builds lie: a folder of the state directory, of which a file is only ever replaced as a whole.

    builds/NUMBER.SUBJECT    one build: a line of JSON (see `Build`), then what ran in it, compressed (see `Run`)
    graphs/KEY               the steps of builds that were of the same graph with the same keys, compressed
    files/DIGEST             the files behind a content digest, compressed (see `filelist`)
    pruned                   when results were removed, by their keys, in seconds since the epoch
    new-*                    what is being written

A build has its file from its beginning on, without what ran in it, and holds a lock as long as it runs: one that is
killed is told by that. One that found all in its cache writes that small file alone. Files are written aside, under a
lock, and renamed, so that one that is there is whole; they are not synced, so that after a crash of the machine one may
be empty, and counts as none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stagewright.cache.locks import LockFile
from stagewright.content.folders import make_private
from stagewright.errors import StoreError
from stagewright.records import dataclass, field

FORMAT = 1
KEPT = 100
# What becomes of a build: the first one while it runs, the second one where its process died.
RUNNING, KILLED = "running", "killed"
COMPLETED, FAILED, CANCELED = "completed", "failed", "canceled"
# Trimming looks at all records, so it is done once in so many builds.
_TRIM_EVERY = 16
_MAX_BYTES = 256 << 20
_LOCK = "history"
# Stands for all keys.
_ALL = "*"
_MOST_PRUNED = 10_000


@dataclass(slots=True)
class Build:
    """One build, without its steps.

    `subject` stands for the context and the Dockerfile's place, `recipe` for the Dockerfile's text. `inputs` are what
    the build was given, as JSON-able data; `status` is one of those above; `graph` names its steps, "" where it did not
    come to have any, or did not come to its end. `steps` counts its instructions, `ran` those that did not come from
    the cache.
    """

    number: int
    subject: str
    recipe: str
    created: float
    seconds: float
    status: str
    error: str
    inputs: dict[str, Any]
    outcome: dict[str, Any]
    graph: str
    steps: int
    ran: int
    version: str

    @property
    def has_ended(self) -> bool:
        """Whether more is known of it than that it was begun."""
        return self.status not in (RUNNING, KILLED)


@dataclass(frozen=True, slots=True)
class Run:
    """What did not come from the cache: by the step's index what became of it (see `recorder`), and its log."""

    steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    logs: dict[int, list[tuple[float, int, str]]] = field(default_factory=dict)


class Archive:
    """The records of one state directory.

    What writes raises OSError where the disk refuses; what is damaged or cannot be read is not there.
    """

    def __init__(self, folder: Path, locks: LockFile) -> None:
        self._folder = folder
        self._builds = folder / "builds"
        self._graphs = folder / "graphs"
        self._files = folder / "files"
        self._pruned = folder / "pruned"
        self._locks = locks

    # --- writing --------------------------------------------------------------------------------------------------

    def begin(self, build: Build) -> int:
        """Give a build its number and keep that it runs; answers a descriptor, whose closing says that it does not."""
        with self._locks.hold(_LOCK):
            build.number = self._next_number()
            # One that runs may have been forgotten meanwhile.
            while (alive := self._locks.try_hold(f"{_LOCK}/{build.number}")) is None:
                build.number += 1
            try:
                self._write(self._builds / f"{build.number}.{build.subject}", _header(build))
            except OSError:
                os.close(alive)
                raise
        return alive

    def withdraw(self, build: Build) -> None:
        """Forget that a build was begun."""
        _unlink(self._builds / f"{build.number}.{build.subject}")

    def add(
        self,
        build: Build,
        run: Run | None,
        graph: Callable[[], dict[str, Any]],
        files: Mapping[str, bytes],
    ) -> int:
        """Keep a build that has ended, by the number that it has had from `begin`, or a new one, which is answered.

        `graph` is asked for, and `files` (by digest) kept, only if it is new.
        """
        data = b"" if run is None else _packed({"steps": run.steps, "logs": run.logs})
        with self._locks.hold(_LOCK):
            if build.graph and not (self._graphs / build.graph).exists():
                for digest, listing in files.items():
                    if not (self._files / digest).exists():
                        self._write(self._files / digest, listing)
                self._write(self._graphs / build.graph, _packed(graph()))
            build.number = build.number or self._next_number()
            self._write(self._builds / f"{build.number}.{build.subject}", _header(build) + data)
            if build.number % _TRIM_EVERY == 0:
                self._trim(KEPT)
        return build.number

    def note_pruned(self, keys: Iterable[str], at: float) -> None:
        """Remember that the results of these keys are removed."""
        with self._locks.hold(_LOCK):
            noted = {**self._prunes(), **dict.fromkeys(keys, at)}
            self._write(self._pruned, json.dumps(dict(list(noted.items())[-_MOST_PRUNED:])).encode())

    def note_emptied(self, at: float) -> None:
        """Remember that the build cache was emptied, and keep of each subject the newest build alone."""
        with self._locks.hold(_LOCK):
            self._write(self._pruned, json.dumps({_ALL: at}).encode())
            newest: dict[str, int] = {}
            for number, subject in sorted(self._names()):
                newest[subject] = number
            self._remove({number for number, _ in self._names()} - set(newest.values()))

    def remove(self, numbers: Iterable[int]) -> None:
        """Forget builds; what only they referred to goes, too."""
        with self._locks.hold(_LOCK):
            self._remove(set(numbers))

    def trim(self) -> None:
        """Forget all but the newest builds, as many as are kept."""
        with self._locks.hold(_LOCK):
            self._trim(KEPT)

    def problems(self) -> Iterator[tuple[Path, str]]:
        """Files that are not what was written, and why; what is empty counts as not there."""
        for path in self._all_files():
            data = _read(path)
            if data and (wrong := self._wrong_with(path, data)):
                yield path, wrong
        if (data := _read(self._pruned)) and not isinstance(_parsed(data), dict):
            yield self._pruned, "cannot be read"

    def _wrong_with(self, path: Path, data: bytes) -> str:
        from stagewright.history.filelist import unpack

        if path.parent == self._files:
            return "" if unpack(data) is not None else "cannot be read"
        if path.parent == self._graphs:
            return "" if _unpacked(data) is not None else "cannot be read"
        line, _, rest = data.partition(b"\n")
        header = _parsed(line)
        if not isinstance(header, dict) or (rest and _unpacked(rest) is None):
            return "cannot be read"
        graph = header.get("graph")
        return f"its steps, {graph}, are missing" if graph and not (self._graphs / str(graph)).exists() else ""

    def discard(self, path: Path) -> None:
        """Remove a file that is damaged."""
        with self._locks.hold(_LOCK):
            _unlink(path)

    def _trim(self, kept: int) -> None:
        names = sorted(self._names(), reverse=True)
        self._remove({number for number, _ in names[kept:]})
        while kept > 1 and sum(map(_size, self._all_files())) > _MAX_BYTES:
            kept //= 2
            self._remove({number for number, _ in names[kept:]})
        for path in _below(self._folder):
            # Who writes holds the lock, so this is what a process was writing that was killed.
            if path.name.startswith("new-"):
                _unlink(path)

    def _remove(self, gone: set[int]) -> None:
        if not gone:
            return
        names = list(self._names())
        newest = max((number for number, _ in names), default=0)
        for number, subject in names:
            if number not in gone:
                continue
            path = self._builds / f"{number}.{subject}"
            if number == newest:
                # No number is given twice.
                self._write(path, b"")
            else:
                _unlink(path)
        builds = self.list()
        graphs = {build.graph for build in builds}
        for path in _below(self._graphs):
            if path.name not in graphs:
                _unlink(path)
        files = {digest for name in graphs if (graph := self.graph(name)) for digest in graph.get("files", ())}
        for path in _below(self._files):
            if path.name not in files:
                _unlink(path)

    # --- reading --------------------------------------------------------------------------------------------------

    def list(self) -> list[Build]:
        """All builds, the newest first."""
        found = (self._load(number, subject) for number, subject in sorted(self._names(), reverse=True))
        return [build for build in found if build is not None]

    def get(self, number: int) -> Build | None:
        """The build of that number."""
        subject = next((subject for known, subject in self._names() if known == number), None)
        return None if subject is None else self._load(number, subject)

    def of_subject(self, subject: str, most: int) -> Iterable[Build]:
        """At most so many builds of a subject, the newest first."""
        numbers = sorted((number for number, known in self._names() if known == subject), reverse=True)
        found = (self._load(number, subject) for number in numbers[:most])
        return [build for build in found if build is not None]

    def run(self, build: Build) -> Run:
        """What ran in a build."""
        data = _read(self._builds / f"{build.number}.{build.subject}").partition(b"\n")[2]
        found = _unpacked(data) or {}
        steps = {int(index): value for index, value in found.get("steps", {}).items()}
        logs = found.get("logs", {}).items()
        return Run(steps, {int(index): [(line[0], line[1], line[2]) for line in log] for index, log in logs})

    def graph(self, name: str) -> dict[str, Any] | None:
        """The steps of a graph, as they were given."""
        return _unpacked(_read(self._graphs / name)) if name else None

    def sizes(self) -> dict[str, int]:
        """How many bytes of files steps made when they ran, by their keys; of one that ran again, the last time."""
        found: dict[str, int] = {}
        for build in self.list():
            sizes = {index: ran["size"] for index, ran in self.run(build).steps.items() if "size" in ran}
            steps = (self.graph(build.graph) or {}).get("steps", ()) if sizes else ()
            for index, size in sizes.items():
                if index < len(steps) and (key := steps[index].get("canonical")):
                    found.setdefault(key, size)
        return found

    def has_files(self, digest: str) -> bool:
        """Whether the files behind a content digest are known."""
        return (self._files / digest).exists()

    def files(self, digest: str) -> bytes:
        """The files behind a content digest; b"" where they are not known."""
        return _read(self._files / digest)

    def pruned(self, key: str) -> float:
        """When the result of a key was removed last, in seconds since the epoch; 0.0 for never."""
        noted = self._prunes()
        return max(noted.get(key, 0.0), noted.get(_ALL, 0.0))

    def _prunes(self) -> dict[str, float]:
        found = _parsed(_read(self._pruned))
        return found if isinstance(found, dict) else {}

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self._folder / f"new-{os.urandom(6).hex()}"
        if not path.parent.is_dir():
            make_private(path.parent)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            _unlink(temporary)
            raise

    def _next_number(self) -> int:
        return max((number for number, _ in self._names()), default=0) + 1

    def _names(self) -> Iterable[tuple[int, str]]:
        try:
            names = os.listdir(self._builds)
        except OSError:
            return
        for name in names:
            number, dot, subject = name.partition(".")
            if dot and number.isdecimal():
                yield int(number), subject

    def _load(self, number: int, subject: str) -> Build | None:
        try:
            with open(self._builds / f"{number}.{subject}", "rb") as file:
                found = json.loads(file.readline() or b"null")
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            return None
        if found.keys() != set(Build.__slots__):
            return None
        build = Build(**found)
        if build.status == RUNNING and not self._is_alive(number):
            build.status = KILLED
        return build

    def _is_alive(self, number: int) -> bool:
        try:
            # Shared, so that who looks at the same time does not take the other for the build.
            return self._locks.is_held(f"{_LOCK}/{number}", shared=True)
        except StoreError:
            # Of a directory that cannot be written to nobody can tell.
            return True

    def _all_files(self) -> Iterable[Path]:
        for folder in (self._builds, self._graphs, self._files):
            yield from _below(folder)


def _header(build: Build) -> bytes:
    header = {name: getattr(build, name) for name in Build.__slots__}
    return json.dumps({"format": FORMAT, **header}, separators=(",", ":")).encode() + b"\n"


def _packed(data: Any) -> bytes:
    import zlib

    return zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 1)


def _unpacked(data: bytes) -> dict[str, Any] | None:
    import zlib

    try:
        found = json.loads(zlib.decompress(data))
    except (zlib.error, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _parsed(data: bytes) -> Any:
    """What JSON says; None for what is none."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # What cannot be read is as good as not there.
        return b""


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
