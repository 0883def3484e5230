"""The size of folders that running steps change meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stagewright.snapshots.tree import tree_size


def test_what_goes_away_meanwhile_takes_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_bytes(bytes(1 << 16))
    expected = tree_size(str(tmp_path))
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    real = os.scandir

    @contextmanager
    def then_remove(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with real(path) as entries:
            found = list(entries)
        if path == str(tmp_path):
            (tmp_path / "file").unlink()
            folder = next(entry for entry in found if entry.is_dir())
            folder.stat(follow_symlinks=False)
            (tmp_path / "folder").rmdir()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", then_remove)
    assert tree_size(str(tmp_path)) - expected in range(8192)
