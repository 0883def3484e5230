"""The benchmark's cases: which workload, in which state the builder is, what is timed, and what it is held against."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builders import Compression
from workloads import SMALL_FILES_SCRIPT

# What the timed build finds: an empty builder; all results of a build of the same; or those and nothing exported yet.
Before = Literal["empty", "built", "unexported"]
# What it makes besides the result.
Product = Literal["nothing", "archive", "push"]
# From the workload's folder and an empty scratch folder to a shell script of plain system commands.
Floor = Callable[[Path, Path], str]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to be timed.

    `fresh` gives each build another value of the build argument X, so that steps run again. `touched` is a pattern of
    files of the context that get other contents before each build. `floor_name` says what `floor` does.
    """

    name: str
    what: str
    workload: str
    before: Before
    floor_name: str
    floor: Floor
    fresh: bool = False
    touched: str | None = None
    product: Product = "nothing"
    compression: Compression = "gzip"


@dataclass(frozen=True, slots=True)
class Claim:
    """What Stagewright says of itself: a case's median stays below `limit_s` seconds, or below that above its floor."""

    case: str
    limit_s: float
    above_floor: bool
    text: str


@dataclass(frozen=True, slots=True)
class Growth:
    """A case, and the same one with ten times as much to do, or of which ten times as much has changed.

    Of changes, `unchanged` is the case of none: what a build takes before it does any of its work.
    """

    name: str
    small: Case
    large: Case
    unchanged: Case | None = None


def _processes(count: int, command: str) -> Floor:
    return lambda context, scratch: f"i=0; while [ $i -lt {count} ]; do {command}; i=$((i+1)); done"


def _stat(pruned: str = "") -> Floor:
    prune = f"-path '*/{pruned}' -prune -o " if pruned else ""
    return lambda context, scratch: f"find {_quoted(context)} {prune}-printf '%p %i %s %T@ %C@\\n' >/dev/null"


def _copy(name: str) -> Floor:
    return lambda context, scratch: f"cp -a {_quoted(context / name)} {_quoted(scratch)}/copy"


def _pack(name: str, compressor: str) -> Floor:
    return lambda context, scratch: (
        f"tar -C {_quoted(context)} -cf - {name} | {compressor} >{_quoted(scratch)}/layer && sha256sum {scratch}/layer"
    )


def _small_files(context: Path, scratch: Path) -> str:
    return f"cd {_quoted(scratch)} && mkdir a && (cd a && X=1 && {SMALL_FILES_SCRIPT}) && cp -a a b"


def _pull(context: Path, scratch: Path) -> str:
    # In skopeo's folder the files named by a digest are the layers and the config, which is JSON.
    return (
        f"image=$(sed -n 's/^FROM //p' {_quoted(context)}/Dockerfile) && cd {_quoted(scratch)} && mkdir root && "
        "skopeo copy --quiet --src-tls-verify=false docker://$image dir:image && cd image && "
        'for f in [0-9a-f]*; do [ "$(head -c 1 $f)" = "{" ] || tar -C ../root -xf $f || exit 1; done'
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


_GZIP = "pigz" if shutil.which("pigz") else "gzip"
_TRIVIAL = "sh -c 'echo x >/dev/null'"
_FIND = ("find -printf", _stat())
_COPY = ("cp -a", _copy("src"))

CASES = (
    Case("steps-cold", "thirty steps, nothing known", "steps", "empty", "25 sh -c", _processes(25, _TRIVIAL)),
    Case("steps-cached", "thirty steps, all known", "steps", "built", *_FIND),
    Case("runs", "forty RUN of a trivial command", "runs", "built", "40 sh -c", _processes(40, _TRIVIAL), fresh=True),
    Case("parallel", "eight stages of 2 s", "parallel", "built", "sleep 2", _processes(1, "sleep 2"), fresh=True),
    Case("context-cold", "20,000 files (160 MB) copied in", "context", "empty", *_COPY),
    Case("context-cached", "the same, all known", "context", "built", *_FIND),
    Case("context-changed", "one of the files changed", "context", "built", *_COPY, touched="src/d000/e00/f000000.dat"),
    Case("ignored-cold", "40,000 files ignored", "ignored", "empty", "find -prune", _stat("node_modules")),
    Case("ignored-cached", "the same, all known", "ignored", "built", "find -prune", _stat("node_modules")),
    Case("wide-cached", "400 stages, all known", "wide", "built", *_FIND),
    Case(
        "small-files",
        "30,000 files made, and copied to a stage",
        "small-files",
        "built",
        "sh, cp -a",
        _small_files,
        fresh=True,
    ),
    Case(
        "export-gzip",
        "600 MiB to an OCI archive",
        "large-layer",
        "unexported",
        f"tar | {_GZIP} && sha256sum",
        _pack("blob", _GZIP),
        product="archive",
    ),
    Case(
        "export-zstd",
        "the same with zstd",
        "large-layer",
        "unexported",
        "tar | zstd -T0 && sha256sum",
        _pack("blob", "zstd -q -T0"),
        product="archive",
        compression="zstd",
    ),
    Case("pull", "node:22-slim pulled and unpacked", "pull", "empty", "skopeo copy && tar -x", _pull),
    Case(
        "push",
        "200 MiB packed and pushed",
        "pushed-layer",
        "unexported",
        f"tar | {_GZIP} && sha256sum",
        _pack("blob", _GZIP),
        product="push",
    ),
)

CLAIMS = (
    Claim("steps-cached", 0.2, False, "a cached build of thirty steps, from process start to exit"),
    Claim("runs", 1.0, True, "forty RUN steps of a trivial command, more than the commands need"),
    Claim("parallel", 3.0, False, "eight independent stages that wait for two seconds"),
)

GROWTHS = (
    Growth(
        "stages",
        Case("stages-400", "400 stages, all known", "stages-400", "built", *_FIND),
        Case("stages-4000", "4,000 stages, all known", "stages-4000", "built", *_FIND),
    ),
    Growth(
        "stages-cold",
        Case("stages-400-cold", "400 stages, nothing known", "stages-400", "empty", *_FIND),
        Case("stages-4000-cold", "4,000 stages, nothing known", "stages-4000", "empty", *_FIND),
    ),
    Growth(
        "files-cold",
        Case("files-20000-cold", "20,000 files of 512 B copied in", "files-20000", "empty", *_COPY),
        Case("files-200000-cold", "200,000 files of 512 B copied in", "files-200000", "empty", *_COPY),
    ),
    Growth(
        "files-cached",
        Case("files-20000-cached", "20,000 files, all known", "files-20000", "built", *_FIND),
        Case("files-200000-cached", "200,000 files, all known", "files-200000", "built", *_FIND),
    ),
    # Of a hundred stages, and of 20,000 files: a tenth, and all.
    Growth(
        "stages-changed",
        Case("run-10-of-100", "10 RUN of 100", "changed-10", "built", "10 sh -c", _processes(10, _TRIVIAL), fresh=True),
        Case("run-100", "all of them", "changed-100", "built", "100 sh -c", _processes(100, _TRIVIAL), fresh=True),
        Case("run-0-of-100", "none of them", "changed-10", "built", *_FIND),
    ),
    Growth(
        "files-changed",
        Case("files-2000-changed", "2,000 of 20,000 files", "files-20000", "built", *_COPY, touched="src/*/*/f*0.dat"),
        Case("files-20000-changed", "20,000 of them", "files-20000", "built", *_COPY, touched="src/*/*/f*.dat"),
        Case("files-0-changed", "none of them", "files-20000", "built", *_FIND),
    ),
)
