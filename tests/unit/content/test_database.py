"""The metadata file: made once whoever comes first, refused where it cannot be used."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

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


def test_a_file_of_an_earlier_version_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    Database(path).execute("INSERT INTO cache_keys (key, canonical) VALUES ('a', 'b')")
    connection = sqlite3.connect(path)
    tables = ["secret_searches", "lazy_layers", "linked_files", "context_copies"]
    for table in tables:
        connection.execute(f"DROP TABLE {table}")
    connection.execute("PRAGMA user_version=1")
    connection.close()
    database = Database(path)
    for table in tables:
        assert database.query(f"SELECT * FROM {table}") == []
    assert database.query("SELECT * FROM cache_keys") == [("a", "b")]


def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="is damaged: file is not a database"):
        Database(path)
