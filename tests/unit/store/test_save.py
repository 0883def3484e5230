import io
import json
import tarfile
from pathlib import Path

import pytest
from store_world import World

from stagewright.errors import NotFoundError, UsageError
from stagewright.image.platform import Platform


def saved(world: World, *images: str, **options: str) -> bytes:
    stream = io.BytesIO()
    world.store.save(images, stream, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def member(archive: bytes, name: str) -> object:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        file = opened.extractfile(name)
        assert file is not None
        return json.load(file)


@pytest.mark.parametrize("format", ["docker", "oci"])
def test_what_is_saved_can_be_loaded_elsewhere(world: World, tmp_path: Path, format: str) -> None:
    app = world.image("docker.io/library/app:1", b"one", b"two")
    other = world.image("registry.example.com/other:2", b"two", b"three")
    nameless = world.image(None, b"four")
    archive = saved(world, "app:1", "registry.example.com/other:2", nameless.digest, format=format)
    elsewhere = World(tmp_path / "elsewhere")
    try:
        names = elsewhere.store.load(io.BytesIO(archive))
        assert names == ["app:1", "registry.example.com/other:2", nameless.digest]
        assert {info.name: info.digest for info in elsewhere.store.images()} == {
            "app:1": app.digest,
            "registry.example.com/other:2": other.digest,
        }
        assert elsewhere.all_blobs() == world.all_blobs()
        assert saved(elsewhere, "app:1", "registry.example.com/other:2", nameless.digest, format=format) == archive
    finally:
        elsewhere.close()


def test_names_of_one_image(world: World) -> None:
    world.image("docker.io/library/app:1", b"one")
    world.store.tag("app:1", "app:2")
    (entry,) = member(saved(world, "app:1", "app:2"), "manifest.json")  # type: ignore[misc, attr-defined]
    assert entry["RepoTags"] == ["app:1", "app:2"]


def test_an_index(world: World) -> None:
    own, foreign = world.image(None, b"own"), world.image(None, b"foreign", platform=Platform("linux", "s390x"))
    index = world.index("docker.io/library/app:1", foreign, own)
    (entry,) = member(saved(world, "app:1", format="oci"), "index.json")["manifests"]  # type: ignore[index]
    assert entry["digest"] == index.digest
    (entry,) = member(saved(world, "app:1"), "index.json")["manifests"]  # type: ignore[index]
    assert entry["digest"] == own.digest


def test_what_cannot_be_saved(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    with pytest.raises(NotFoundError):
        saved(world, "app:2")
    with pytest.raises(UsageError, match="format"):
        saved(world, "app:1", format="zip")
    world.state.blobs.delete(world.manifest(app)["layers"][0]["digest"])
    with pytest.raises(NotFoundError):
        saved(world, "app:1")
