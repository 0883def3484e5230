"""What comes out of a build: image archives, folders, pushed images, and equal bytes for equal inputs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from harness import Files, Image, Stagewright, StandinImages, output_of
from images_world import Layer, image_of
from registry_servers import Handler, ScriptedServer, digest_of
from workbench import Workbench

APP = """
    FROM busybox
    RUN mkdir -p /app/deep && echo made > /app/deep/file && ln /app/deep/file /app/hard && ln -s file /app/deep/soft
    COPY --chown=3:4 Dockerfile /app/
    LABEL from=dockerfile
    CMD ["cat", "/app/deep/file"]
"""


def blob(archive: Path, digest: str) -> bytes:
    """A blob of an image archive, checked against its digest."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
        assert member is not None
        data = member.read()
    assert digest_of(data) == digest
    return data


def unzstd(data: bytes) -> bytes:
    """What a zstd stream of one or more frames holds."""
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


def manifest_of(archive: Path) -> dict[str, Any]:
    """The manifest of the one image in an OCI archive."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("index.json")
        assert member is not None
        (entry,) = json.load(member)["manifests"]
    manifest: dict[str, Any] = json.loads(blob(archive, entry["digest"]))
    return manifest


def test_several_outputs_of_one_build(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile(APP)
    out = {name: tmp_path / name for name in ("oci.tar", "docker.tar", "files.tar", "folder", "layout")}
    build = bench.build(
        *("-t", "app:1", "-o", "type=image", "-o", f"type=oci,dest={out['oci.tar']}"),
        *("-o", f"type=docker,dest={out['docker.tar']}", "-o", f"type=tar,dest={out['files.tar']}"),
        *("-o", f"type=local,dest={out['folder']}", "-o", f"type=oci,tar=false,dest={out['layout']}"),
        *("--output", "type=cacheonly"),
    )
    assert build.status == 0
    image = Image.load(out["oci.tar"], tmp_path)
    assert image.read("/app/deep/file") == "made\n"
    assert image.run() == "made\n"
    assert image.config["config"]["Labels"] == {"from": "dockerfile"}
    files = Files.read(out["files.tar"].read_bytes())
    assert files.owner("/app/Dockerfile") == (3, 4)
    folder = out["folder"]
    assert (folder / "app/deep/soft").read_text() == "made\n"
    assert (folder / "app/hard").stat().st_ino == (folder / "app/deep/file").stat().st_ino
    ids = {json.loads(output_of("skopeo", "inspect", "--raw", f"oci:{out['layout']}:1"))["config"]["digest"]}
    ids.add(manifest_of(out["oci.tar"])["config"]["digest"])
    ids.add(
        json.loads(output_of("skopeo", "inspect", "--raw", f"docker-archive:{out['docker.tar']}"))["config"]["digest"]
    )
    assert len(ids) == 1
    names = output_of("skopeo", "inspect", "--format={{.RepoTags}}", f"docker-archive:{out['docker.tar']}")
    assert names is not None
    assert bench.stagewright.run("images", "-q", "--no-trunc").stdout.split() == sorted(ids)


def test_a_folder_by_the_short_form_and_standard_output(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /file\n")
    bench.build("-o", tmp_path / "folder")
    assert (tmp_path / "folder/file").read_text().startswith("FROM")
    done = bench.stagewright.run("build", "-o", "-", bench.context)
    assert "file" in done.stdout


@pytest.mark.parametrize(
    ("options", "media_type", "first_bytes", "unpack"),
    [
        ("", "application/vnd.oci.image.layer.v1.tar+gzip", b"\x1f\x8b", gzip.decompress),
        ("compression=zstd", "application/vnd.oci.image.layer.v1.tar+zstd", b"\x28\xb5\x2f\xfd", unzstd),
        ("compression=uncompressed", "application/vnd.oci.image.layer.v1.tar", b"", bytes),
        ("oci-mediatypes=false", "application/vnd.docker.image.rootfs.diff.tar.gzip", b"\x1f\x8b", gzip.decompress),
    ],
)
def test_compression_and_media_types(
    shared_bench: Workbench,
    tmp_path: Path,
    options: str,
    media_type: str,
    first_bytes: bytes,
    unpack: Callable[[bytes], bytes],
) -> None:
    shared_bench.dockerfile(APP)
    archive = tmp_path / "image.tar"
    shared_bench.build("-o", f"type=oci,dest={archive},force-compression=true,{options}".rstrip(","))
    manifest = manifest_of(archive)
    assert {layer["mediaType"] for layer in manifest["layers"]} == {media_type}
    diff_ids = json.loads(blob(archive, manifest["config"]["digest"]))["rootfs"]["diff_ids"]
    for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        data = blob(archive, layer["digest"])
        assert len(data) == layer["size"]
        assert data.startswith(first_bytes)
        assert digest_of(unpack(data)) == diff_id


def test_layers_of_the_base_stay_as_they_are_unless_forced(shared_bench: Workbench, tmp_path: Path) -> None:
    shared_bench.dockerfile(APP)
    archive = tmp_path / "image.tar"
    shared_bench.build("-o", f"type=oci,dest={archive},compression=zstd")
    kinds = [layer["mediaType"].rpartition("+")[2] for layer in manifest_of(archive)["layers"]]
    assert kinds == ["gzip", "zstd", "zstd"]


def test_levels_of_compression(shared_bench: Workbench, tmp_path: Path) -> None:
    shared_bench.dockerfile("FROM busybox\nRUN seq 1 30000 > /numbers\n")
    sizes = []
    for level in (0, 9):
        archive = tmp_path / f"{level}.tar"
        shared_bench.build("-o", f"type=oci,dest={archive},compression=gzip,compression-level={level}")
        sizes.append(manifest_of(archive)["layers"][-1]["size"])
    assert sizes[0] > sizes[1]


def test_annotations(shared_bench: Workbench, tmp_path: Path) -> None:
    shared_bench.dockerfile(APP)
    archive = tmp_path / "image.tar"
    flags = ("--annotation", "a=1", "--annotation", "manifest:b=2")
    shared_bench.build("-o", f"type=oci,dest={archive},annotation.c=3", *flags)
    assert manifest_of(archive)["annotations"] == {"a": "1", "b": "2", "c": "3"}


def test_a_cached_rebuild_is_the_same_image(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile(APP)
    ids = []
    for number in range(2):
        bench.build("-t", "app", "--metadata-file", tmp_path / f"{number}.json")
        ids.append(json.loads((tmp_path / f"{number}.json").read_text())["containerimage.digest"])
    assert ids[0] == ids[1]


@pytest.mark.parametrize("kind", ["oci", "docker", "tar"])
def test_equal_inputs_and_a_date_make_equal_bytes(standin_images: StandinImages, tmp_path: Path, kind: str) -> None:
    digests = []
    for number in range(2):
        context = tmp_path / f"context{number}"
        bench = Workbench(Stagewright(tmp_path / f"state{number}", standin_images.config), context)
        last = "RUN echo late > /app/late; mkfifo /app/pipe; rm -r /var; touch /etc/passwd"
        bench.dockerfile(f"{APP}    {last}\n    WORKDIR /new/place\n")
        for name in sorted(["a", "b", "c/d"], reverse=bool(number)):
            bench.write(name, name)
            os.utime(context / name, (number + 1_700_000_000, number + 1_700_000_000))
        archive = tmp_path / f"{number}.tar"
        bench.build("-t", "app", "-o", f"type={kind},dest={archive}", env={"SOURCE_DATE_EPOCH": "1700000000"})
        digests.append(hashlib.sha256(archive.read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_the_date_is_in_the_config_and_in_the_layers(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile(APP)
    archive = tmp_path / "image.tar"
    bench.build("-o", f"type=oci,dest={archive}", "--build-arg", "SOURCE_DATE_EPOCH=1000000000")
    config = json.loads(output_of("skopeo", "inspect", "--config", "--raw", f"oci-archive:{archive}"))
    assert config["created"] == "2001-09-09T01:46:40Z"
    assert {entry["created"] for entry in config["history"][-3:]} == {"2001-09-09T01:46:40Z"}
    image = Image.load(archive, tmp_path)
    assert image.tree.members["/app/deep/file"].mtime == 1_000_000_000


def test_nothing_is_left_of_an_output_that_fails(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile(APP)
    (tmp_path / "file").write_text("in the way")
    assert "file" in bench.fail("-o", f"type=local,dest={tmp_path}/file")
    (tmp_path / "folder").mkdir()
    assert "folder" in bench.fail("-o", f"type=oci,dest={tmp_path}/folder")
    assert (tmp_path / "file").read_text() == "in the way"


# --- pushes -----------------------------------------------------------------------------------------------------------


def test_a_push_that_skopeo_finds(bench: Workbench, registry: str, tmp_path: Path) -> None:
    bench.dockerfile(APP)
    names = [f"{registry}/pushed/app:{tag}" for tag in ("1", "latest")]
    metadata = tmp_path / "metadata.json"
    bench.build("-t", names[0], "-t", names[1].removesuffix(":latest"), "--push", "--metadata-file", metadata)
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    for name in names:
        assert (
            output_of("skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{name}").strip()
            == digest
        )
    bench.build("-o", f'type=image,"name={registry}/pushed/two:1,{registry}/pushed/three:1",push=true')
    for name in ("two", "three"):
        output_of("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/pushed/{name}:1")


class PushedTo:
    """A registry's other half: takes what is pushed to one repository, and knows blobs of another one."""

    def __init__(self, server: ScriptedServer, mountable: set[str]) -> None:
        self.server = server
        self.blobs: set[str] = set()
        self.mountable = mountable
        server.on("HEAD /v2/app/blobs/.*", self._has)
        server.on("POST /v2/app/blobs/uploads/", self._begin)
        server.on("(PUT|PATCH) /upload", lambda handler: handler.reply(404))
        server.on("PATCH /upload", lambda handler: handler.reply(202, Location="/upload", Range="0-0"))
        server.on("PUT /upload", self._end)
        server.on("PUT /v2/app/manifests/.*", lambda handler: handler.reply(201))

    def _has(self, handler: Handler) -> None:
        digest = handler.path.rpartition("/")[2]
        handler.reply(200 if digest in self.blobs else 404, Docker_Content_Digest=digest)

    def _begin(self, handler: Handler) -> None:
        wanted = [
            digest for digest in self.mountable if digest.replace(":", "%3A") in handler.path or digest in handler.path
        ]
        if wanted and "from=base" in handler.path:
            self.blobs.update(wanted)
            handler.reply(201, Location=f"/v2/app/blobs/{wanted[0]}", Docker_Content_Digest=wanted[0])
        else:
            handler.reply(202, Location="/upload")

    def _end(self, handler: Handler) -> None:
        digest = handler.path.partition("digest=")[2].replace("%3A", ":")
        self.blobs.add(digest)
        handler.reply(201, Location=f"/v2/app/blobs/{digest}", Docker_Content_Digest=digest)


def test_blobs_are_mounted_and_those_that_are_there_skipped(
    stagewright: Stagewright, server: ScriptedServer, tmp_path: Path
) -> None:
    base = image_of(Layer().file("base", b"x" * 100_000), compression="gzip")
    server.serve_image(base, "base")
    layer = base.blobs[1][0].digest
    registry = PushedTo(server, {layer})
    bench = Workbench(stagewright, tmp_path / "context")
    bench.dockerfile(f"FROM {server.address}/base:1\nCOPY Dockerfile /\n")
    bench.build("-t", f"{server.address}/app:1", "--push")
    uploaded = [path for path in server.asked("PUT") if path.startswith("/upload")]
    assert layer in registry.blobs
    assert len(uploaded) == len(registry.blobs) - 1 == 2
    assert not any(layer.removeprefix("sha256:") in path for path in uploaded)
    posts = len(server.asked("POST"))
    bench.build("-t", f"{server.address}/app:2", "--push")
    assert len(server.asked("POST")) == posts
    assert server.asked("PUT")[-1] == "/v2/app/manifests/2"
    # The base's layer came here once, for the build, and was not asked for again to be pushed.
    assert len([path for path in server.asked("GET") if layer in path]) <= 1


def test_a_push_without_a_name_and_to_nowhere(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
    assert "name" in bench.fail("--push")
    assert "127.0.0.1:9" in bench.fail("-t", "127.0.0.1:9/app", "--push")
