"""The files of images, layer by layer."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from stagewright.anatomy.report import diff_data, diff_text, layers_data, layers_text
from stagewright.anatomy.tree import File, ImageTree, folder_sizes, read_tree
from stagewright.content.blobs import BlobStore
from stagewright.errors import NotFoundError
from stagewright.image import mediatypes
from stagewright.image.config import ContainerConfig, History, ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Manifest
from stagewright.image.platform import Platform

Member = tuple[str, bytes | str | None]
"""A path with the content of a file, the target of a link (`-> x`, `= x` for a hard one), or None for a folder."""


def layer(*members: Member, mode: int = 0o644, uid: int = 0) -> bytes:
    """A layer's archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in members:
            entry = tarfile.TarInfo(path)
            entry.mode, entry.uid = mode, uid
            data = content if isinstance(content, bytes) else b""
            entry.size = len(data)
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type = tarfile.LNKTYPE if content.startswith("= ") else tarfile.SYMTYPE
                entry.linkname = content.partition(" ")[2]
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def manifest_of(
    blobs: BlobStore, *layers: bytes, config: ContainerConfig | None = None
) -> tuple[Manifest, ImageConfig]:
    """An image of these layers, each by an instruction that is its number."""
    digests = [blobs.write(data) for data in layers]
    history = [History(created_by=f"RUN {index}") for index in range(len(layers))]
    history.insert(0, History(created_by="ENV A=1", empty_layer=True))
    document = ImageConfig(
        Platform("linux", "amd64"),
        config=config or ContainerConfig(),
        diff_ids=tuple(digests),
        history=tuple(history),
    )
    data = document.to_bytes()
    sizes = dict(zip(digests, map(len, layers), strict=True))
    descriptors = [Descriptor(mediatypes.OCI_LAYER, digest, sizes[digest]) for digest in digests]
    manifest = Manifest(Descriptor(mediatypes.OCI_CONFIG, blobs.write(data), len(data)), tuple(descriptors))
    return manifest, document


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def tree(blobs: BlobStore, *layers: bytes) -> ImageTree:
    """The tree of an image of these layers."""
    return read_tree(blobs, *manifest_of(blobs, *layers), with_digests=True)


def test_layers_are_laid_on_each_other(blobs: BlobStore) -> None:
    found = tree(
        blobs,
        layer(("etc", None), ("etc/a", b"1" * 10), ("etc/b", b"1" * 20), ("x/y/z", b"1" * 40)),
        layer(("./etc/a", b"2" * 5), ("etc/.wh.b", b""), ("new", b"3")),
    )
    assert sorted(found.files) == ["etc", "etc/a", "new", "x/y/z"]
    assert (found.files["etc/a"].size, found.files["etc/a"].layer) == (5, 1)
    lower, upper = found.layers
    assert (lower.instruction, lower.files, lower.size) == ("RUN 0", 3, 70)
    assert (upper.instruction, upper.files, upper.size) == ("RUN 1", 2, 6)
    assert [file.path for file in upper.overwritten] == ["etc/a"]
    assert [file.path for file in upper.deleted] == ["etc/b"]


def test_what_hides_a_folder(blobs: BlobStore) -> None:
    lower = layer(("a", None), ("a/b", b"1"), ("a/c/d", b"1"), ("e/f", b"1"), ("g/h", b"1"), ("ab", b"1"))
    upper = layer(("a/.wh..wh..opq", b""), ("a/new", b""), (".wh.e", b""), ("g", "-> ab"))
    found = tree(blobs, lower, layer(("g", None)), upper)
    assert sorted(path for path in found.files if found.files[path].kind != "folder") == ["a/new", "ab", "g"]
    assert sorted(file.path for file in found.layers[2].deleted) == ["a/b", "a/c/d", "e/f", "g/h"]


def test_what_is_deleted_and_made_anew_is_overwritten(blobs: BlobStore) -> None:
    found = tree(blobs, layer(("a/b", b"1")), layer(("a/.wh..wh..opq", b""), ("a/b", b"22")))
    assert [file.path for file in found.layers[1].overwritten] == ["a/b"]
    assert found.layers[1].deleted == []


def test_other_names_of_a_file_count_nothing(blobs: BlobStore) -> None:
    found = tree(blobs, layer(("a", b"12345"), ("b", "= a"), ("c", "-> a")))
    assert [found.files[path].size for path in "abc"] == [5, 0, 0]
    assert found.files["a"].digest == found.files["b"].digest
    assert (found.files["c"].kind, found.files["c"].target) == ("link", "a")


def test_a_layer_that_is_not_there(blobs: BlobStore) -> None:
    manifest, config = manifest_of(blobs, layer(("a", b"1")))
    blobs.delete(manifest.layers[0].digest)
    with pytest.raises(NotFoundError, match="is not in the store"):
        read_tree(blobs, manifest, config)


def test_large_folders_are_named_where_their_files_are() -> None:
    sizes = {"usr/lib/python/a": 60, "usr/lib/python/b": 40, "usr/share/c": 5, "opt/d": 20, "top": 1000}
    files = [File(path, "file", 0o644, "0:0", size, 0) for path, size in sizes.items()]
    assert folder_sizes(files, 10) == [("usr/lib/python", 100), ("opt", 20), ("usr/share", 5)]
    assert folder_sizes(files, 1) == [("usr/lib/python", 100)]


def test_waste_is_counted_at_the_layer_that_has_it(blobs: BlobStore) -> None:
    data = layers_data(
        "app:1",
        tree(
            blobs,
            layer(("big", b"1" * 1000), ("kept", b"1" * 1000)),
            layer(("big", b"2" * 500)),
            layer((".wh.big", b"")),
        ),
    )
    assert (data["size"], data["wasted"]) == (2500, 1500)
    assert [entry["wasted"] for entry in data["layers"]] == [1000, 500, 0]
    text = layers_text(data)
    assert "wasted: 1.50kB (60%), which later layers delete or overwrite\n" in text
    assert "1: RUN 1\n    500B in 1 file, 10.24kB compressed; 500B wasted\n" in text
    assert "    deletes 1 file of layers below, 500B\n             500B  /big of layer 1\n" in text


# --- two images -------------------------------------------------------------------------------------------------------


def difference(blobs: BlobStore, old: bytes, new: bytes, *configs: ContainerConfig) -> dict[str, object]:
    """How images of one layer each differ."""
    from stagewright.anatomy.packages import holds_packages

    before, after = configs or (ContainerConfig(), ContainerConfig())
    images = [manifest_of(blobs, old, config=before), manifest_of(blobs, new, config=after)]
    first, second = (read_tree(blobs, *image, with_digests=True, keeps=holds_packages) for image in images)
    return diff_data(("a", "b"), (first, second), (images[0][1].to_bytes(), images[1][1].to_bytes()))


def test_files_differ_in_what_they_are(blobs: BlobStore) -> None:
    old = layer(("same", b"1"), ("content", b"1"), ("gone", b"123"), ("link", "-> a"), ("kind", b""))
    new = layer(("same", b"1"), ("content", b"2"), ("come", b"1234"), ("link", "-> b"), ("kind", None))
    files = {file["path"]: file for file in difference(blobs, old, new)["files"]}  # type: ignore[attr-defined]
    assert set(files) == {"/content", "/gone", "/come", "/link", "/kind"}
    assert (files["/gone"]["change"], files["/come"]["change"]) == ("removed", "added")
    assert files["/content"]["what"] == ["content"]
    assert (files["/link"]["what"], files["/link"]["values"]) == (["target"], {"target": ["a", "b"]})
    assert files["/kind"]["values"]["type"] == ["file", "folder"]


def test_modes_and_owners_differ(blobs: BlobStore) -> None:
    found = difference(blobs, layer(("a", b"1")), layer(("a", b"1"), mode=0o755, uid=7))
    text = diff_text(found)
    assert "files: 0 added, 0 removed, 1 changed\n    ~ /a (mode 0644 -> 0755, owner 0:0 -> 7:0)\n" in text


def test_settings_differ_one_by_one(blobs: BlobStore) -> None:
    old = ContainerConfig(env=("A=1", "B=2"), cmd=("sh",), labels={"x": "1"})
    new = ContainerConfig(env=("A=1", "B=3", "C=4"), user="app", labels={"x": "1", "y": "2"})
    found = difference(blobs, layer(("a", b"")), layer(("a", b"")), old, new)
    assert found["config"] == [
        {"name": "Cmd", "old": ["sh"], "new": None},
        {"name": "Env B", "old": "2", "new": "3"},
        {"name": "Env C", "old": None, "new": "4"},
        {"name": "Labels y", "old": None, "new": "2"},
        {"name": "User", "old": None, "new": "app"},
    ]
    assert "    - Env B: 2\n    + Env B: 3\n    + Env C: 4\n" in diff_text(found)


def test_equal_images(blobs: BlobStore) -> None:
    found = difference(blobs, layer(("a", b"1")), layer(("a", b"1")))
    assert diff_text(found) == "a -> b: 1B -> 1B (+0B)\nno difference in config, packages and files\n"


def test_packages_differ(blobs: BlobStore) -> None:
    status = "Package: zlib1g\nStatus: install ok installed\nVersion: {}\n\n"
    removed = "Package: old\nStatus: deinstall ok config-files\nVersion: 1\n"
    path = "var/lib/dpkg/status"
    old = layer((path, (status.format("1.2") + removed).encode()), ("lib/apk/db/installed", b"P:musl\nV:1\n"))
    node = ("x/node_modules/@a/b/package.json", b'{"name":"@a/b","version":"2"}')
    new = layer((path, status.format("1.3").encode()), node)
    found = difference(blobs, old, new)
    assert found["packages"] == [
        {"kind": "apk", "name": "musl", "old": "1", "new": None},
        {"kind": "deb", "name": "zlib1g", "old": "1.2", "new": "1.3"},
        {"kind": "npm", "name": "@a/b", "old": None, "new": "2"},
    ]
    assert "packages:\n    - apk musl 1\n    ~ deb zlib1g 1.2 -> 1.3\n    + npm @a/b 2\n" in diff_text(found)
