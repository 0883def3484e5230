"""A layer and an archive for ADD, unpacked: nothing appears or changes outside of the folder."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import archive

from stagewright.errors import StagewrightError
from stagewright.snapshots.extract import unpack_archive
from stagewright.snapshots.store import Draft
from stagewright.snapshots.tree import remove_tree
from stagewright.snapshots.unpack import apply

TOKENS = (
    *archive.TOKENS, b"..", b"../", b"/", b"./", b"../victim", b"lower/f", b".wh.", b".wh..wh..opq", b".wh..wh.x",
    b".wh.victim", b"link", b"link/x", b"0", b"1", b"2", b"3", b"5", b"6",
)  # fmt: skip

_FULL = 1 << 24


def check(data: bytes) -> None:
    """Fails for anything but an error of our own, and for a trace outside of the folder."""
    plain = archive.mended(data)
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as name:
        root = Path(name)
        outside = root / "victim"
        outside.mkdir()
        (outside / "f").write_text("kept")
        (root / "lower" / "lower").mkdir(parents=True)
        (root / "lower" / "lower" / "f").touch()
        (root / "lower" / "link").symlink_to(outside)
        before = _traces(root)
        for number, unpack in enumerate((_as_layer, _as_archive)):
            folder = root / "drafts" / str(number)
            folder.mkdir(parents=True)
            (folder / "known").symlink_to("../../victim")
            (folder / "absolute").symlink_to(outside)
            try:
                unpack(plain, folder, root)
            except StagewrightError as error:
                error.render().encode()
        remove_tree(str(root / "drafts"))
        assert _traces(root) == before


def _as_layer(data: bytes, folder: Path, root: Path) -> None:
    apply(_Short(data), Draft(None, str(folder), str(folder), str(folder)), lambda: (str(root / "lower"),))


def _as_archive(data: bytes, folder: Path, root: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack_archive(_Short(data), descriptor)
    finally:
        os.close(descriptor)


class _Short(io.BytesIO):
    """The archive, unless it is compressed: a few bytes could fill the disk."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data if data[257:262] == b"ustar" else b"")


def _traces(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = [(tuple(sorted(os.listdir(root))),)]
    for path in sorted([*(root / "victim").rglob("*"), *(root / "lower").rglob("*"), root / "victim", root / "lower"]):
        info = os.lstat(path)
        found.append((path, info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns))
    return found


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
