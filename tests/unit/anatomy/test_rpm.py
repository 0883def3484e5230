"""Databases of rpm in images: real ones, and what calls itself one."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.anatomy.packages import holds_packages, packages_of
from stagewright.anatomy.rpm import packages_in
from stagewright.anatomy.tree import File

TEXT, INT32 = 6, 4
SPEC = """
Name: {name}
Version: {version}
Release: 3
{more}
Summary: {name}
License: MIT
BuildArch: noarch
%description
A package.
%files
"""


def header(*entries: tuple[int, int, bytes]) -> bytes:
    """A package's header of tags with their types and values."""
    index, data = b"", b""
    for tag, kind, value in entries:
        index += struct.pack(">IIII", tag, kind, len(data), 1)
        data += value
    return struct.pack(">II", len(entries), len(data)) + index + data


TOOL = header((1000, TEXT, b"tool\0"), (1001, TEXT, b"1.4\0"), (1002, TEXT, b"3\0"), (1022, TEXT, b"noarch\0"))


def database(folder: Path, *rows: object) -> bytes:
    """The bytes of a database with these rows."""
    path = folder / "rpmdb.sqlite"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob)")
        connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(row,) for row in rows])
        connection.commit()
    return path.read_bytes()


@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpm is not installed (Debian's package rpm)")
@pytest.mark.parametrize("folder", ["var/lib/rpm", "usr/lib/sysimage/rpm"])
def test_a_database_that_rpm_has_made(tmp_path: Path, folder: str) -> None:
    for name, version, more in (("tool", "1.4", "Epoch: 2"), ("library", "0.9~rc1", "")):
        (tmp_path / "spec").write_text(SPEC.format(name=name, version=version, more=more))
        build = ["rpmbuild", "-bb", "--quiet", f"--define=_topdir {tmp_path}/top", str(tmp_path / "spec")]
        subprocess.run(build, check=True, capture_output=True)
    packages = [str(path) for path in (tmp_path / "top").rglob("*.rpm")]
    rpm = ["rpm", f"--dbpath={tmp_path}/db", "--nodeps", "--justdb", "-i", *packages]
    subprocess.run(rpm, check=True, capture_output=True)
    data = (tmp_path / "db" / "rpmdb.sqlite").read_bytes()
    path = f"{folder}/rpmdb.sqlite"
    assert holds_packages(path)
    assert packages_of({path: File(path, "file", 0o644, "0:0", len(data), 0, data=data)}) == {
        "rpm": {"library": "0.9~rc1-3.noarch", "tool": "2:1.4-3.noarch"}
    }


def test_what_a_header_may_lack(tmp_path: Path) -> None:
    name, version = (1000, TEXT, b"a\0"), (1001, TEXT, b"1\0")
    rows = [
        header(name, version),
        header(name),
        header(version),
        header((1003, INT32, b"\0\0\0\7"), (1000, TEXT, b"b\0"), version),
        header((1000, INT32, b"\0\0\0\1"), version),
        header((1000, TEXT, b"no end"), version)[:-2],
        header((1000, TEXT, b"x" * 5000 + b"\0"), version),
        b"",
        b"\xff" * 100,
        "a text",
        7,
        None,
    ]
    assert list(packages_in(database(tmp_path, *rows))) == [("a", "1"), ("b", "7:1")]


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE Other (blob); CREATE VIEW Packages AS SELECT 1 AS hnum, blob FROM Other",
        "CREATE VIRTUAL TABLE Packages USING fts5(hnum, blob)",
        "CREATE TABLE Packages (other BLOB); INSERT INTO Packages VALUES (x'00')",
        "CREATE TABLE Packages (other, blob AS (hex(zeroblob(1000000)))); INSERT INTO Packages VALUES (1)",
    ],
    ids=["view", "virtual table", "no column", "computed column"],
)
def test_what_is_no_table_of_packages(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "rpmdb.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
    assert list(packages_in(path.read_bytes())) == []


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_database_with_bytes_changed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(database(tmp_path_factory.mktemp("rpm"), TOOL, TOOL))
    for _ in range(data.draw(st.integers(0, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    for name, version in packages_in(bytes(content)):
        assert isinstance(name, str) and isinstance(version, str)
