"""skopeo and umoci read every form of image that Stagewright writes: the same config, the same files."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from harness import Files, Stagewright, output_of, unpacked

DOCKERFILE = """
FROM busybox AS build
RUN mkdir -p /tree/d && echo one > /tree/one && echo two > /tree/d/two && ln /tree/one /tree/hard \\
 && ln -s d/two /tree/link && chown 3:4 /tree/d && chmod 4711 /tree/one
FROM scratch
COPY --from=build /tree /tree
COPY extra /tree/d/
ENV A=1
CMD ["x"]
"""
COMPRESSIONS = ("gzip", "zstd", "uncompressed")
# skopeo knows no Docker media type of a layer compressed with zstd.
UNKNOWN = ("zstd", "false")
FORMS = [form for form in product(COMPRESSIONS, ("true", "false")) if form != UNKNOWN]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context with files of every kind that an archive may hold."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "extra").write_text("extra")
    return folder


def tree_of(files: Files) -> Iterator[tuple[str, str, int, int, str]]:
    """Path, mode, owner, group, and content or link target of all files but the root folder."""
    for path, member in sorted(files.members.items()):
        kind = stat.S_IFDIR if member.isdir() else stat.S_IFLNK if member.issym() else stat.S_IFREG
        content = member.linkname if member.issym() else files.text(path) if path in files.contents else ""
        if path != "/":
            yield path[1:], stat.filemode(kind | member.mode), member.uid, member.gid, content


EXPECTED = [
    ("tree", "drwxr-xr-x", 0, 0, ""),
    ("tree/d", "drwxr-xr-x", 3, 4, ""),
    ("tree/d/extra", "-rw-r--r--", 0, 0, "extra"),
    ("tree/d/two", "-rw-r--r--", 0, 0, "two\n"),
    ("tree/hard", "-rws--x--x", 0, 0, "one\n"),
    ("tree/link", "lrwxrwxrwx", 0, 0, "d/two"),
    ("tree/one", "-rws--x--x", 0, 0, "one\n"),
]


# umoci knows no zstd.
GZIP = ("--dest-compress", "--dest-compress-format=gzip")


@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize(("compression", "mediatypes"), FORMS)
def test_skopeo_and_umoci_read_it(
    builder: Stagewright, app: Path, tmp_path: Path, kind: str, compression: str, mediatypes: str
) -> None:
    archive = tmp_path / "image.tar"
    form = f"compression={compression},oci-mediatypes={mediatypes},force-compression=true"
    builder.build(app, "--tag=made/here:1", f"--output=type={kind},dest={archive},{form}")
    source = f"{kind}-archive:{archive}"

    inspected: dict[str, Any] = json.loads(output_of("skopeo", "inspect", source))
    config: dict[str, Any] = json.loads(output_of("skopeo", "inspect", "--config", source))
    assert config["config"]["Cmd"] == ["x"]
    assert len(inspected["Layers"]) == len(config["rootfs"]["diff_ids"]) == 2

    files = unpacked(source, tmp_path, *GZIP)
    assert list(tree_of(files)) == EXPECTED
    assert {path: files.members[path].linkname for path in files.members if files.members[path].islnk()} in (
        {"/tree/one": "./tree/hard"},
        {"/tree/hard": "./tree/one"},
    )


@pytest.mark.parametrize(("compression", "mediatypes"), [*FORMS, UNKNOWN])
def test_the_media_types_are_those_asked_for(
    builder: Stagewright, app: Path, tmp_path: Path, compression: str, mediatypes: str
) -> None:
    folder = tmp_path / "layout"
    form = f"compression={compression},oci-mediatypes={mediatypes},force-compression=true"
    builder.build(app, "--tag=made/here:1", f"--output=type=oci,dest={folder},tar=false,{form}")
    manifest: dict[str, Any] = json.loads(output_of("skopeo", "inspect", "--raw", f"oci:{folder}"))
    suffix = {"gzip": "gzip", "zstd": "zstd", "uncompressed": ""}[compression]
    if mediatypes == "true":
        layer = "application/vnd.oci.image.layer.v1.tar" + (f"+{suffix}" if suffix else "")
        assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    else:
        layer = "application/vnd.docker.image.rootfs.diff.tar" + (f".{suffix}" if suffix else "")
        assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert {each["mediaType"] for each in manifest["layers"]} == {layer}


@pytest.mark.parametrize(("compression", "mediatypes"), FORMS)
def test_skopeo_copies_what_was_pushed(
    builder: Stagewright, app: Path, registry: str, tmp_path: Path, compression: str, mediatypes: str
) -> None:
    config = tmp_path / "stagewright.toml"
    config.write_text(builder.config.read_text() + f'\n[registry."{registry}"]\n  http = true\n')
    name = f"{registry}/witness/{compression}:{mediatypes}"
    form = f"compression={compression},oci-mediatypes={mediatypes},force-compression=true"
    Stagewright(builder.root, config).build(app, f"--output=type=image,name={name},push=true,{form}")
    assert list(tree_of(unpacked(f"docker://{name}", tmp_path, *GZIP, "--src-tls-verify=false"))) == EXPECTED
