"""What integration tests share: the command line as a user runs it, and looks into what it makes.

The witnesses that look are skopeo, umoci and runc, never Stagewright itself.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forks
from processes import commands

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = PROJECT / "scripts"
EXAMPLES = PROJECT / "examples"
PROGRAM = (sys.executable, "-m", "stagewright")


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
    def warned(self) -> str:
        """What the build has warned of, a line each."""
        lines = [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]
        warnings = [warning for line in lines for warning in line.get("warnings") or ()]
        return "\n".join(base64.b64decode(warning["short"]).decode() for warning in warnings)

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
    program: tuple[str, ...] = PROGRAM

    def run(
        self, command: str, *arguments: object, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; with `check` a status other than 0 fails the test and shows what was printed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STAGEWRIGHT_")}
        inherited.pop("SOURCE_DATE_EPOCH", None)
        words = [command, "--root", str(self.root), "--config", str(self.config), *map(str, arguments)]
        env = inherited | dict(env or {})
        if self.program == PROGRAM:
            done = forks.run(words, env)
        else:
            done = subprocess.run([*self.program, *words], capture_output=True, text=True, env=env, check=False)
        if check:
            assert done.returncode == 0, (
                f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr[-20000:]}"
            )
        return done

    def build(
        self, context: Path | str, *flags: object, check: bool = True, env: Mapping[str, str] | None = None
    ) -> Build:
        """Build a context and read the events from `--progress=rawjson`."""
        done = self.run("build", "--progress=rawjson", *self.build_flags, *flags, context, check=check, env=env)
        return Build(done.returncode, done.stdout, done.stderr, read_events(done.stderr))


def runner(root: Path, config: Path, build_flags: tuple[str, ...] = ()) -> Iterator[Stagewright]:
    """A command line whose state directory is removed at the end, which no mount of a build may outlive."""
    yield Stagewright(root, config, build_flags)
    while is_collected(root):
        time.sleep(0.05)
    left = mounts_below(root)
    if not left:
        output_of(*as_root("rm", "-rf", root))
    assert left == [], "a build left mounts behind"


def is_collected(root: Path) -> bool:
    """Whether a process that a build has started collects the garbage of a state directory."""
    return any(
        os.fsencode(root) in words and any(b"afterwards.main()" in word for word in words)
        for words in commands().values()
    )


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
class Files:
    """The files of a result by their absolute paths, from its tar archive."""

    members: Mapping[str, tarfile.TarInfo]
    contents: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, archive: bytes) -> Files:
        """Read an uncompressed tar archive."""
        members, contents = {}, {}
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                path = "/" if member.name == "." else "/" + member.name.removeprefix("./").strip("/")
                members[path] = member
                if (member.isreg() or member.islnk()) and (content := tar.extractfile(member)) is not None:
                    contents[path] = content.read()
        return cls(members, contents)

    def __contains__(self, path: str) -> bool:
        return path in self.members

    def text(self, path: str) -> str:
        """A file's content."""
        return self.contents[path].decode()

    def lines(self, path: str) -> list[str]:
        """A file's lines."""
        return self.text(path).splitlines()

    def mode(self, path: str) -> int:
        """The permission bits."""
        return self.members[path].mode

    def owner(self, path: str) -> tuple[int, int]:
        """The user and group ID."""
        return self.members[path].uid, self.members[path].gid

    def metadata(self, path: str) -> tuple[int, int, int, float]:
        """The permission bits, the owner's IDs and the time of the last change."""
        member = self.members[path]
        return member.mode, member.uid, member.gid, member.mtime

    def below(self, folder: str) -> list[str]:
        """The paths of all that is below a folder, relative to it, in order."""
        prefix = folder.rstrip("/") + "/"
        return sorted(path.removeprefix(prefix) for path in self.members if path.startswith(prefix))


ROOTFS = "rootfs.tar"
# Unpacks an image and archives its files, since another namespace's owners can be read there only.
UNPACK = """umoci raw unpack --image "$1:image" "$2"
tar -C "$2" --numeric-owner --xattrs --xattrs-include='*' -cf "$3" .
rm -rf "$2"
"""


def unpacked(source: str, scratch: Path, *flags: str) -> Files:
    """The files that umoci makes of an image that skopeo reads, with the flags for `skopeo copy`."""
    layout, archive = scratch / "layout", scratch / ROOTFS
    output_of("skopeo", "copy", "--quiet", *flags, source, f"oci:{layout}:image")
    output_of(*as_root("sh", "-ec", UNPACK, "sh", layout, scratch / "rootfs", archive))
    return Files.read(archive.read_bytes())


@dataclass(frozen=True, slots=True)
class Image:
    """An image in an OCI archive, seen by skopeo, umoci and runc."""

    archive: Path
    rootfs: Path
    tree: Files

    @classmethod
    def load(cls, archive: Path, scratch: Path) -> Image:
        """Unpack the archive to a folder in `scratch`."""
        folder = scratch / f"{archive.stem}.unpacked"
        folder.mkdir()
        return cls(archive, folder / ROOTFS, unpacked(f"oci-archive:{archive}", folder))

    @property
    def config(self) -> dict[str, Any]:
        """The image config."""
        parsed: dict[str, Any] = json.loads(output_of("skopeo", "inspect", "--config", f"oci-archive:{self.archive}"))
        return parsed

    @property
    def files(self) -> set[str]:
        """The absolute paths of all that is no folder."""
        return {path for path, member in self.tree.members.items() if not member.isdir()}

    def below(self, folder: str) -> set[str]:
        """The absolute paths of all files and links below a folder of the image."""
        return {path for path in self.files if path.startswith(folder.rstrip("/") + "/")}

    def read(self, path: str) -> str:
        """A text file of the image."""
        return self.tree.text(os.path.normpath(path))

    def run(self, *arguments: str, entrypoint: str | None = None) -> str:
        """What the image's process prints, run by runc; the arguments replace its CMD."""
        override = [f"--entrypoint={entrypoint}"] if entrypoint else []
        program = (sys.executable, SCRIPTS / "run-image", f"--rootfs={self.rootfs}")
        return output_of(*program, *override, self.archive, *arguments)


def is_root_of_machine() -> bool:
    """Whether this process is root, and of no user namespace: may make devices, and files of any owner."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def as_root(*command: object) -> list[str]:
    """The command as root: for an ordinary user, of a user namespace with all ids that are the user's."""
    prefix = () if os.geteuid() == 0 else ("unshare", "--map-root-user", "--map-auto", "--mount")
    return [str(word) for word in (*prefix, *command)]


def output_of(*command: object) -> str:
    """What a program prints; its failure fails the test."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_flags(folder: Path) -> tuple[str, ...]:
    """The build flags with which steps fetch packages as this machine does; the settings' files go to `folder`."""
    return tuple(output_of(sys.executable, SCRIPTS / "package_settings.py", folder).splitlines())


def files_holding(needle: bytes, folder: Path) -> list[Path]:
    """The files below a folder, of all owners, that hold the bytes, as they are or compressed with gzip."""
    command = as_root(sys.executable, Path(__file__).with_name("needles.py"), folder)
    found = subprocess.run(command, input=needle, stdout=subprocess.PIPE, check=True).stdout
    return [Path(os.fsdecode(path)) for path in found.split(b"\0")[:-1]]


def control_groups(pattern: str) -> list[Path]:
    """The control groups whose paths end as the pattern says, in all hierarchies.

    Those of other tests come and go meanwhile, which a glob does not bear.
    """
    groups = (Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup"))
    return [group for group in groups if group.match(pattern)]


def mounts_below(folder: Path) -> list[str]:
    """The mount points that this process sees below a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(f"{folder}/")]
