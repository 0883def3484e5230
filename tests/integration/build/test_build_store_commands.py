"""The commands beside `build`, on images that were built: what they print, and what they make."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Image, Stagewright, output_of
from workbench import Workbench

APP = "FROM busybox\nRUN echo made > /made\nCMD cat /made\n"


@pytest.fixture
def built(shared_bench: Workbench) -> Workbench:
    """An image named app:1 in the store, and a build for it that is all cached."""
    shared_bench.dockerfile(APP)
    shared_bench.build("-t", "app:1")
    return shared_bench


def run(bench: Workbench, command: str, *arguments: object) -> str:
    """What a command prints to standard output."""
    return bench.stagewright.run(command, *arguments).stdout


def fail(bench: Workbench, command: str, *arguments: object) -> str:
    """What a command that must fail prints to standard error."""
    done = bench.stagewright.run(command, *arguments, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    return done.stderr


def names(bench: Workbench) -> set[str]:
    """The names of all images in the store."""
    return {json.loads(line)["name"] for line in run(bench, "images", "--format=json").splitlines()}


def test_images_and_inspect(built: Workbench) -> None:
    header, *rows = run(built, "images").splitlines()
    assert header.split() == ["NAME", "IMAGE", "ID", "PLATFORM", "CREATED", "SIZE"]
    (row,) = [row for row in rows if row.startswith("app:1 ")]
    identity = run(built, "images", "-q", "--no-trunc").split()[0]
    (document,) = json.loads(run(built, "inspect", "app:1"))
    text = json.dumps(document)
    assert identity in text
    assert "cat /made" in text
    assert identity.removeprefix("sha256:")[:12] in row


def test_tags_come_and_go(built: Workbench) -> None:
    run(built, "tag", "app:1", "registry.example.com/other/name:2")
    assert {"app:1", "registry.example.com/other/name:2"} <= names(built)
    run(built, "rm", "registry.example.com/other/name:2")
    assert "registry.example.com/other/name:2" not in names(built)
    assert "no-such-image" in fail(built, "rm", "no-such-image")
    assert "no-such-image" in fail(built, "tag", "no-such-image", "x")
    assert "no-such-image" in fail(built, "inspect", "no-such-image")


def test_push_and_pull(built: Workbench, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/store/app:1"
    run(built, "tag", "app:1", name)
    digest = run(built, "push", name).split()[-1]
    found = output_of("skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{name}").strip()
    assert digest == found
    other = Stagewright(tmp_path / "other", built.stagewright.config)
    assert other.run("pull", name).stdout.split()[-1] == digest
    (here,), (there,) = json.loads(run(built, "inspect", name)), json.loads(other.run("inspect", name).stdout)
    assert there == here | {"names": [name]}
    assert f"{registry}/store/app:none" in fail(built, "pull", f"{registry}/store/app:none")
    assert "127.0.0.1:9" in fail(built, "pull", "127.0.0.1:9/app")


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_save_and_load(built: Workbench, tmp_path: Path, form: str) -> None:
    archive = tmp_path / "app.tar"
    run(built, "save", "--format", form, "-o", archive, "app:1")
    transport = "oci-archive" if form == "oci" else "docker-archive"
    config = json.loads(output_of("skopeo", "inspect", "--config", f"{transport}:{archive}"))
    assert config["config"]["Cmd"] == ["/bin/sh", "-c", "cat /made"]
    other = Stagewright(tmp_path / "other", built.stagewright.config)
    assert other.run("load", "-i", archive).stdout == "Loaded image: app:1\n"
    assert other.run("images", "-q").stdout == "".join(line for line in run(built, "images", "-q").splitlines(True)[:1])
    bench = Workbench(other, tmp_path / "user")
    bench.dockerfile("FROM app:1\nRUN cp /made /again\n")
    assert bench.files("--offline").text("/again") == "made\n"


def test_save_to_a_pipe_and_what_is_no_archive(built: Workbench, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stagewright", "save", "--root", built.stagewright.root, "app:1"]
    archive = tmp_path / "app.tar"
    archive.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    assert Image.load(archive, tmp_path).run() == "made\n"
    archive.write_bytes(b"no archive")
    assert "app.tar" in fail(built, "load", "-i", archive)
    assert "missing.tar" in fail(built, "load", "-i", tmp_path / "missing.tar")


def test_du_and_prune(bench: Workbench) -> None:
    bench.dockerfile(APP + "RUN --mount=type=cache,target=/c head -c 300000 /dev/zero > /c/file; cp /c/file /file\n")
    bench.build("-t", "app:1")
    usage = run(bench, "du")
    assert "cache mount" in usage
    total = json_sum(bench)
    assert total > 1_000_000
    assert "Total: " in run(bench, "prune", "--force")
    assert bench.build().ran == []
    run(bench, "prune", "--all", "--force")
    assert bench.stagewright.run("images", "-q").stdout.split() != []
    archive = bench.scratch / "saved.tar"
    run(bench, "save", "-o", archive, "app:1")
    run(bench, "rm", "app:1")
    run(bench, "prune", "--all", "--force")
    assert json_sum(bench) < total / 10
    assert bench.files().text("/made") == "made\n"


def json_sum(bench: Workbench) -> int:
    """The bytes of all that takes space."""
    return sum(json.loads(line)["size"] for line in run(bench, "du", "--format=json").splitlines())


def test_info_and_version(built: Workbench) -> None:
    facts = json.loads(run(built, "info", "--format=json"))
    assert str(built.stagewright.root) in json.dumps(facts)
    text = run(built, "info")
    assert platform.release() in text
    assert "overlay" in text
    for arguments in (["version"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-m", "stagewright", *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("stagewright ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["biuld", "."], ["biuld", "build"]),
        (["bake"], ["bake"]),
        (["images", "--no-such-flag"], ["--no-such-flag"]),
        (["build"], ["argument", "--help"]),
        (["tag", "one"], ["tag"]),
        (["--no-such-flag"], ["--no-such-flag"]),
    ],
)
def test_wrong_usage(arguments: list[str], words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stagewright", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


def test_help_of_everything() -> None:
    done = subprocess.run([sys.executable, "-m", "stagewright", "--help"], capture_output=True, text=True, check=True)
    for command in (
        "build",
        "images",
        "inspect",
        "tag",
        "rm",
        "push",
        "pull",
        "save",
        "load",
        "prune",
        "du",
        "info",
        "version",
    ):
        assert f"  {command} " in done.stdout
        helped = subprocess.run(
            [sys.executable, "-m", "stagewright", command, "--help"], capture_output=True, text=True, check=True
        )
        assert f"usage: stagewright {command}" in helped.stdout
