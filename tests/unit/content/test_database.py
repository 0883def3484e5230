"""The metadata file: made once whoever comes first, refused where it cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest

from stagewright.content import db
from stagewright.content.db import SCHEMA_VERSION, Database
from stagewright.errors import StoreError


def open_and_write(path: Path, number: int) -> None:
    database = Database(path)
    database.execute("INSERT INTO resolutions (name, value, resolved) VALUES (?, '', 0)", (str(number),))
    database.close()


def test_many_processes_may_open_a_new_one_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        path = tmp_path / str(attempt) / "metadata.db"
        processes = [context.Process(target=open_and_write, args=(path, number)) for number in range(8)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 8
        assert Database(path).query("SELECT count(*) FROM resolutions") == [(8,)]


def test_a_transaction_takes_effect_whole_or_not_at_all(tmp_path: Path) -> None:
    database = Database(tmp_path / "metadata.db")
    with pytest.raises(ZeroDivisionError), database.transaction():
        with database.transaction():
            database.execute("INSERT INTO cache_keys (key, canonical) VALUES ('a', 'b')")
        raise ZeroDivisionError
    assert database.query("SELECT * FROM cache_keys") == []


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match="another version"):
        Database(path)


def file_of_version(path: Path, version: int) -> None:
    """A metadata file as an earlier version made it, with an image and a result in it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript("\n".join(db._SCHEMAS[:version]))
    connection.execute("INSERT INTO cache_keys (key, canonical) VALUES ('a', 'b')")
    connection.execute("INSERT INTO images VALUES ('docker.io/library/app:1', '{}', 1)")
    connection.execute(f"PRAGMA user_version={version}")
    connection.commit()
    connection.close()


def layout(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: " ".join(re.sub("--.*", "", sql).split()) for name, sql in rows}


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_file_of_an_earlier_version_is_upgraded_in_place(tmp_path: Path, version: int) -> None:
    path = tmp_path / "metadata.db"
    file_of_version(path, version)
    database = Database(path)
    assert database.query("SELECT * FROM cache_keys") == [("a", "b")]
    assert database.query("SELECT name FROM images") == [("docker.io/library/app:1",)]
    assert database.query("PRAGMA user_version") == [(SCHEMA_VERSION,)]
    database.close()
    Database(tmp_path / "new.db").close()
    assert layout(path) == layout(tmp_path / "new.db")


def test_an_upgrade_that_is_killed_has_changed_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    file_of_version(path, 1)
    before = layout(path)
    child = os.fork()
    if not child:
        connection = sqlite3.connect(path, isolation_level=None)
        # What an upgrade does, up to its last statement.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE secret_searches (x)")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert layout(path) == before
    Database(path).close()
    assert layout(path) != before


def test_many_processes_upgrade_one_file(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    file_of_version(path, 1)
    children = []
    for _ in range(8):
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if Database(path).query("SELECT * FROM linked_files") == [] else 2
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8


def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="is damaged: file is not a database"):
        Database(path)
