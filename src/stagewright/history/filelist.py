"""The files behind a content digest: kept in a compact form, and compared to say which of them changed."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Literal

from stagewright.records import dataclass

# Enough to tell two contents of one file apart, and too little to be of use to anybody else.
_DIGITS = 16
_REGULAR = "10"

Kind = Literal["changed", "added", "removed", "mode", "owner"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """What became of one file; `old` and `new` are modes or owners, where these alone differ."""

    path: str
    kind: Kind
    old: str = ""
    new: str = ""


def pack(noted: Sequence[tuple[str, str]], clean: Callable[[str], str] = str) -> bytes:
    """The kept form of paths with the records that `sources.digests.describe` makes of their files.

    Some files at a time: the paths with NUL between them, the records joined. `clean` takes out of paths what must not
    be kept.
    """
    # Column by column, since a build context may have a hundred thousand files; and never all of it as single texts.
    columns: tuple[list[str], ...] = ([], [], [], [])
    for paths, records in noted:
        fields = records.split("\0")
        modes = fields[1::5]
        owners = [f"{uid}:{gid}" for uid, gid in zip(fields[2::5], fields[3::5], strict=True)]
        contents = [
            what[:_DIGITS] if mode.startswith(_REGULAR) or not what else _digest(what)
            for mode, what in zip(modes, fields[4::5], strict=True)
        ]
        for column, values in zip(columns, (_cleaned(paths.split("\0"), clean), modes, owners, contents), strict=True):
            column.append("\0".join(values))
    return zlib.compress("\0".join(chain.from_iterable(columns)).encode(errors="surrogateescape"), 1)


def _cleaned(paths: list[str], clean: Callable[[str], str]) -> list[str]:
    """All paths at once if that leaves them apart."""
    found = clean("\0".join(paths)).split("\0") if paths else []
    return found if len(found) == len(paths) else [clean(path) for path in paths]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]


def unpack(data: bytes) -> dict[str, tuple[str, str, str]] | None:
    """Mode, owner and content by path; None for what is damaged or not there."""
    try:
        text = zlib.decompress(data).decode(errors="surrogateescape")
    except zlib.error:
        return None
    fields = text.split("\0") if text else []
    count = len(fields) // 4
    columns = [fields[start * count : (start + 1) * count] for start in range(4)]
    return dict(zip(columns[0], zip(columns[1], columns[2], columns[3], strict=True), strict=True))


def compare(old: Mapping[str, tuple[str, str, str]], new: Mapping[str, tuple[str, str, str]]) -> list[FileChange]:
    """What is not the same: files before folders, contents before modes, then by path."""
    changes: list[FileChange] = []
    folders: set[str] = set()
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        if int((after or before or ("0",))[0], 8) & 0o170000 == 0o040000:
            folders.add(path)
        if before is None or after is None:
            changes.append(FileChange(path, "added" if before is None else "removed"))
        elif before[2] != after[2] or before[0][:-4] != after[0][:-4]:
            changes.append(FileChange(path, "changed"))
        elif before[0] != after[0]:
            changes.append(FileChange(path, "mode", before[0][-4:], after[0][-4:]))
        else:
            changes.append(FileChange(path, "owner", before[1], after[1]))
    order = ("changed", "added", "removed", "mode", "owner")
    return sorted(changes, key=lambda change: (change.path in folders, order.index(change.kind), change.path))


def sentence(changes: list[FileChange], *, prefix: str = "", most: int = 3) -> str:
    """The changes in words, `most` of them by name: `a changed, b was added, and 4 more files differ`."""
    parts = [_one(change, prefix) for change in changes[:most]]
    more = len(changes) - most
    if more > 0:
        parts.append(f"and {more} more {'file differs' if more == 1 else 'files differ'}")
    return ", ".join(parts) if more > 0 or len(parts) < 2 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _one(change: FileChange, prefix: str) -> str:
    path = os.fsencode(prefix + change.path).decode(errors="backslashreplace") or "/"
    if change.kind == "changed":
        return f"{path} changed"
    if change.kind in ("added", "removed"):
        return f"{path} was {change.kind}"
    return f"the {change.kind} of {path} went from {change.old} to {change.new}"
