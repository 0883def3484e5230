"""The corpus of the differential tests: small Dockerfiles with their contexts, as data in `corpus/*.toml`.

A case has a `dockerfile`, and may have `files` (its context), `flags` of both builders (`{context}` is the context's
folder), `engine_dockerfile` for an engine that does not know the language of the other one, `refused` where both
builders must fail, and `differs`: patterns of facts, each with the name of its reason in `reasons.toml`.

A file of the context is its text, or a table with one of `text`, `link`, `hardlink`, `folder`, `fifo` or `archive`
(what is in it, in the same form), and with `mode`, `owner` or `xattrs`.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import zstandard

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Case:
    """One build. `differs` says of facts (by pattern) why the engine's are others than ours; a refused one has none."""

    name: str
    dockerfile: str
    engine_dockerfile: str
    files: Mapping[str, Any]
    flags: tuple[str, ...]
    differs: Mapping[str, str]
    refused: bool

    def flags_for(self, context: Path) -> list[str]:
        """The build's flags, where `{context}` stands for the context's folder."""
        return [flag.replace("{context}", str(context)) for flag in self.flags]

    def write(self, folder: Path, dockerfile: str) -> Path:
        """Make the context, with one of the two Dockerfiles, in a new folder."""
        folder.mkdir()
        write_files(folder, self.files)
        (folder / "Dockerfile").write_text(dockerfile)
        return folder


def load_cases() -> list[Case]:
    """All cases, in the order of their files' names."""
    return [case for path in sorted(CORPUS.glob("*.toml")) for case in cases_of(path)]


def cases_of(path: Path) -> Iterator[Case]:
    """The cases of one file of the corpus."""
    reasons = tomllib.loads((CORPUS.parent / "reasons.toml").read_text())
    for name, case in tomllib.loads(path.read_text()).items():
        dockerfile = case["dockerfile"]
        differs = {pattern: reasons[reason] for pattern, reason in case.get("differs", {}).items()}
        yield Case(
            f"{path.stem}-{name}",
            dockerfile,
            case.get("engine_dockerfile", dockerfile),
            case.get("files", {}),
            tuple(case.get("flags", ())),
            differs,
            case.get("refused", False),
        )


def write_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Write files to a folder as the corpus has them, in the order of the corpus."""
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(folder, path, {"text": value} if isinstance(value, str) else value)
    for name, value in files.items():
        if isinstance(value, dict) and "link" not in value:
            # From here on nothing more is written, so a mode may forbid it.
            os.chown(folder / name, *value.get("owner", (0, 0)))
            if "mode" in value:
                os.chmod(folder / name, int(value["mode"], 8))


def write_file(folder: Path, path: Path, value: Mapping[str, Any]) -> None:
    """Write one file of any kind."""
    if "link" in value:
        path.symlink_to(value["link"])
    elif "hardlink" in value:
        path.hardlink_to(folder / value["hardlink"])
    elif value.get("folder"):
        path.mkdir(exist_ok=True)
    elif value.get("fifo"):
        os.mkfifo(path)
    elif "archive" in value:
        pack(path, value["archive"])
    else:
        path.write_text(value["text"])
    for name, text in value.get("xattrs", {}).items():
        os.setxattr(path, name, text.encode())


def pack(archive: Path, files: Mapping[str, Any]) -> None:
    """Write files to a tar archive, compressed as its name says."""
    suffix = archive.suffix.removeprefix(".")
    with tempfile.TemporaryDirectory() as scratch:
        write_files(Path(scratch), files)
        compression = suffix if suffix in ("gz", "bz2", "xz") else ""
        with tarfile.open(archive, f"w:{compression}") as out:  # type: ignore[call-overload]
            for path in [Path(scratch)] if "." in files else sorted(Path(scratch).iterdir()):
                out.add(path, path.relative_to(scratch), filter=undated)
    if suffix == "zst":
        # This Python's tarfile does not know it.
        archive.write_bytes(zstandard.compress(archive.read_bytes()))


def undated(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """The entry without its time, so that an archive's bytes are the same whenever it is made."""
    info.mtime = 0
    return info


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """The facts in which two images are not the same, with what each of them says."""
    keys = sorted(ours.keys() | theirs.keys())
    return {
        key: f"{key}\n    ours:   {ours.get(key)}\n    theirs: {theirs.get(key)}"
        for key in keys
        if ours.get(key) != theirs.get(key)
    }


def unexplained(found: Mapping[str, str], reasons: Mapping[str, str]) -> list[str]:
    """The differences for which no pattern gives a reason."""
    return [text for key, text in found.items() if not any(fnmatchcase(key, pattern) for pattern in reasons)]


def unneeded(found: Mapping[str, str], reasons: Mapping[str, str]) -> list[str]:
    """The patterns that match no difference."""
    return [pattern for pattern in reasons if not any(fnmatchcase(key, pattern) for key in found)]
