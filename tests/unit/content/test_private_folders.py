"""Folders that no other user can look into."""

from __future__ import annotations

import stat
from pathlib import Path

from stagewright.content.db import Database
from stagewright.content.folders import make_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_one(tmp_path: Path) -> None:
    make_private(tmp_path / "state/mounts")
    assert mode(tmp_path / "state/mounts") == 0o700


def test_one_that_was_open(tmp_path: Path) -> None:
    (tmp_path / "mounts").mkdir()
    (tmp_path / "mounts").chmod(0o755)
    make_private(tmp_path / "mounts")
    assert mode(tmp_path / "mounts") == 0o700


def test_the_metadata_of_an_open_state_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Database(tmp_path / "metadata.db").close()
    assert mode(tmp_path / "metadata.db") == 0o600
    assert mode(tmp_path) == 0o755
