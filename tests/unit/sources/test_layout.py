"""OCI image layouts: how they are named, and what is found in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import sha256_digest
from stagewright.registry.reference import Reference
from stagewright.sources.layout import OciLayout, parse_layout

DIGEST = "sha256:" + "1" * 64
REF = Reference.parse("base")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("/dir", ("/dir", None, None)),
        ("dir:tag", ("dir", "tag", None)),
        (f"/dir@{DIGEST}", ("/dir", None, DIGEST)),
        (f"../dir:tag@{DIGEST}", ("../dir", "tag", DIGEST)),
    ],
)
def test_names_of_layouts(text: str, parts: tuple[str, str | None, str | None]) -> None:
    assert parse_layout(text) == parts


def write(folder: Path, data: bytes) -> str:
    digest = sha256_digest(data)
    path = folder / "blobs" / digest.replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return digest


def manifest(name: str) -> bytes:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2}
    document = {"schemaVersion": 2, "config": config, "layers": [], "annotations": {"name": name}}
    return json.dumps(document).encode()


def layout(folder: Path, *tags: str) -> dict[str, str]:
    """A layout with a manifest for each tag; answers their digests."""
    digests = {tag: write(folder, manifest(tag)) for tag in tags}
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": len(manifest(tag)),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
        for tag, digest in digests.items()
    ]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return digests


def test_a_tag_or_the_only_image(tmp_path: Path) -> None:
    digests = layout(tmp_path, "latest", "old")
    found = OciLayout(str(tmp_path)).find("old", None)
    assert found == Descriptor("application/vnd.oci.image.manifest.v1+json", digests["old"], len(manifest("old")))
    assert OciLayout(str(tmp_path)).find(None, None).digest == digests["latest"]
    assert OciLayout(str(tmp_path)).find("whatever", digests["old"]).digest == digests["old"]
    (tmp_path / "only").mkdir()
    only = layout(tmp_path / "only", "one")
    assert OciLayout(str(tmp_path / "only")).find("other", None).digest == only["one"]


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        (b"nonsense", "manifest is not valid JSON"),
        (manifest("x"), "index.json is not an image index"),
        (b"{" + b" " * (9 << 20), "index.json is larger than"),
        (b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:../../x", "size": 1}]}', "invalid digest"),
    ],
)
def test_indexes_that_are_none(tmp_path: Path, index: bytes, problem: str) -> None:
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(IntegrityError) as caught:
        OciLayout(str(tmp_path)).find(None, None)
    assert problem in caught.value.message


def test_an_empty_index(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    with pytest.raises(NotFoundError, match="no image has the tag latest") as caught:
        OciLayout(str(tmp_path)).find(None, None)
    assert caught.value.hint == "give the image's digest behind an @"


def test_blobs_are_checked_when_they_are_copied(tmp_path: Path) -> None:
    digest = write(tmp_path, b"content")
    store = BlobStore(tmp_path / "store")
    source = OciLayout(str(tmp_path))
    seen: list[tuple[int, int]] = []
    source.fetch_blob(REF, Descriptor("", digest, 7), store, lambda done, size: seen.append((done, size)))
    assert store.read(digest) == b"content"
    assert seen == [(7, 7)]
    (tmp_path / "blobs" / digest.replace(":", "/")).write_bytes(b"CONTENT")
    with pytest.raises(IntegrityError, match=f"expected {digest}"):
        source.fetch_blob(REF, Descriptor("", digest, 7), BlobStore(tmp_path / "other"))
    with pytest.raises(IntegrityError, match=f"expected {digest}"):
        source.fetch_manifest(REF, Descriptor("", digest, 7))
    with pytest.raises(IntegrityError, match="longer than its 3 bytes"):
        source.fetch_blob(REF, Descriptor("", digest, 3), BlobStore(tmp_path / "other"))
    with pytest.raises(NotFoundError, match=f"cannot read blob {DIGEST}: No such file or directory"):
        source.fetch_blob(REF, Descriptor("", DIGEST, 3), store)
