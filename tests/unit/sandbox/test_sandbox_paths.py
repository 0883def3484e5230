"""Paths inside a root never lead out of it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagewright.sandbox import paths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "a/b").mkdir(parents=True)
    (directory / "file").write_text("text")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    return directory


def real(root: Path, path: str, create: str | None = None) -> str:
    handle = os.open(root, os.O_PATH)
    try:
        fd, names = paths.resolve(handle, path, create)
        try:
            assert os.readlink(f"/proc/self/fd/{fd}") == os.path.join(root, *names)
        finally:
            os.close(fd)
    finally:
        os.close(handle)
    return "/".join(names)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", ""), ("", ""), ("a/b", "a/b"), ("/a//./b/", "a/b"), ("a/b/..", "a"), ("../../a", "a"), ("file", "file")],
)
def test_plain_paths(root: Path, path: str, expected: str) -> None:
    assert real(root, path) == expected


@pytest.mark.parametrize(
    ("link", "expected"),
    [("/a", "a/b"), ("a", "a/b"), ("../../../a", "a/b"), ("/../a/.", "a/b")],
)
def test_links_are_resolved_inside(root: Path, link: str, expected: str) -> None:
    (root / "link").symlink_to(link)
    assert real(root, "link/b") == expected


def test_a_link_to_the_outside_is_looked_for_inside(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(FileNotFoundError):
        real(root, "link/secret")
    real(root, "link/secret", paths.FILE)
    assert (tmp_path / "outside/secret").read_text() == "secret"
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_a_dangling_link_is_made_where_it_points(root: Path) -> None:
    (root / "resolv").symlink_to("../run/inner/stub")
    assert real(root, "resolv", paths.FILE) == "run/inner/stub"
    assert (root / "run/inner/stub").is_file()


def test_links_in_a_circle(root: Path) -> None:
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    with pytest.raises(OSError, match="symbolic links") as caught:
        real(root, "x")
    assert caught.value.errno == errno.ELOOP


def test_through_a_file(root: Path) -> None:
    with pytest.raises(NotADirectoryError):
        real(root, "file/x")
    with pytest.raises(NotADirectoryError):
        real(root, "file/x", paths.DIRECTORY)


def test_what_is_about_to_be_made_is_told(root: Path) -> None:
    told = []
    handle = os.open(root, os.O_PATH)
    fd, _ = paths.resolve(handle, "a/new/file", paths.FILE, lambda parents, name: told.append(([*parents], name)))
    os.close(fd)
    os.close(handle)
    assert told == [(["a"], "new"), (["a", "new"], "file")]
    assert os.stat(root / "a/new/file").st_size == 0


def test_read_text_takes_regular_files_only(root: Path) -> None:
    os.mkfifo(root / "fifo")
    handle = os.open(root, os.O_PATH)
    try:
        assert paths.read_text(handle, "/file", 2) == "te"
        for path in ("fifo", "a", "missing", "file/x"):
            assert paths.read_text(handle, path, 10) == ""
    finally:
        os.close(handle)


NAMES = st.sampled_from(["a", "b", "c", "..", ".", "/", "//", "a/b", "../c", "/b/../.."])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(NAMES, max_size=5))), st.lists(NAMES, max_size=6))
def test_no_tree_of_links_leads_out(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, list[str]]], path: list[str]
) -> None:
    base = tmp_path_factory.mktemp("links")
    root = base / "root"
    for directory in (root, root / "a", root / "a/b"):
        directory.mkdir()
    for number, (name, target) in enumerate(links):
        place = root / ("a" if number % 2 else "") / name
        if not os.path.lexists(place) and target:
            place.symlink_to("/".join(target) or "/")
    try:
        real(root, "/".join(path), paths.DIRECTORY)
    except OSError as error:
        assert error.errno in (errno.ELOOP, errno.ENOTDIR)
    assert os.listdir(base) == ["root"]


def test_what_is_made_for_an_owner_is_given_to_him_in_the_folder_where_it_was_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2021-30465's kind of race: somebody swaps a parent for a link out of the root as soon as it is made."""
    given: list[int] = []

    def give(name: str, uid: int, gid: int, *, dir_fd: int, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        given.append(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino)
        if name == "new":
            (root / "new").rename(root / "moved")
            (root / "new").symlink_to(tmp_path / "outside")

    monkeypatch.setattr(os, "chown", give)
    handle = os.open(root, os.O_PATH)
    try:
        fd, names = paths.resolve(handle, "new/secret", paths.DIRECTORY, owner=(1, 2))
        os.close(fd)
    finally:
        os.close(handle)
    inside = {path.stat().st_ino for path in root.rglob("*")}
    assert inside >= set(given)
    assert (root / "/".join(names)).is_dir()
    assert os.listdir(tmp_path / "outside") == ["secret"]
    assert (tmp_path / "outside/secret").is_file()


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/kmsg"])
def test_files_of_the_kernel_hold_no_text(path: str) -> None:
    handle = os.open("/", os.O_PATH)
    try:
        assert paths.read_text(handle, path, 1 << 10) == ""
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/file", (["file"], stat.S_IFREG)),
        ("/link/b", (["a", "b"], stat.S_IFDIR)),
        ("/fifo", (["fifo"], stat.S_IFIFO)),
        ("/dangling", (["proc"], None)),
        ("/missing/below", (["missing"], None)),
    ],
)
def test_where_a_path_leads(root: Path, path: str, expected: tuple[list[str], int | None]) -> None:
    (root / "link").symlink_to("/a")
    (root / "dangling").symlink_to("../../proc/kmsg")
    os.mkfifo(root / "fifo")
    handle = os.open(root, os.O_PATH)
    try:
        names, status = paths.find(handle, path)
    finally:
        os.close(handle)
    assert (names, None if status is None else stat.S_IFMT(status.st_mode)) == expected
    assert not (root / "missing").exists()
