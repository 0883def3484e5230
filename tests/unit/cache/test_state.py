"""The state directory: where it is, and what opening it makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stagewright.errors import StoreError
from stagewright.state import State, default_root


@pytest.mark.parametrize(
    ("env", "uid", "expected"),
    [
        ({}, 0, "/var/lib/stagewright"),
        ({"STAGEWRIGHT_ROOT": "/x"}, 0, "/x"),
        ({"STAGEWRIGHT_ROOT": "/x"}, 1000, "/x"),
        ({"STAGEWRIGHT_ROOT": ""}, 0, "/var/lib/stagewright"),
        ({"HOME": "/home/me"}, 1000, "/home/me/.local/share/stagewright"),
        ({"HOME": "/home/me", "XDG_DATA_HOME": "/data"}, 1000, "/data/stagewright"),
        ({"HOME": "/home/me", "XDG_DATA_HOME": ""}, 1000, "/home/me/.local/share/stagewright"),
    ],
)
def test_where_it_is(env: dict[str, str], uid: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_root(env) == expected


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    state = State(str(tmp_path / "root"), {})
    state.close()
    assert not (tmp_path / "root").exists()


def test_the_stores_share_one_database(tmp_path: Path) -> None:
    state = State(None, {"STAGEWRIGHT_ROOT": str(tmp_path / "root")})
    with state.locks.hold("name"):
        state.keys.save(["a"], "a", None, "name")
    assert state.db.query("SELECT key FROM cache_keys") == [("a",)]
    state.close()
    again = State(str(tmp_path / "root"), {})
    assert again.keys.lookup("a") is not None
    again.close()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot use the state directory"):
        _ = State(str(tmp_path / "file"), {}).db
