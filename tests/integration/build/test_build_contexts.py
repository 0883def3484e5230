"""Named contexts: folders, images, image layouts and stages in the place of the stages and images of a Dockerfile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Build, output_of
from workbench import Workbench

COPY_ALL = "FROM scratch\nCOPY --from=files / /\n"


@pytest.fixture
def folder(bench: Workbench) -> Path:
    """A folder beside the context."""
    path = bench.scratch / "files"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "inner").write_text("inner\n")
    (path / "plain").write_text("plain\n")
    return path


def layout_of(bench: Workbench, *tags: str) -> Path:
    """An image layout with one image for each tag, which holds a file of that name."""
    layout = bench.scratch / "layout"
    for tag in tags:
        bench.write("name", tag)
        bench.dockerfile("FROM scratch\nCOPY name /name\nENV FROM_LAYOUT=1\n")
        archive = bench.scratch / f"{tag}.tar"
        bench.build("-o", f"type=oci,dest={archive}")
        output_of("skopeo", "copy", "--quiet", f"oci-archive:{archive}", f"oci:{layout}:{tag}")
    return layout


def digest_in(layout: Path, tag: str) -> str:
    index = json.loads((layout / "index.json").read_text())
    found = [m for m in index["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == tag]
    return str(found[0]["digest"])


def steps_of(build: Build) -> list[str]:
    """What ran but for the reading of contexts."""
    return [name for name in build.ran if not name.startswith("[context ")]


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_has_an_ignore_file_of_its_own(bench: Workbench, folder: Path) -> None:
    (folder / ".dockerignore").write_text("sub\n.dockerignore\n")
    bench.write(".dockerignore", "plain\n")
    bench.dockerfile(COPY_ALL)
    files = bench.files("--build-context", f"files={folder}")
    assert files.below("/") == ["plain"]
    assert files.owner("/plain") == (0, 0)


def test_a_folder_is_read_by_every_user_of_the_name(bench: Workbench, folder: Path) -> None:
    bench.dockerfile("""
        FROM busybox AS stage
        RUN --mount=from=files,source=sub,target=/mnt cat /mnt/inner > /inner
        FROM files
        COPY --from=stage /inner /copied
    """)
    files = bench.files("--build-context", f"files={folder}")
    assert files.below("/") == ["copied", "plain", "sub", "sub/inner"]
    assert files.text("/copied") == "inner\n"


def test_what_changes_in_a_folder_is_built_again_and_nothing_else(bench: Workbench, folder: Path) -> None:
    bench.dockerfile("""
        FROM scratch
        COPY --from=files plain /
        COPY --from=files sub /sub
    """)
    flags = ("--build-context", f"files={folder}")
    assert len(steps_of(bench.build(*flags))) == 2
    assert steps_of(bench.build(*flags)) == []
    (folder / "sub" / "inner").write_text("other\n")
    assert steps_of(bench.build(*flags)) == ["[stage-0 2/2] COPY --from=files sub /sub"]


def test_a_folder_beside_the_main_context_keeps_names_apart(bench: Workbench, folder: Path) -> None:
    bench.write("plain", "main\n")
    bench.dockerfile("FROM scratch\nCOPY plain /main\nCOPY --from=context plain /named\n")
    files = bench.files("--build-context", f"context={folder}")
    assert (files.text("/main"), files.text("/named")) == ("main\n", "plain\n")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{scratch}/missing", "failed to get build context files: {scratch}/missing: no such file or directory"),
        ("{scratch}/files/plain", "failed to get build context files: {scratch}/files/plain: not a directory"),
    ],
)
def test_a_folder_that_is_none_is_said_at_once(bench: Workbench, folder: Path, value: str, message: str) -> None:
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
    output = bench.fail("--build-context", f"files={value.format(scratch=bench.scratch)}")
    assert message.format(scratch=bench.scratch) in output


# --- images ---------------------------------------------------------------------------------------------------------


def test_an_image_takes_the_place_of_a_stage(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM registry.invalid/nowhere AS base
        RUN false
        FROM base
        RUN echo ran > /ran
    """)
    assert bench.files("--build-context", "base=docker-image://busybox").text("/ran") == "ran\n"


def test_an_image_that_does_not_exist_is_said_at_the_line(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY --from=base /f /\n")
    output = bench.fail("--offline", "--build-context", "base=docker-image://registry.invalid/nowhere:1")
    assert "registry.invalid/nowhere:1: not known here" in output
    assert "2 | >>> COPY" in output


def test_a_stage_takes_the_place_of_an_image(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM scratch AS files
        COPY Dockerfile /
        FROM scratch
        COPY --from=busybox / /
    """)
    assert bench.files("--build-context", "busybox=target:files").below("/") == ["Dockerfile"]


# --- layouts --------------------------------------------------------------------------------------------------------


def test_an_image_layout_by_tag_and_by_digest(bench: Workbench) -> None:
    layout = layout_of(bench, "one", "two")
    bench.dockerfile("FROM base AS x\nCOPY Dockerfile /own\n")
    assert bench.files("--build-context", f"base=oci-layout://{layout}:two").text("/name") == "two"
    digest = digest_in(layout, "one")
    assert bench.files("--build-context", f"base=oci-layout://{layout}@{digest}").text("/name") == "one"
    assert bench.files("--build-context", f"base=oci-layout://{layout}:two@{digest}").text("/name") == "one"
    assert bench.build("--build-context", f"base=oci-layout://{layout}@{digest}").has_step("OCI load from client")


def test_an_image_layout_with_one_image_needs_no_tag(bench: Workbench) -> None:
    layout = layout_of(bench, "one")
    bench.dockerfile("FROM scratch\nCOPY --from=base /name /copied\n")
    assert bench.files("--build-context", f"base=oci-layout://{layout}").text("/copied") == "one"


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        (":three", "no image has the tag three", "its tags are: one, two"),
        ("", "no image has the tag latest", "its tags are: one, two"),
        ("@sha256:12", "'sha256:12' is not a digest", ""),
        ("@sha256:" + "0" * 64, "cannot read blob sha256:" + "0" * 64 + ": No such file or directory", ""),
        ("/missing", "/missing: cannot read index.json: No such file or directory", ""),
    ],
)
def test_what_an_image_layout_does_not_have(bench: Workbench, reference: str, message: str, hint: str) -> None:
    layout = layout_of(bench, "one", "two")
    bench.dockerfile("FROM base\nCOPY Dockerfile /\n")
    output = bench.fail("--build-context", f"base=oci-layout://{layout}{reference}")
    assert message in output
    assert hint in output


@pytest.mark.parametrize("damage", ["manifest", "layer"])
def test_damage_in_an_image_layout_is_found(bench: Workbench, damage: str) -> None:
    layout = layout_of(bench, "one")
    digest = digest_in(layout, "one")
    if damage == "layer":
        digest = json.loads(blob(layout, digest).read_text())["layers"][0]["digest"]
    path = blob(layout, digest)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    bench.dockerfile("FROM base\nCOPY Dockerfile /\n")
    other = bench.scratch / "other-state"
    output = bench.fail("--root", other, "--build-context", f"base=oci-layout://{layout}")
    assert f"expected {digest}" in output


def test_a_pipe_in_an_image_layout_keeps_nobody_waiting(bench: Workbench) -> None:
    layout = bench.scratch / "layout"
    layout.mkdir()
    output_of("mkfifo", layout / "index.json")
    bench.dockerfile("FROM base\nCOPY Dockerfile /\n")
    assert "index.json is not a file" in bench.fail("--build-context", f"base=oci-layout://{layout}")


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")
