"""The document of an exported cache."""

from __future__ import annotations

import json

import pytest

from stagewright.errors import IntegrityError
from stagewright.image import mediatypes
from stagewright.snapshots.compress import LayerBlob
from stagewright.snapshots.lazy import KnownLayer
from stagewright.travel.record import CacheLayer, CacheMount, CacheRecord, CacheStep


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def layer(letter: str, parent: int | None, variant: str = "gzip:2", created: float | None = 1.5) -> CacheLayer:
    blob = LayerBlob(mediatypes.OCI_LAYER_GZIP, digest(letter), 7, digest("f"))
    return CacheLayer(KnownLayer(blob, variant, created), parent)


RECORD = CacheRecord(
    (layer("a", None, "", None), layer("b", 0)),
    (
        CacheStep("c:1", ("d:1", "d:2"), "[1/2] COPY", layer=1),
        CacheStep("d:3", (), "empty", is_empty=True),
        CacheStep("s:4", ("d:4",)),
    ),
    (CacheMount("/root/.cache", (digest("c"), 12), ((digest("d"), 5),)),),
)


def test_it_comes_back_as_it_was() -> None:
    assert CacheRecord.from_bytes(RECORD.to_bytes()) == RECORD


def test_its_layers_are_as_buildkit_writes_them() -> None:
    layers = json.loads(RECORD.to_bytes())["layers"]
    assert [entry["blob"] for entry in layers] == [digest("a"), digest("b")]
    assert [entry["parent"] for entry in layers] == [-1, 0]
    annotations = {"mediaType": mediatypes.OCI_LAYER_GZIP, "diffID": digest("f"), "size": 7}
    assert layers[0] == {"blob": digest("a"), "parent": -1, "annotations": annotations}


def test_a_chain_begins_at_the_bottom() -> None:
    assert [known.blob.digest for known in RECORD.chain(1)] == [digest("a"), digest("b")]
    assert RECORD.chain(None) == []


def test_a_cache_of_buildkits_own_is_an_empty_one() -> None:
    buildkits = {"layers": [{"blob": digest("a"), "parent": -1}], "records": [{"digest": digest("b")}]}
    assert CacheRecord.from_bytes(json.dumps(buildkits).encode()) == CacheRecord()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("layers", 0, "parent"), 0),
        (("layers", 1, "parent"), 5),
        (("layers", 1, "parent"), -2),
        (("layers", 0, "blob"), "sha256:../../etc"),
        (("layers", 0, "annotations"), None),
        (("layers", 0, "annotations", "diffID"), "x"),
        (("layers", 0, "annotations", "size"), -1),
        (("layers", 0, "annotations", "size"), "7"),
        (("steps", 0, "layer"), 2),
        (("steps", 0, "layer"), -2),
        (("steps", 0, "keys"), ["n:1"]),
        (("steps", 0, "canonical"), "n:1"),
        (("steps", 0, "canonical"), ""),
        (("steps",), {}),
        (("mounts", 0, "files"), None),
        (("mounts", 0, "files", "blob"), "x"),
        (("mounts", 0, "packs", 0, "size"), -1),
        (("mounts", 0, "id"), ""),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(where: tuple[str | int, ...], value: object) -> None:
    document = json.loads(RECORD.to_bytes())
    target = document
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    with pytest.raises(IntegrityError):
        CacheRecord.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"steps": 1}'])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        CacheRecord.from_bytes(data)


def test_names_are_safe_to_show() -> None:
    record = CacheRecord(steps=(CacheStep("d:1", (), "a\x1b[31mb\nc"),))
    assert CacheRecord.from_bytes(record.to_bytes()).steps[0].name == "ab c"
