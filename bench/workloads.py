"""The benchmark's workloads: folders with a Dockerfile and a context, with the same bytes on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

_FOLDER_FILES = 50
_FOLDERS = 50


def make(name: str, root: Path, bases: str) -> Path:
    """Write the workload `name` to a folder below `root`, unless it is there; returns that folder.

    `bases` is put before the names of base images, e.g. `127.0.0.1:5000/docker.io/library/`.
    """
    folder = root / name
    if not (folder / "Dockerfile").exists():
        folder.mkdir(parents=True, exist_ok=True)
        WORKLOADS[name](folder, bases)
    return folder


def _write_lines(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


def _write_tree(root: Path, files: int, size: int, seed: int) -> None:
    """Write `files` files of about `size` bytes, fifty to a folder, half of each incompressible."""
    rng = random.Random(seed)  # noqa: S311 - the same bytes every time are the point
    words = [b"w%05d " % number for number in range(4096)]
    for number in range(files):
        folder = root / f"d{number // (_FOLDER_FILES * _FOLDERS):03d}" / f"e{number // _FOLDER_FILES % _FOLDERS:02d}"
        if number % _FOLDER_FILES == 0:
            folder.mkdir(parents=True)
        noise = rng.randbytes(size // 2)
        text = b"".join(rng.choices(words, k=max(1, (size - len(noise)) // 7)))
        (folder / f"f{number:06d}.dat").write_bytes(noise + text)


def _steps(folder: Path, bases: str) -> None:
    """Thirty steps: five stages of five RUN each, and a stage that copies from them and from the context."""
    lines = [f"FROM {bases}busybox:latest AS base"]
    for stage in range(5):
        lines.append(f"FROM base AS s{stage}")
        lines += [f"RUN echo {stage}-{step} > /f{stage}_{step}" for step in range(5)]
    lines.append("FROM base")
    lines += [f"COPY --from=s{stage} /f{stage}_4 /" for stage in range(5)]
    _write_lines(folder / "Dockerfile", *lines, "COPY a.txt /a.txt")
    _write_lines(folder / "a.txt", "a")


def _runs(folder: Path, bases: str) -> None:
    """Forty RUN steps in a row of a command that does nothing; they see the build argument X."""
    steps = [f"RUN echo $X {step} >/dev/null" for step in range(40)]
    _write_lines(folder / "Dockerfile", f"FROM {bases}busybox:latest", "ARG X", *steps)


def _parallel(folder: Path, bases: str) -> None:
    """Eight independent stages that each wait for two seconds."""
    lines = []
    for stage in range(8):
        lines += [f"FROM {bases}busybox:latest AS p{stage}", "ARG X"]
        lines.append(f"RUN echo $X; sleep 2; echo {stage} > /o{stage}")
    copies = [f"COPY --from=p{stage} /o{stage} /" for stage in range(8)]
    _write_lines(folder / "Dockerfile", *lines, "FROM scratch", *copies)


def _context(files: int, size: int) -> Callable[[Path, str], None]:
    def write(folder: Path, bases: str) -> None:
        """A context that is copied whole."""
        steps = ["COPY src /src", "RUN ls /src | wc -l > /n"]
        _write_lines(folder / "Dockerfile", f"FROM {bases}busybox:latest", *steps)
        _write_tree(folder / "src", files, size, seed=7)

    return write


def _ignored(folder: Path, bases: str) -> None:
    """A context of 40,000 files of which the ignore file leaves two."""
    _write_lines(folder / "Dockerfile", f"FROM {bases}busybox:latest", "COPY . /app")
    patterns = ["**/node_modules", ".git", "**/*.log", "!keep.log", "build/**"]
    _write_lines(folder / ".dockerignore", *patterns)
    _write_tree(folder / "node_modules", 40_000, 512, seed=7)
    _write_lines(folder / "app.py", "print(1)")
    _write_lines(folder / "keep.log", "k")


def _wide(stages: int) -> Callable[[Path, str], None]:
    def write(folder: Path, bases: str) -> None:
        """Stages in chains of ten, each a COPY, and a stage that copies from the end of each chain."""
        lines = [f"FROM {bases}busybox:latest AS c0"]
        for stage in range(1, stages):
            base = f"c{stage - 1}" if stage % 10 else "c0"
            lines += [f"FROM {base} AS c{stage}", f"COPY a.txt /x{stage}"]
        lines.append("FROM scratch")
        lines += [f"COPY --from=c{stage} /x{stage} /" for stage in range(9, stages, 10)]
        _write_lines(folder / "Dockerfile", *lines)
        _write_lines(folder / "a.txt", "a")

    return write


def _changed(stages: int) -> Callable[[Path, str], None]:
    def write(folder: Path, bases: str) -> None:
        """A hundred independent stages with a RUN, of which the last ones see the build argument X, and one of all."""
        lines = []
        for stage in range(100):
            lines.append(f"FROM {bases}busybox:latest AS c{stage}")
            lines += [*(["ARG X"] if stage >= 100 - stages else []), f"RUN echo $X {stage} > /o{stage}"]
        _write_lines(folder / "Dockerfile", *lines, "FROM scratch", *(f"COPY --from=c{n} /o{n} /" for n in range(100)))

    return write


SMALL_FILES_SCRIPT = (
    "mkdir m && cd m && i=0; while [ $i -lt 300 ]; do mkdir d$i; j=0; "
    "while [ $j -lt 100 ]; do echo $X $i $j > d$i/f$j; j=$((j+1)); done; i=$((i+1)); done"
)


def _small_files(folder: Path, bases: str) -> None:
    """A step that makes 30,000 small files, as package managers do, and a stage that copies them."""
    base = f"FROM {bases}busybox:latest"
    steps = ["ARG X", f"RUN {SMALL_FILES_SCRIPT}"]
    _write_lines(folder / "Dockerfile", f"{base} AS build", *steps, base, "COPY --from=build /m /m")


def _blob(mib: int, seed: int) -> Callable[[Path, str], None]:
    def write(folder: Path, bases: str) -> None:
        """One large layer, half of it incompressible."""
        _write_lines(folder / "Dockerfile", f"FROM {bases}busybox:latest", "COPY blob /blob")
        _write_tree(folder / "blob", mib * 4, 1 << 18, seed)

    return write


def _pull(folder: Path, bases: str) -> None:
    """A base image of a usual size, which is unpacked since a step runs on it."""
    _write_lines(folder / "Dockerfile", f"FROM {bases}node:22-slim", "RUN true")


WORKLOADS: dict[str, Callable[[Path, str], None]] = {
    "steps": _steps,
    "runs": _runs,
    "parallel": _parallel,
    "context": _context(20_000, 8192),
    "ignored": _ignored,
    "wide": _wide(400),
    "small-files": _small_files,
    "large-layer": _blob(600, seed=7),
    "pushed-layer": _blob(200, seed=11),
    "pull": _pull,
    "stages-400": _wide(400),
    "stages-4000": _wide(4000),
    "changed-10": _changed(10),
    "changed-100": _changed(100),
    "files-20000": _context(20_000, 512),
    "files-200000": _context(200_000, 512),
}
