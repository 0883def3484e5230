"""Contexts that were made to harm, through the command line: one error with its line, and nothing of the host in it."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from workbench import Workbench

SECRET = "of-the-host"


def archive(*members: tuple[str, bytes, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore"])
def test_a_link_out_of_the_context_is_not_read(bench: Workbench, name: str) -> None:
    """An error would show the lines around it, in a log that the context's author may read."""
    (bench.scratch / "secret").write_text(f"!\n{SECRET}\n")
    if name != "Dockerfile":
        bench.dockerfile("FROM scratch\nCOPY . /")
    (bench.context / name).symlink_to("../secret")
    said = bench.fail()
    assert f"{name} is a link out of the build context" in said
    assert SECRET not in said


def test_a_link_within_the_context_is_read(bench: Workbench) -> None:
    bench.write("docker/file", "FROM scratch\nCOPY a /a\n")
    bench.write("docker/ignore", "b\n")
    bench.write("a", "1")
    (bench.context / "Dockerfile").symlink_to("docker/file")
    (bench.context / ".dockerignore").symlink_to("docker/ignore")
    assert bench.files().text("/a") == "1"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../../evil", tarfile.REGTYPE, "")], "'../../evil' leads out of the archive's root"),
        ([("l", tarfile.SYMTYPE, "x" * 90), ("l/f", tarfile.REGTYPE, "")], "'l' goes through a link to nowhere"),
        ([("h", tarfile.LNKTYPE, "/etc/passwd")], "'h' is a hard link to '/etc/passwd', which does not exist"),
    ],
)
def test_an_archive_is_refused_at_its_line(
    bench: Workbench, members: list[tuple[str, bytes, str]], message: str
) -> None:
    bench.dockerfile("FROM scratch\nADD evil.tar /in/")
    bench.write("evil.tar", archive(*members))
    said = bench.fail()
    assert message in said
    assert "Dockerfile:2" in said
    assert sorted(os.listdir(bench.context)) == ["Dockerfile", "evil.tar"]


def test_an_ignore_file_that_asks_for_too_much(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /")
    bench.write(".dockerignore", "*\n" * 20_000)
    assert "the ignore file has more than 10000 patterns" in bench.fail()


def test_a_dockerfile_that_asks_for_too_much(bench: Workbench) -> None:
    doubling = "".join("ENV A=$A$A\n" for _ in range(40))
    bench.dockerfile(f"FROM scratch\nENV A=aa\n{doubling}")
    said = bench.fail()
    assert "what is substituted is too long" in said
    assert "Dockerfile:23" in said or "Dockerfile:24" in said


def test_a_file_of_terabytes(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY sparse /\n")
    with open(bench.context / "sparse", "wb") as file:
        file.truncate(4 << 40)
    bench.build()
    said = bench.fail("-o", f"type=oci,dest={bench.scratch}/out.tar")
    assert "/sparse claims 4398046511104 bytes, most of them holes, which a layer would hold as zeros" in said
