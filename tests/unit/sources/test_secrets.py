"""Where the values of secrets come from, and what is said of those that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stagewright.errors import NotFoundError, StagewrightError, UsageError
from stagewright.options import SecretSource
from stagewright.sources.secrets import read_secrets


def test_values(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from\0a file\n")
    sources = [
        SecretSource("file", path=str(tmp_path / "file")),
        SecretSource("variable", env="TOKEN"),
        SecretSource("SAME_NAME"),
        SecretSource("data", data=b"\xff"),
        SecretSource("unset", env="NOT_SET"),
        SecretSource("twice", data=b"first"),
        SecretSource("twice", data=b"last"),
    ]
    assert read_secrets(sources, {"TOKEN": "caf\u00e9 \udcff", "SAME_NAME": ""}) == {
        "file": b"from\0a file\n",
        "variable": "caf\u00e9 ".encode() + b"\xff",
        "SAME_NAME": b"",
        "data": b"\xff",
        "twice": b"last",
    }


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(NotFoundError, match="secret one: the file /does/not/exist does not exist"):
        read_secrets([SecretSource("one", path="/does/not/exist")], {})


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"secret one: {tmp_path} is a folder") as caught:
        read_secrets([SecretSource("one", path=str(tmp_path))], {})
    assert caught.value.hint is not None and "one file" in caught.value.hint


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"secret one: .*/pipe is not a file") as caught:
        read_secrets([SecretSource("one", path=str(tmp_path / "pipe"))], {})
    assert caught.value.hint is not None and "env=VARIABLE" in caught.value.hint


def test_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(UsageError, match=r"secret one: the file .*/loop cannot be read: Too many levels"):
        read_secrets([SecretSource("one", path=str(tmp_path / "loop"))], {})


@pytest.mark.parametrize("kind", ["path", "env", "data"])
def test_more_than_buildkit_takes(tmp_path: Path, kind: str) -> None:
    value = b"x" * (500 << 10)
    for size, fits in ((len(value), True), (len(value) + 1, False)):
        given = value + b"x" * (size - len(value))
        (tmp_path / "file").write_bytes(given)
        source = {
            "path": SecretSource("big", path=str(tmp_path / "file")),
            "env": SecretSource("big", env="BIG"),
            "data": SecretSource("big", data=given),
        }[kind]
        if fits:
            assert read_secrets([source], {"BIG": given.decode()}) == {"big": given}
            continue
        with pytest.raises(StagewrightError, match="secret big is larger than 500 KiB"):
            read_secrets([source], {"BIG": given.decode()})
