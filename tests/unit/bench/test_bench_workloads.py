from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import workloads

from stagewright.dockerfile.instructions import parse

BASES = "127.0.0.1:5000/docker.io/library/"
SMALL = ("steps", "runs", "parallel", "wide", "small-files", "pull", "stages-4000")


def digest_of(folder: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content.update(f"{path.relative_to(folder)}\n".encode() + (path.read_bytes() if path.is_file() else b""))
    return content.hexdigest()


@pytest.mark.parametrize("name", SMALL)
def test_a_workload_is_the_same_each_time_and_a_dockerfile_is_in_it(name: str, tmp_path: Path) -> None:
    first = workloads.make(name, tmp_path / "first", BASES)
    second = workloads.make(name, tmp_path / "second", BASES)
    assert digest_of(first) == digest_of(second)
    text = (first / "Dockerfile").read_bytes()
    assert parse(text).stages
    assert BASES.encode() in text


def test_a_tree_has_files_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    workloads._write_tree(tmp_path, 120, 1000, seed=1)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 120
    assert all(900 <= path.stat().st_size <= 1000 for path in files)
    assert {len(list(folder.iterdir())) for folder in tmp_path.glob("*/*")} == {50, 20}


def test_a_workload_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    folder = workloads.make("runs", tmp_path, BASES)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    workloads.make("runs", tmp_path, BASES)
    assert (folder / "Dockerfile").read_text() == "FROM scratch\n"
