"""Files that outputs go to: whole or not at all, and nothing beside them, also where a process was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stagewright.exporters import destination
from stagewright.exporters.destination import replaced


@pytest.fixture(params=["nameless", "named"])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A path in an empty folder of a file system that has files without names, or none."""
    if request.param == "named":
        monkeypatch.setattr(destination, "_nameless", lambda folder: None)
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "app.tar"


def write(path: Path, data: bytes) -> None:
    with replaced(str(path)) as file:
        file.write(data)


def killed_before_replacing(path: Path) -> None:
    """Have a process write to the path that is killed when only the file's name is missing."""
    pid = os.fork()
    if not pid:
        os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        try:
            write(path, b"killed")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_what_is_there_is_replaced(target: Path) -> None:
    for data in (b"first", b"second"):
        write(target, data)
        assert target.read_bytes() == data
    assert os.listdir(target.parent) == [target.name]


def test_a_link_is_replaced_wherever_it_leads(target: Path) -> None:
    target.symlink_to("nowhere")
    write(target, b"x")
    assert not target.is_symlink()
    assert target.read_bytes() == b"x"
    assert os.listdir(target.parent) == [target.name]


def test_what_a_killed_process_has_left_goes_with_the_next(target: Path) -> None:
    write(target, b"old")
    killed_before_replacing(target)
    assert len(os.listdir(target.parent)) == 2
    assert target.read_bytes() == b"old"
    write(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == [target.name]


def test_what_others_write_at_the_same_time_stays(target: Path) -> None:
    write(target, b"old")
    with replaced(str(target)) as file:
        file.write(b"outer")
        write(target, b"inner")
        assert target.read_bytes() == b"inner"
    assert target.read_bytes() == b"outer"
    assert os.listdir(target.parent) == [target.name]


def test_names_that_are_like_it_stay(target: Path) -> None:
    write(target, b"old")
    names = [".app.tar.partial", ".app.tar.x.partial", ".app.tarx.12345678.partial", "app.tar.12345678.partial"]
    for name in names:
        (target.parent / name).touch()
    (target.parent / ".app.tar.12345678.partial").symlink_to(target)
    write(target, b"new")
    assert sorted(os.listdir(target.parent)) == sorted([*names, ".app.tar.12345678.partial", target.name])


def test_a_failure_leaves_what_was_there(target: Path) -> None:
    write(target, b"old")
    with pytest.raises(KeyError), replaced(str(target)) as file:
        file.write(b"half")
        raise KeyError
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == [target.name]
