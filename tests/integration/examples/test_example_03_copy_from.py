"""Example 3: files from a named stage, from a stage by its index, and from an image that is never run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from harness import Image, Stagewright, StandinImages, output_of

EXAMPLE = "03-copy-from"


@pytest.fixture
def image(standin_stagewright: Stagewright, example: Path, tmp_path: Path) -> Image:
    standin_stagewright.build(example, "-o", f"type=oci,dest={tmp_path}/site.tar")
    return Image.load(tmp_path / "site.tar", tmp_path)


def test_the_named_stage_and_the_index_agree(image: Image) -> None:
    assert image.below("/srv") == {"/srv/SHA256SUMS", "/srv/about.html", "/srv/index.html"}
    for line in image.read("/srv/SHA256SUMS").splitlines():
        digest, name = line.split()
        assert hashlib.sha256(image.read(f"/srv/{name}").encode()).hexdigest() == digest


def test_the_files_are_those_of_the_nginx_image(image: Image, standin_images: StandinImages, tmp_path: Path) -> None:
    reference = f"docker://{standin_images.address}/docker.io/library/nginx:latest"
    output_of("skopeo", "copy", "--quiet", "--src-tls-verify=false", reference, f"oci-archive:{tmp_path}/nginx.tar")
    nginx = Image.load(tmp_path / "nginx.tar", tmp_path)
    assert image.below("/etc/nginx") == {"/etc/nginx/nginx.conf", "/etc/nginx/mime.types"}
    for path in image.below("/etc/nginx"):
        assert image.read(path) == nginx.read(path)


def test_the_config_is_busyboxs_with_a_port(image: Image) -> None:
    assert image.config["config"]["ExposedPorts"] == {"8080/tcp": {}}
    assert image.config["config"]["Cmd"] == ["httpd", "-f", "-p", "8080", "-h", "/srv"]
    assert image.run("cat", "/srv/index.html").count("a stage of its own") == 1


def test_a_folder_gets_the_same_files(
    image: Image, standin_stagewright: Stagewright, example: Path, tmp_path: Path
) -> None:
    standin_stagewright.build(example, "-o", f"type=local,dest={tmp_path}/local")
    for path in image.below("/srv") | image.below("/etc"):
        assert (tmp_path / "local" / path.lstrip("/")).read_bytes() == image.read(path).encode()
