"""What the cleaning of mountpoints removes from a layer, and what it must not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stagewright.sandbox.stubs import StubRecorder, remove_stubs

OLD, NEW = 1_000_000_000 * 10**9, 1_500_000_000 * 10**9


def state(directory: Path, *, before: int = OLD, after: int = NEW, in_upper: bool = False) -> tuple[Any, ...]:
    status = os.stat(directory)
    return status.st_mode, status.st_uid, status.st_gid, before, (), in_upper, after


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").touch()
    os.utime(tmp_path / "etc", ns=(NEW, NEW))
    return tmp_path


def test_a_redundant_directory_goes(upper: Path) -> None:
    remove_stubs(str(upper), ("etc/hosts",), {"etc": state(upper / "etc")})
    assert os.listdir(upper) == []


def test_a_directory_that_was_there_stays_with_its_time(upper: Path) -> None:
    remove_stubs(str(upper), ("etc/hosts",), {"etc": state(upper / "etc", in_upper=True)})
    assert os.listdir(upper / "etc") == []
    assert os.stat(upper / "etc").st_mtime_ns == OLD


def test_a_time_that_the_step_changed_stays(upper: Path) -> None:
    os.utime(upper / "etc", ns=(NEW + 5, NEW + 5))
    remove_stubs(str(upper), ("etc/hosts",), {"etc": state(upper / "etc")})
    assert os.stat(upper / "etc").st_mtime_ns == NEW + 5


def test_a_changed_mode_stays(upper: Path) -> None:
    before = state(upper / "etc")
    os.chmod(upper / "etc", 0o700)
    os.utime(upper / "etc", ns=(NEW, NEW))
    remove_stubs(str(upper), ("etc/hosts",), {"etc": before})
    assert os.listdir(upper) == ["etc"]


def test_a_mountpoint_that_is_no_longer_empty_stays(upper: Path) -> None:
    (upper / "etc/hosts").write_text("127.0.0.1 me\n")
    remove_stubs(str(upper), ("etc/hosts",), {"etc": state(upper / "etc")})
    assert (upper / "etc/hosts").read_text() == "127.0.0.1 me\n"


def test_an_opaque_directory_stays(upper: Path) -> None:
    try:
        os.setxattr(upper / "etc", "user.overlay.opaque", b"y")
    except OSError:
        pytest.skip("no extended attributes here")
    os.utime(upper / "etc", ns=(NEW, NEW))
    remove_stubs(str(upper), ("etc/hosts",), {"etc": state(upper / "etc")})
    assert os.listdir(upper) == ["etc"]


def test_overlays_notes_do_not_keep_a_directory(upper: Path) -> None:
    try:
        os.setxattr(upper / "etc", "user.overlay.origin", b"x")
    except OSError:
        pytest.skip("no extended attributes here")
    os.utime(upper / "etc", ns=(NEW, NEW))
    remove_stubs(str(upper), ("etc/hosts",), {"etc": state(upper / "etc")})
    assert os.listdir(upper) == []


def test_links_are_not_followed(upper: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "hosts").touch()
    (upper / "etc/hosts").unlink()
    (upper / "etc").rmdir()
    (upper / "etc").symlink_to(outside)
    remove_stubs(str(upper), ("etc/hosts",), {"etc": state(outside)})
    assert os.listdir(outside) == ["hosts"]


def test_nested_directories_go_from_the_deepest(tmp_path: Path) -> None:
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    for name in ("a", "a/b"):
        os.utime(tmp_path / name, ns=(OLD, OLD))
    directories = {"a": state(tmp_path / "a"), "a/b": state(tmp_path / "a/b")}
    remove_stubs(str(tmp_path), ("a/b/c", "a/b/c/d"), directories)
    assert os.listdir(tmp_path) == []


def test_the_recorder_leaves_out_what_is_made_inside_a_mount(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    handle = os.open(tmp_path, os.O_PATH)
    recorder = StubRecorder(handle, str(tmp_path))
    recorder.before_create([], "run")
    (tmp_path / "run").mkdir()
    recorder.mounted(["cache"])
    recorder.before_create(["cache"], "inner")
    created, directories = recorder.report()
    os.close(handle)
    assert created == ("run",)
    assert list(directories) == [""]
    assert directories[""][5] is True


def test_the_recorder_of_a_read_only_root_has_nothing_to_tell(tmp_path: Path) -> None:
    recorder = StubRecorder(-1, None)
    recorder.before_create([], "run")
    assert recorder.report() == ((), {})
