from __future__ import annotations

from pathlib import Path

import pytest

from stagewright.cache.keys import KeyStore
from stagewright.content.db import Database


def test_uses_are_noted_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path / "metadata.db")
    keys = KeyStore(database)
    names = [f"d:{number}" for number in range(1200)]
    noted = []
    for now in (1000.0, 1050.0, 1070.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        if now == 1000.0:
            for name in names:
                keys.save([name], name, None, name)
        keys.touch(names)
        noted.append(database.query("SELECT DISTINCT last_used FROM cache_results"))
    assert noted == [[(1000.0,)], [(1000.0,)], [(1070.0,)]]
