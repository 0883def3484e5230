"""Archives and layouts hold what they must, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError, StoreError, UsageError
from stagewright.exporters.archive import ArchiveImage, write_archive, write_layout
from stagewright.exporters.destination import check_stream, output_file
from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest
from stagewright.image.platform import Platform
from stagewright.registry.reference import Reference
from stagewright.snapshots.sinks import FileSink


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def image(blobs: BlobStore, content: bytes, *names: str) -> ArchiveImage:
    config = ImageConfig(Platform("linux", "amd64")).to_bytes()
    manifest = Manifest(
        Descriptor(mediatypes.OCI_CONFIG, blobs.write(config), len(config)),
        (Descriptor(mediatypes.OCI_LAYER, blobs.write(content), len(content)),),
    ).to_bytes()
    descriptor = Descriptor(mediatypes.OCI_MANIFEST, blobs.write(manifest), len(manifest))
    return ArchiveImage(descriptor, tuple(Reference.parse(name) for name in names))


def archive(images: list[ArchiveImage], blobs: BlobStore, *, docker: bool) -> bytes:
    buffer = io.BytesIO()
    write_archive(images, blobs, FileSink(buffer), docker=docker)
    return buffer.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            found[member.name] = b"" if file is None else file.read()
        return found


def test_an_archive_holds_each_blob_once_under_its_digest(blobs: BlobStore) -> None:
    one, two = image(blobs, b"shared", "one"), image(blobs, b"shared", "two:1", "two:2")
    found = members(archive([one, two], blobs, docker=False))
    index = json.loads(found["index.json"])
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == [
        "docker.io/library/one:latest",
        "docker.io/library/two:1",
        "docker.io/library/two:2",
    ]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]] == [
        "latest",
        "1",
        "2",
    ]
    for name, data in found.items():
        if name.startswith("blobs/sha256/"):
            assert blobs.read("sha256:" + name.rpartition("/")[2]) == data
    assert len([name for name in found if name.startswith("blobs/sha256/")]) == 3
    assert "manifest.json" not in found


def test_a_docker_archive_says_where_config_and_layers_are(blobs: BlobStore) -> None:
    found = members(archive([image(blobs, b"a", "app:1", "example.com/app:2"), image(blobs, b"b")], blobs, docker=True))
    first, second = json.loads(found["manifest.json"])
    assert first["RepoTags"] == ["app:1", "example.com/app:2"]
    assert second["RepoTags"] is None
    assert found[first["Layers"][0]] == b"a"
    assert json.loads(found[first["Config"]])["architecture"] == "amd64"


def test_equal_images_give_equal_bytes(blobs: BlobStore) -> None:
    made = image(blobs, b"x" * 3_000_000, "app")
    assert archive([made], blobs, docker=True) == archive([made], blobs, docker=True)


def test_a_docker_archive_cannot_hold_an_index(blobs: BlobStore) -> None:
    index = Index((image(blobs, b"a").descriptor,)).to_bytes()
    whole = ArchiveImage(Descriptor(mediatypes.OCI_INDEX, blobs.write(index), len(index)))
    assert len(members(archive([whole], blobs, docker=False))) == 8
    with pytest.raises(UsageError, match="a Docker archive cannot hold an image of several platforms"):
        archive([whole], blobs, docker=True)


def test_a_missing_blob_is_an_error(blobs: BlobStore) -> None:
    made = image(blobs, b"a")
    blobs.delete("sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")
    with pytest.raises(NotFoundError):
        archive([made], blobs, docker=False)


def test_a_layout_keeps_the_other_images_of_its_folder(blobs: BlobStore, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    first, second = image(blobs, b"a", "a", "b"), image(blobs, b"b", "b", "c")
    write_layout([first], blobs, str(folder))
    write_layout([second], blobs, str(folder))
    entries = json.loads((folder / "index.json").read_text())["manifests"]
    found = {entry["annotations"]["io.containerd.image.name"].split("/")[-1]: entry["digest"] for entry in entries}
    assert found == {
        "a:latest": first.descriptor.digest,
        "b:latest": second.descriptor.digest,
        "c:latest": second.descriptor.digest,
    }
    for name in os.listdir(folder / "blobs" / "sha256"):
        assert blobs.read(f"sha256:{name}") == (folder / "blobs" / "sha256" / name).read_bytes()


def test_a_layout_is_not_written_over_something_else(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(IntegrityError):
        write_layout([image(blobs, b"a", "a")], blobs, str(tmp_path))


def test_no_link_leads_out_of_a_layouts_folder(blobs: BlobStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    made = image(blobs, b"a", "a")
    folder = tmp_path / "layout"
    (folder / "blobs" / "sha256").mkdir(parents=True)
    names = ["index.json", "oci-layout", f"blobs/sha256/{made.descriptor.digest.partition(':')[2]}"]
    for name in names[1:]:
        (folder / name).symlink_to(victim)
    write_layout([made], blobs, str(folder))
    assert victim.read_text() == "untouched"
    assert not any((folder / name).is_symlink() for name in names)
    other = tmp_path / "other"
    other.mkdir()
    (other / "blobs").symlink_to(tmp_path)
    with pytest.raises(StoreError, match=r"cannot write the OCI layout: .* is a link"):
        write_layout([made], blobs, str(other))


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.tar"
    with pytest.raises(KeyError), output_file(str(target)) as file:
        file.write(b"half")
        raise KeyError
    assert os.listdir(target.parent) == []
    with output_file(str(target)) as file:
        file.write(b"whole")
    assert os.listdir(target.parent) == ["out.tar"]
    assert target.read_bytes() == b"whole"


def test_a_failed_output_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.tar"
    target.write_bytes(b"old")
    with pytest.raises(KeyError), output_file(str(target)) as file:
        file.write(b"half")
        raise KeyError
    assert target.read_bytes() == b"old"


def test_a_link_leads_to_the_file_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with output_file(str(tmp_path / "link")) as file:
        file.write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"x"


def test_devices_are_written_to() -> None:
    with output_file("/dev/null") as file:
        file.write(b"x")
    with pytest.raises(StoreError, match="cannot write /dev/full"), output_file("/dev/full") as file:
        file.write(b"x" * 100_000)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        check_stream(str(tmp_path), "tar")
