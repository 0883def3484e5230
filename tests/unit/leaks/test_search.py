"""The search in folders: large files, many small ones, and whatever lies at the edge of a window."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path

import pytest

from stagewright.errors import CanceledError
from stagewright.leaks.search import Search, is_searchable

SECRET = b"correct-horse-battery-staple-4711"
WINDOW = 256 << 10


def found(folder: Path, *secrets: bytes) -> list[str]:
    """The places of all leaks."""
    values = {f"s{at}": value for at, value in enumerate(secrets or (SECRET,))}
    return [str(leak) for leak in Search(values).folder(str(folder))]


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("shift", [-40, -33, -32, -20, -1, 0, 1, 40])
def test_a_value_on_the_edge_of_a_window(tmp_path: Path, window: int, shift: int) -> None:
    # The file's own name comes first.
    at = window * WINDOW + shift - len("file")
    (tmp_path / "file").write_bytes(os.urandom(at) + SECRET + os.urandom(100))
    assert found(tmp_path) == ["/file"]


def test_a_value_longer_than_a_window(tmp_path: Path) -> None:
    secret = os.urandom(300 << 10).hex().encode()[: 500 << 10]
    (tmp_path / "as-it-is").write_bytes(b"x" * 1000 + secret + b"y")
    (tmp_path / "encoded").write_bytes(base64.encodebytes(b"user:" + secret))
    (tmp_path / "other").write_bytes(secret[:-1])
    assert found(tmp_path, secret + b"\n") == ["/as-it-is", "/encoded (base64)"]


def test_many_small_files(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number:04}").write_bytes(b"%d" % number * 50)
    (tmp_path / "0777").write_bytes(SECRET)
    (tmp_path / "2999").write_bytes(b"x" + SECRET)
    assert found(tmp_path) == ["/0777", "/2999"]


def test_a_value_in_two_files_is_in_neither(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"correct-horse-")
    os.symlink("battery-staple-4711", tmp_path / "2")
    (tmp_path / "3").write_bytes(SECRET[:20])
    (tmp_path / "4").write_bytes(SECRET[20:])
    assert found(tmp_path) == []


def test_names_links_and_attributes(tmp_path: Path) -> None:
    name = SECRET.decode()
    (tmp_path / name).mkdir()
    os.symlink(f"/x/{name}", tmp_path / "link")
    (tmp_path / "file").touch()
    os.setxattr(tmp_path / "file", "user.one", SECRET.hex().encode())
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "gone", 0o020000, 0) if os.geteuid() == 0 else None
    assert found(tmp_path) == [
        f"the name of /{name}",
        "the attribute user.one of /file (hex)",
        "the target of the link /link",
    ]


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff/file")).write_bytes(SECRET)
    assert found(tmp_path) == ["/\udcff/file"]


def test_a_file_with_holes_is_read_where_it_has_data(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(SECRET)
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(1 << 40)
    assert found(tmp_path) == ["/sparse"]


def test_several_secrets_and_the_same_in_several_forms(tmp_path: Path) -> None:
    other = b"another one of them"
    (tmp_path / "both").write_bytes(base64.b64encode(other) + SECRET + SECRET.hex().encode())
    leaks = Search({"a": SECRET, "b": other, "c": b"in no file"}).folder(str(tmp_path))
    assert {(leak.secret, leak.place) for leak in leaks} == {("a", "/both"), ("b", "/both")}


def test_a_search_ends_when_it_knows_enough(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"{number:04}").write_bytes(SECRET)
    assert found(tmp_path) == [f"/{number:04}" for number in range(10)]


def test_nothing_to_search_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert found(tmp_path, b"12345", b"", b"\n") == []
    assert [is_searchable(value) for value in (b"12345\n", b"123456", b"   1   ")] == [False, True, False]


def test_a_search_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10 * WINDOW))
    cancel = threading.Event()
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise CanceledError

    with pytest.raises(CanceledError):
        Search({"a": SECRET}, check).folder(str(tmp_path))
    assert not cancel.is_set()


def test_texts() -> None:
    search = Search({"a": SECRET, "b": b"x y/z+1"})
    texts = [("one", f"ARG={SECRET.decode()}"), ("two", "?q=x+y%2Fz%2B1"), ("three", "nothing"), ("four", "\ud83d")]
    assert [(leak.secret, str(leak)) for leak in search.texts(texts)] == [("a", "one"), ("b", "two (URL-encoded)")]
