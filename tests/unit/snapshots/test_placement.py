from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from stagewright.content.db import Database
from stagewright.snapshots.placement import spread_children
from stagewright.snapshots.store import SnapshotStore


def flags_of(folder: Path) -> str:
    """The flags of a folder, as lsattr shows them; "" where the file system has none."""
    done = subprocess.run(["lsattr", "-d", str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.split()[0] if done.returncode == 0 else ""


@pytest.mark.skipif(shutil.which("lsattr") is None, reason="lsattr is not installed")
def test_snapshots_are_placed_far_apart(tmp_path: Path) -> None:
    if "e" not in flags_of(tmp_path):
        pytest.skip("only ext4 places folders by a flag")
    SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata.db"))
    assert "T" in flags_of(tmp_path / "snapshots" / "drafts")
    assert "e" in flags_of(tmp_path / "snapshots" / "drafts")


def test_a_file_system_without_flags_is_left_alone() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        spread_children(folder)
        assert list(Path(folder).iterdir()) == []
