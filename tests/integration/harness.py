"""What integration tests share: the command line as a user runs it, and looks into what it makes.

The witnesses that look are skopeo, umoci and runc, never Stagewright itself.
"""

from __future__ import annotations

import base64
import datetime
import json
import mmap
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = PROJECT / "scripts"
EXAMPLES = PROJECT / "examples"


@dataclass(slots=True)
class Vertex:
    """One step of a build, as the newest event about it says; times are None until the step gets there."""

    name: str
    cached: bool = False
    started: datetime.datetime | None = None
    completed: datetime.datetime | None = None
    error: str = ""
    log: bytes = b""


@dataclass(frozen=True, slots=True)
class Build:
    """A build that has ended: its status, what it printed, and its vertices by digest."""

    status: int
    stdout: str
    stderr: str
    vertices: Mapping[str, Vertex] = field(repr=False)

    def step(self, text: str) -> Vertex:
        """The only vertex whose name holds the text."""
        found = [vertex for vertex in self.vertices.values() if text in vertex.name]
        names = "\n".join(vertex.name for vertex in self.vertices.values())
        assert len(found) == 1, f"{len(found)} steps hold {text!r} among\n{names}"
        return found[0]

    def has_step(self, text: str) -> bool:
        """Whether any vertex's name holds the text."""
        return any(text in vertex.name for vertex in self.vertices.values())

    @property
    def ran(self) -> list[str]:
        """The names of the Dockerfile's steps that were run and not taken from the cache."""
        steps = (vertex for vertex in self.vertices.values() if vertex.name.startswith("["))
        return [v.name for v in steps if v.started and not v.cached and not v.name.startswith("[internal]")]

    @property
    def log(self) -> bytes:
        """What all steps wrote."""
        return b"".join(vertex.log for vertex in self.vertices.values())


@dataclass(frozen=True, slots=True)
class StandinImages:
    """The registry that serves the stand-ins, and the configuration that makes it the mirror of the real ones."""

    address: str
    config: Path


@dataclass(frozen=True, slots=True)
class Stagewright:
    """The command line with a state directory and a configuration of its own, and flags that every build gets."""

    root: Path
    config: Path
    build_flags: tuple[str, ...] = ()

    def run(
        self, command: str, *arguments: object, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; with `check` a status other than 0 fails the test and shows what was printed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STAGEWRIGHT_")}
        inherited.pop("SOURCE_DATE_EPOCH", None)
        done = subprocess.run(
            [sys.executable, "-m", "stagewright", command, "--root", self.root, "--config", self.config]
            + [str(argument) for argument in arguments],
            capture_output=True,
            text=True,
            env=inherited | dict(env or {}),
            check=False,
        )
        if check:
            assert done.returncode == 0, (
                f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr[-20000:]}"
            )
        return done

    def build(self, context: Path, *flags: object, check: bool = True, env: Mapping[str, str] | None = None) -> Build:
        """Build a context and read the events from `--progress=rawjson`."""
        done = self.run("build", "--progress=rawjson", *self.build_flags, *flags, context, check=check, env=env)
        return Build(done.returncode, done.stdout, done.stderr, read_events(done.stderr))


def runner(root: Path, config: Path, build_flags: tuple[str, ...] = ()) -> Iterator[Stagewright]:
    """A command line whose state directory is removed at the end, which no mount of a build may outlive."""
    yield Stagewright(root, config, build_flags)
    left = mounts_below(root)
    if not left:
        shutil.rmtree(root, ignore_errors=not root.exists())
    assert left == [], "a build left mounts behind"


def read_events(text: str) -> dict[str, Vertex]:
    """The vertices that a stream of SolveStatus objects, one a line, speaks of. Other lines are passed over."""
    vertices: dict[str, Vertex] = {}
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        status = json.loads(line)
        for event in status.get("vertexes") or ():
            vertex = vertices.setdefault(event["digest"], Vertex(event["name"]))
            vertex.cached = vertex.cached or event.get("cached", False)
            vertex.started = moment(event.get("started")) or vertex.started
            vertex.completed = moment(event.get("completed")) or vertex.completed
            vertex.error = event.get("error", "")
        for event in status.get("logs") or ():
            vertices[event["vertex"]].log += base64.b64decode(event["data"])
    return vertices


def moment(text: str | None) -> datetime.datetime | None:
    """A point in time from its RFC 3339 form."""
    return datetime.datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True)
class Image:
    """An image in an OCI archive, seen by skopeo, umoci and runc."""

    archive: Path
    unpacked: Path

    @classmethod
    def load(cls, archive: Path, scratch: Path) -> Image:
        """Unpack the archive to a folder in `scratch`."""
        layout = f"{scratch}/{archive.stem}.layout:image"
        bundle = scratch / f"{archive.stem}.bundle"
        output_of("skopeo", "copy", "--quiet", f"oci-archive:{archive}", f"oci:{layout}")
        output_of("umoci", "unpack", "--image", layout, bundle)
        return cls(archive, bundle / "rootfs")

    @property
    def config(self) -> dict[str, Any]:
        """The image config."""
        parsed: dict[str, Any] = json.loads(output_of("skopeo", "inspect", "--config", f"oci-archive:{self.archive}"))
        return parsed

    @property
    def files(self) -> set[str]:
        """The absolute paths of all that is no folder."""
        return {
            f"/{os.path.relpath(os.path.join(folder, name), self.unpacked)}"
            for folder, folders, names in os.walk(self.unpacked)
            for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]
        }

    def below(self, folder: str) -> set[str]:
        """The absolute paths of all files and links below a folder of the image."""
        return {path for path in self.files if path.startswith(folder.rstrip("/") + "/")}

    def read(self, path: str) -> str:
        """A text file of the image."""
        return (self.unpacked / path.lstrip("/")).read_text()

    def run(self, *arguments: str, entrypoint: str | None = None) -> str:
        """What the image's process prints, run by runc; the arguments replace its CMD."""
        override = [f"--entrypoint={entrypoint}"] if entrypoint else []
        return output_of(sys.executable, SCRIPTS / "run-image", *override, self.archive, *arguments)


def output_of(*command: object) -> str:
    """What a program prints; its failure fails the test."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_flags(folder: Path) -> tuple[str, ...]:
    """The build flags with which steps fetch packages as this machine does; the settings' files go to `folder`."""
    return tuple(output_of(sys.executable, SCRIPTS / "package_settings.py", folder).splitlines())


def files_holding(needle: bytes, folder: Path) -> list[Path]:
    """The files below a folder that hold the bytes, as they are or compressed with gzip."""
    found = []
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.stat().st_size == 0:
            continue
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            plain = content.find(needle) >= 0
            if plain or (content[:2] == b"\x1f\x8b" and holds(needle, gunzip(content))):
                found.append(path)
    return found


def holds(needle: bytes, chunks: Iterator[bytes]) -> bool:
    """Whether the bytes occur in the chunks put together."""
    rest = b""
    for chunk in chunks:
        if needle in rest + chunk:
            return True
        rest = chunk[-len(needle) :]
    return False


def gunzip(content: mmap.mmap) -> Iterator[bytes]:
    """The plain bytes of a gzip file of one or more members."""
    step = 1 << 20
    stream = zlib.decompressobj(wbits=31)
    for start in range(0, len(content), step):
        chunk = content[start : start + step]
        while chunk:
            yield stream.decompress(chunk)
            chunk = stream.unused_data
            if stream.eof:
                stream = zlib.decompressobj(wbits=31)


def mounts_below(folder: Path) -> list[str]:
    """The mount points that this process sees below a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(f"{folder}/")]
