"""The command line of `build`: where the Dockerfile comes from, what flags mean, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Files
from workbench import Workbench


def test_a_dockerfile_from_standard_input(bench: Workbench) -> None:
    bench.write("greeting", "from the context")
    archive = bench.scratch / "result.tar"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stagewright", "build", "--root", bench.stagewright.root),
            *("--config", bench.stagewright.config, "-q", "-f", "-", "-o", f"type=tar,dest={archive}", bench.context),
        ],
        input=b"FROM scratch\nCOPY greeting /\n",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert Files.read(archive.read_bytes()).below("/") == ["greeting"]


def test_a_dockerfile_outside_of_the_context_with_its_own_ignore_file(bench: Workbench) -> None:
    for name in ("kept", "hidden", "hidden-for-others"):
        bench.write(name)
    bench.write(".dockerignore", "hidden-for-others\n")
    other = bench.scratch / "other.Dockerfile"
    other.write_text("FROM scratch\nCOPY . /\n")
    other.with_name("other.Dockerfile.dockerignore").write_text("hidden\n")
    assert bench.files("-f", other).below("/") == [".dockerignore", "hidden-for-others", "kept"]


def test_a_missing_dockerfile_and_a_missing_context(bench: Workbench) -> None:
    assert "Dockerfile" in bench.fail()
    assert "nowhere" in bench.fail("-f", "nowhere")
    done = bench.stagewright.run("build", bench.scratch / "no-context", check=False)
    assert done.returncode == 1
    assert "no-context" in done.stderr


def test_build_arguments_with_and_without_a_value(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        ARG GIVEN=default
        ARG FROM_ENVIRONMENT=default
        ARG NOT_IN_ENVIRONMENT=default
        ARG EMPTY=default
        RUN echo "$GIVEN $FROM_ENVIRONMENT $NOT_IN_ENVIRONMENT [$EMPTY]" > /arguments
    """)
    files = bench.files(
        *("--build-arg", "GIVEN=a=b", "--build-arg", "FROM_ENVIRONMENT", "--build-arg", "NOT_IN_ENVIRONMENT"),
        *("--build-arg", "EMPTY="),
        env={"FROM_ENVIRONMENT": "inherited"},
    )
    assert files.text("/arguments") == "a=b inherited default []\n"


def test_labels_and_files_about_the_result(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nLABEL a=dockerfile b=dockerfile\n")
    iid, metadata = bench.scratch / "iid", bench.scratch / "metadata.json"
    bench.build(
        *("-t", "named", "-t", "registry.example.com/other:2", "--label", "b=flag", "--label", "c=flag"),
        *("--iidfile", iid, "--metadata-file", metadata),
    )
    written = json.loads(metadata.read_text())
    assert iid.read_text() == written["containerimage.config.digest"]
    assert written["image.name"].split(",") == ["docker.io/library/named:latest", "registry.example.com/other:2"]
    assert written["containerimage.descriptor"]["digest"] == written["containerimage.digest"]
    inspected = json.loads(bench.stagewright.run("inspect", "named").stdout)
    assert "flag" in json.dumps(inspected)
    labels = find(inspected, "Labels")
    assert labels == {"a": "dockerfile", "b": "flag", "c": "flag"}


def find(document: object, key: str) -> object:
    """The first value of a key anywhere in a document."""
    if isinstance(document, dict):
        if key in document:
            return document[key]
        document = list(document.values())
    if isinstance(document, list):
        return next((found for item in document if (found := find(item, key)) is not None), None)
    return None


def test_an_iid_file_of_before_does_not_outlive_a_failed_build(bench: Workbench) -> None:
    iid = bench.scratch / "iid"
    iid.write_text("sha256:of-an-earlier-build")
    bench.dockerfile("FROM busybox\nRUN false\n")
    bench.fail("--iidfile", iid)
    assert not iid.exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--squash",), "--squash"),
        (("--call=subrequests.describe",), "--call"),
        (("--attest=type=sbom",), "--attest"),
        (("--provenance=mode=max",), "--provenance"),
        (("--sbom=true",), "--sbom"),
        (("--builder", "x"), "--builder"),
        (("--platform=linux/amd64,linux/arm64",), "linux/arm64"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--targett=x",), "--target"),
        (("--ulimit=nofiles=1",), "nofiles"),
        (("--shm-size=lots",), "lots"),
        (("--network=bridge",), "bridge"),
        (("-o", "type=mystery"), "mystery"),
        (("-o", "type=oci,dest=x,mystery=1"), "mystery"),
        (("--progress=loud",), "loud"),
        (("--jobs=0",), "0"),
        (("--secret", "src=x"), "id"),
        (("-t", "UPPER"), "UPPER"),
        (("--build-context", "name"), "invalid context value: name"),
    ],
)
def test_what_is_not_there_is_refused_by_name(bench: Workbench, flags: tuple[str, ...], named: str) -> None:
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
    done = bench.stagewright.run("build", *flags, bench.context, check=False)
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def test_a_context_that_is_a_link_and_one_with_odd_names(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY odd/ /odd/\n")
    names = ["back\\slash", "new\nline", "sp ace", "ünï", "-dash", "star*"]
    for name in names:
        bench.write(f"odd/{name}", name)
    link = bench.scratch / "link"
    link.symlink_to(bench.context)
    archive = bench.scratch / "result.tar"
    bench.stagewright.build(link, "-o", f"type=tar,dest={archive}")
    assert Files.read(archive.read_bytes()).below("/odd") == sorted(names)


def test_what_the_language_has_and_the_builder_has_not_is_refused_at_its_line(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN true
        RUN --security=insecure true
    """)
    assert "Dockerfile:3" in bench.fail()


def test_the_state_directory_of_the_environment(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
    root = tmp_path / "elsewhere"
    inherited = {"STAGEWRIGHT_ROOT": str(root), "STAGEWRIGHT_CONFIG": str(bench.stagewright.config)}
    done = subprocess.run(
        [sys.executable, "-m", "stagewright", "build", "-q", "-t", "x", bench.context],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **inherited},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sha256:")
    assert root.is_dir()
