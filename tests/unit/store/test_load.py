import bz2
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_world import World, digest_of, tar_of

from stagewright import loading
from stagewright.errors import IntegrityError, StagewrightError

Members = dict[str, bytes | tarfile.TarInfo]


class Pipe(io.RawIOBase):
    """A stream that can only be read, and that answers less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = min(size, 700) if size >= 0 else 700
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def archive_of(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def document(value: Any) -> bytes:
    return json.dumps(value).encode()


LAYERS = (tar_of(file=b"one"), tar_of(file=b"two"))


def config_of(layers: tuple[bytes, ...] = LAYERS, **more: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}
    return document({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]}, "rootfs": rootfs, **more})


def docker_archive(
    layers: tuple[bytes, ...] = LAYERS, names: tuple[str, ...] = ("app:1",), config: bytes | None = None
) -> Members:
    """As `docker save` wrote it up to Docker 24."""
    config = config_of() if config is None else config
    members: Members = {f"{number:064x}/layer.tar": layer for number, layer in enumerate(layers)}
    entry = {"Config": f"{hashlib.sha256(config).hexdigest()}.json", "RepoTags": list(names), "Layers": list(members)}
    for number in range(len(layers)):
        members[f"{number:064x}/json"] = b"{}"
        members[f"{number:064x}/VERSION"] = b"1.0"
    return {**members, entry["Config"]: config, "manifest.json": document([entry]), "repositories": b"{}"}  # type: ignore[dict-item]


def blob(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


OCI = "application/vnd.oci.image."


def oci_archive(
    annotations: dict[str, str] | None = None, layers: tuple[bytes, ...] = LAYERS, config: bytes | None = None
) -> Members:
    config = config_of() if config is None else config
    packed = [gzip.compress(layer, mtime=0) for layer in layers]
    manifest = document(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}manifest.v1+json",
            "config": blob(config, f"{OCI}config.v1+json"),
            "layers": [blob(layer, f"{OCI}layer.v1.tar+gzip") for layer in packed],
        }
    )
    given = {"org.opencontainers.image.ref.name": "docker.io/library/app:1"} if annotations is None else annotations
    index = {"schemaVersion": 2, "manifests": [blob(manifest, f"{OCI}manifest.v1+json", annotations=given)]}
    members: Members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": document(index)}
    for data in (manifest, config, *packed):
        members[f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"] = data
    return members


def load(world: World, members: Members) -> list[str]:
    return world.store.load(io.BytesIO(archive_of(members)))


def check_whole(world: World, name: str) -> None:
    facts = world.store.inspect(name)
    assert len(facts["layers"]) == len(LAYERS)
    assert [layer["diff_id"] for layer in facts["layers"]] == [digest_of(layer) for layer in LAYERS]
    for layer in facts["layers"]:
        assert world.state.blobs.size(layer["digest"]) == layer["size"]


@pytest.mark.parametrize("make", [docker_archive, oci_archive])
@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "bzip2", "zstd"],
)
def test_archives_through_a_pipe(world: World, make: Callable[[], Members], pack: Callable[[bytes], bytes]) -> None:
    assert world.store.load(Pipe(pack(archive_of(make())))) == ["app:1"]  # type: ignore[arg-type]
    check_whole(world, "app:1")
    assert world.store.images()[0].platform == "linux/amd64"


@pytest.mark.parametrize("make", [docker_archive, oci_archive])
def test_the_order_of_members_does_not_matter(world: World, make: Callable[[], Members]) -> None:
    assert load(world, dict(reversed(make().items()))) == ["app:1"]
    check_whole(world, "app:1")


@pytest.mark.parametrize("make", [docker_archive, oci_archive])
def test_an_image_that_was_loaded_survives_a_prune_of_everything(world: World, make: Callable[[], Members]) -> None:
    load(world, make())
    world.store.prune(all=True)
    check_whole(world, "app:1")


def test_several_names(world: World) -> None:
    assert load(world, docker_archive(names=("app:1", "registry.example.com/app:2"))) == [
        "app:1",
        "registry.example.com/app:2",
    ]
    assert len({info.digest for info in world.store.images()}) == 1


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1"}, "x:1"),
        ({"org.opencontainers.image.ref.name": "registry.example.com/x"}, "registry.example.com/x:latest"),
        ({"org.opencontainers.image.ref.name": "latest"}, None),
        ({}, None),
    ],
)
def test_names_of_oci_images(world: World, annotations: dict[str, str], name: str | None) -> None:
    (loaded,) = load(world, oci_archive(annotations))
    if name is None:
        assert world.store.images() == []
        world.store.tag(loaded, "named:1")
        check_whole(world, "named:1")
    else:
        assert loaded == name
        check_whole(world, name)


def test_an_archive_of_both_kinds_has_the_names_of_its_docker_half(world: World) -> None:
    members = oci_archive({"org.opencontainers.image.ref.name": "1"})
    config = f"blobs/sha256/{hashlib.sha256(config_of()).hexdigest()}"
    members["manifest.json"] = document([{"Config": config, "RepoTags": ["app:1"], "Layers": []}])
    assert load(world, members) == ["app:1"]
    check_whole(world, "app:1")


def test_a_name_longer_than_any_path_is_refused(world: World) -> None:
    """A compressed archive could name gigabytes, and names are kept until its end."""
    for members in ({"a" * 5000: b"x"}, {"a": link("b" * 5000)}):
        with pytest.raises(IntegrityError, match=r"archive member '[ab]+\.\.\.' has too long a name"):
            load(world, members)  # type: ignore[arg-type]


def test_layers_that_are_links(world: World) -> None:
    members = docker_archive(layers=(LAYERS[0],), config=config_of((LAYERS[0],) * 3))
    first = f"{0:064x}/layer.tar"
    members["a/layer.tar"] = link(f"../{first}")
    members["b/layer.tar"] = link("a/layer.tar", tarfile.LNKTYPE)
    entry = json.loads(members["manifest.json"])[0]  # type: ignore[arg-type]
    members["manifest.json"] = document([{**entry, "Layers": [first, "a/layer.tar", "b/layer.tar"]}])
    load(world, members)
    assert [layer["digest"] for layer in world.store.inspect("app:1")["layers"]] == [digest_of(LAYERS[0])] * 3


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_layers_of_a_docker_archive(world: World, pack: Callable[[bytes], bytes]) -> None:
    packed = (pack(LAYERS[0]), pack(LAYERS[1]))
    load(world, docker_archive(packed))
    check_whole(world, "app:1")
    kinds = {layer["media_type"] for layer in world.store.inspect("app:1")["layers"]}
    assert kinds <= {f"{OCI}layer.v1.tar+gzip", f"{OCI}layer.v1.tar+zstd"}


def test_an_index_that_lacks_some_of_its_platforms_is_left_out(world: World) -> None:
    members = oci_archive()
    entry = json.loads(members["index.json"])["manifests"][0]  # type: ignore[arg-type]
    missing = blob(b"not here", f"{OCI}manifest.v1+json", platform={"os": "linux", "architecture": "s390x"})
    for entries, digest in (([missing, entry], entry["digest"]), ([entry], None)):
        nested = document({"schemaVersion": 2, "manifests": entries})
        members[f"blobs/sha256/{hashlib.sha256(nested).hexdigest()}"] = nested
        top = blob(nested, f"{OCI}index.v1+json", annotations=entry["annotations"])
        members["index.json"] = document({"schemaVersion": 2, "manifests": [top]})
        assert load(world, members) == ["app:1"]
        assert world.store.inspect("app:1")["digest"] == (digest or top["digest"])
        check_whole(world, "app:1")


# --- what is refused ------------------------------------------------------------------------------------------------


def with_entry(members: Members, **changes: Any) -> Members:
    entry = json.loads(members["manifest.json"])[0]  # type: ignore[arg-type]
    return {**members, "manifest.json": document([{**entry, **changes}])}


def with_descriptor(**changes: Any) -> Members:
    members = oci_archive()
    entry = json.loads(members["index.json"])["manifests"][0]  # type: ignore[arg-type]
    return {**members, "index.json": document({"schemaVersion": 2, "manifests": [{**entry, **changes}]})}


def without_last(members: Members) -> Members:
    return dict(list(members.items())[:-1])


def device() -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type = tarfile.CHRTYPE
    return info


NEITHER = "this is neither an OCI nor a Docker archive: it has no index.json and no manifest.json"
BAD_NAME = "the archive gives an image a bad name: invalid reference format: "
OCI_MANIFEST = json.loads(oci_archive()["index.json"])["manifests"][0]["digest"]  # type: ignore[arg-type]

HOSTILE: dict[str, tuple[Members, str]] = {
    "nothing": ({}, NEITHER),
    "a layer": ({"etc/passwd": b"root"}, NEITHER),
    "climbing member": (
        {"../../etc/passwd": b"x", **docker_archive()},
        "archive member '../../etc/passwd' leads out of the archive",
    ),
    "absolute member": (
        {"/etc/passwd": b"x", **docker_archive()},
        "archive member '/etc/passwd' leads out of the archive",
    ),
    "climbing blob": (
        {"blobs/sha256/../../../../x": b"x", **oci_archive()},
        "archive member 'blobs/sha256/../../../../x' leads out of the archive",
    ),
    "climbing link": (
        {"x": link("../../etc/passwd"), **docker_archive()},
        "archive member '../../etc/passwd' leads out of the archive",
    ),
    "absolute link": (
        {"x": link("/etc/passwd"), **docker_archive()},
        "archive member '/etc/passwd' leads out of the archive",
    ),
    "device": ({"x": device(), **docker_archive()}, "archive member 'x' is not an ordinary file"),
    "blob of another digest": (
        {**oci_archive(), f"blobs/sha256/{'0' * 64}": b"x"},
        f"blob has digest {digest_of(b'x')}, expected sha256:{'0' * 64}",
    ),
    "layer outside": (
        with_entry(docker_archive(), Layers=["../x", "y"]),
        "archive member '../x' leads out of the archive",
    ),
    "layer missing": (with_entry(docker_archive(), Layers=["x", "y"]), "the archive is not whole: 'x' is missing"),
    "config missing": (with_entry(docker_archive(), Config="x.json"), "the archive is not whole: 'x.json' is missing"),
    "config is no string": (with_entry(docker_archive(), Config=5), "manifest.json[0]: Config is not a string"),
    "config is a layer": (
        with_entry(docker_archive(), Config=f"{0:064x}/layer.tar"),
        "image config is not valid JSON: Expecting value: line 1 column 1 (char 0)",
    ),
    "layers swapped": (
        docker_archive(LAYERS[::-1]),
        f"layer {digest_of(LAYERS[1])} is not the one with diff ID {digest_of(LAYERS[0])} that the config names",
    ),
    "layer too many": (docker_archive((*LAYERS, LAYERS[0])), "the archive has an image of 3 layers whose config has 2"),
    "config under another name": (
        {**with_entry(docker_archive(), Config=f"{'0' * 64}.json"), f"{'0' * 64}.json": config_of()},
        f"config {'0' * 64}.json has digest {digest_of(config_of())}",
    ),
    "links in a circle": (
        {**with_entry(docker_archive(), Layers=["a", "b"]), "a": link("b"), "b": link("a")},
        "archive member 'a' is a link to a link without end",
    ),
    "bad name": (
        docker_archive(names=("../x:1",)),
        BAD_NAME + '"../x:1" is not a valid repository name',
    ),
    "name with escapes": (
        docker_archive(names=("x\x1b[2J",)),
        BAD_NAME + "repository name (library/x\x1b[2J) must be lowercase",
    ),
    "manifest.json is no list": ({**docker_archive(), "manifest.json": b"{}"}, "manifest.json is not a list"),
    "manifest.json is no JSON": (
        {**docker_archive(), "manifest.json": b"{"},
        "manifest.json is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    "manifest.json of numbers": (
        {**docker_archive(), "manifest.json": b"[1]"},
        "manifest.json[0] is not a JSON object",
    ),
    "index.json is a manifest": (
        {**oci_archive(), "index.json": document({"schemaVersion": 2, "config": blob(b"", f"{OCI}config.v1+json")})},
        "index.json is not an image index",
    ),
    "layout of the future": (
        {**oci_archive(), "oci-layout": b'{"imageLayoutVersion":"2.0.0"}'},
        "the archive is an OCI layout of an unknown version",
    ),
    "layer of the layout missing": (
        without_last(oci_archive()),
        f"the archive is not whole: blob {digest_of(gzip.compress(LAYERS[1], mtime=0))} is missing",
    ),
    "wrong size": (with_descriptor(size=1), f"blob {OCI_MANIFEST} has 576 bytes, its descriptor says 1"),
    "wrong media type": (
        with_descriptor(mediaType=f"{OCI}index.v1+json"),
        f"manifest is not what its media type says ({OCI}index.v1+json, {OCI}manifest.v1+json)",
    ),
    "no media type": (
        with_descriptor(mediaType=""),
        f"the archive's index names {OCI_MANIFEST}, which is neither an image nor an index",
    ),
    "bad digest": (with_descriptor(digest="sha256:../../x"), "manifest: manifests[0]: invalid digest 'sha256:../../x'"),
    "bad OCI name": (
        with_descriptor(annotations={"io.containerd.image.name": "A B"}),
        BAD_NAME + "repository name (library/A B) must be lowercase",
    ),
    "config of too few layers": (
        oci_archive(config=config_of(LAYERS[:1])),
        "the archive has an image of 2 layers whose config has 1",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_refused(world: World, what: str) -> None:
    members, message = HOSTILE[what]
    before = {path for path in world.root.parent.rglob("*") if world.root not in path.parents}
    with pytest.raises(IntegrityError) as caught:
        load(world, members)
    assert caught.value.message == message
    assert world.store.images() == []
    after = {path for path in world.root.parent.rglob("*") if world.root not in path.parents}
    assert after - before <= {world.root}
    world.store.prune()
    assert world.all_blobs() == set()


def test_two_members_of_one_name(world: World) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for content in (b"[]", b"[{}]"):
            info = tarfile.TarInfo("manifest.json")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(IntegrityError, match=r"the archive has two members 'manifest\.json'"):
        world.store.load(io.BytesIO(buffer.getvalue()))


def test_an_index_of_no_image_that_is_here(world: World) -> None:
    members = oci_archive()
    nested = document({"schemaVersion": 2, "manifests": [blob(b"not here", f"{OCI}manifest.v1+json")]})
    members[f"blobs/sha256/{hashlib.sha256(nested).hexdigest()}"] = nested
    top = blob(nested, f"{OCI}index.v1+json")
    members["index.json"] = document({"schemaVersion": 2, "manifests": [top]})
    with pytest.raises(IntegrityError, match=f"the archive has no image of index {top['digest']}"):
        load(world, members)


def test_indexes_within_indexes(world: World) -> None:
    members = oci_archive()
    entry = json.loads(members["index.json"])["manifests"][0]  # type: ignore[arg-type]
    for _ in range(5):
        nested = document({"schemaVersion": 2, "manifests": [entry]})
        members[f"blobs/sha256/{hashlib.sha256(nested).hexdigest()}"] = nested
        entry = blob(nested, f"{OCI}index.v1+json")
    members["index.json"] = document({"schemaVersion": 2, "manifests": [entry]})
    with pytest.raises(IntegrityError, match="the archive's indexes are nested more than 4 deep"):
        load(world, members)


def test_indexes_that_name_each_other_any_number_of_times(world: World) -> None:
    """A few hundred bytes of JSON, compressed, stand for billions of images."""
    members = oci_archive()
    entry = json.loads(members["index.json"])["manifests"][0]  # type: ignore[arg-type]
    for _ in range(3):
        nested = document({"schemaVersion": 2, "manifests": [entry] * 9000})
        members[f"blobs/sha256/{hashlib.sha256(nested).hexdigest()}"] = nested
        entry = blob(nested, f"{OCI}index.v1+json")
    members["index.json"] = document({"schemaVersion": 2, "manifests": [entry] * 9000})
    assert len(load(world, members)) == 1


def test_names_that_would_fill_the_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MAX_NAMES", 10_000)
    members: Members = {f"{number:03000}": b"" for number in range(4)}
    with pytest.raises(IntegrityError, match="the names in the archive have more than 10000 bytes"):
        load(world, members)


@pytest.mark.parametrize("make", [docker_archive, oci_archive])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_damage_names_nothing_that_is_not_whole(world: World, make: Callable[[], Members], data: st.DataObject) -> None:
    for name in [info.name for info in world.store.images()]:
        world.store.remove(name)
    archive = bytearray(archive_of(make()))
    at = data.draw(st.integers(0, len(archive) - 1))
    if data.draw(st.booleans()):
        del archive[at:]
    else:
        archive[at] ^= data.draw(st.integers(1, 255))
    try:
        names = world.store.load(io.BytesIO(bytes(archive)))
    except StagewrightError:
        assert world.store.images() == []
        return
    for name in names:
        check_whole(world, name)
