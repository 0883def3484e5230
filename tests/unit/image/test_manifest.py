import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import IntegrityError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse_manifest
from stagewright.image.platform import Platform, parse_platform

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def entry(digit: str, platform: str | None) -> Descriptor:
    known = Platform("unknown", "unknown") if platform == "unknown" else platform and parse_platform(platform)
    return Descriptor(mediatypes.OCI_MANIFEST, "sha256:" + digit * 64, 7, platform=known or None)


def document(**changes: Any) -> bytes:
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": {"mediaType": mediatypes.OCI_CONFIG, "digest": DIGEST, "size": 2},
        "layers": [{"mediaType": mediatypes.OCI_LAYER_GZIP, "digest": OTHER, "size": 3}],
    }
    value.update(changes)
    return json.dumps({key: item for key, item in value.items() if item is not None}).encode()


def test_a_manifest_has_gos_field_order() -> None:
    manifest = Manifest(
        config=Descriptor(mediatypes.OCI_CONFIG, DIGEST, 2),
        layers=(Descriptor(mediatypes.OCI_LAYER_GZIP, OTHER, 3, annotations={"z": "1", "a": "<"}),),
        annotations={"k": "v"},
    )
    assert manifest.to_bytes().decode() == (
        '{\n  "schemaVersion": 2,\n  "mediaType": "application/vnd.oci.image.manifest.v1+json",\n'
        '  "config": {\n    "mediaType": "application/vnd.oci.image.config.v1+json",\n'
        f'    "digest": "{DIGEST}",\n    "size": 2\n  }},\n'
        '  "layers": [\n    {\n      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",\n'
        f'      "digest": "{OTHER}",\n      "size": 3,\n'
        '      "annotations": {\n        "a": "\\u003c",\n        "z": "1"\n      }\n    }\n  ],\n'
        '  "annotations": {\n    "k": "v"\n  }\n}'
    )
    assert parse_manifest(manifest.to_bytes()) == manifest


def test_an_index_reads_back() -> None:
    index = Index(
        (entry("a", "linux/amd64"), entry("b", "linux/arm/v7"), entry("c", None)),
        mediatypes.DOCKER_MANIFEST_LIST,
        artifact_type="x/y",
        subject=entry("d", None),
    )
    assert parse_manifest(index.to_bytes()) == index


def test_a_manifest_without_media_type_is_told_by_its_shape() -> None:
    parsed = parse_manifest(document(mediaType=None))
    assert isinstance(parsed, Manifest) and parsed.media_type == mediatypes.OCI_MANIFEST
    parsed = parse_manifest(document(mediaType=None), mediatypes.DOCKER_MANIFEST)
    assert parsed.media_type == mediatypes.DOCKER_MANIFEST
    parsed = parse_manifest(b'{"schemaVersion":2,"manifests":[]}')
    assert isinstance(parsed, Index) and parsed.media_type == mediatypes.OCI_INDEX


@pytest.mark.parametrize(
    ("data", "media_type", "message"),
    [
        (b'{"schemaVersion":1,"fsLayers":[]}', "", "schema 1"),
        (b"{}", mediatypes.DOCKER_SCHEMA1_SIGNED, "schema 1"),
        (document(schemaVersion=3), "", "schemaVersion"),
        (document(manifests=[]), "", "both"),
        (document(), mediatypes.OCI_INDEX, "not what its media type says"),
        (document(mediaType=mediatypes.OCI_INDEX), "", "not what its media type says"),
        (b'{"schemaVersion":2,"manifests":[]}', mediatypes.OCI_MANIFEST, "not what its media type says"),
        (document(config=None), "", "config is missing"),
        (document(layers=[{"digest": "sha256:../../etc/passwd", "size": 1}]), "", "layers.*invalid digest"),
        (document(layers=[{"digest": DIGEST, "size": -1}]), "", "negative"),
        (document(layers=[{"digest": DIGEST, "size": "1"}]), "", "size is not an integer"),
        (document(layers={"a": 1}), "", "layers is not a list"),
        (document(layers=[{"digest": DIGEST, "size": 1}] * 10_001), "", "more than 10000"),
        (b" " * (MAX_MANIFEST_SIZE + 1), "", "more than"),
    ],
)
def test_a_bad_shape_is_refused(data: bytes, media_type: str, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        parse_manifest(data, media_type)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "platform"]
            ),
            inner,
        )
    ),
    max_leaves=15,
)


@given(_json)
def test_any_json_is_a_manifest_or_an_integrity_error(value: object) -> None:
    try:
        parsed = parse_manifest(json.dumps(value).encode())
    except IntegrityError:
        return
    assert parse_manifest(parsed.to_bytes()) == parsed


def test_the_best_platform_comes_first_and_attestations_never() -> None:
    index = Index(
        (
            entry("0", "unknown"),
            entry("1", "linux/arm/v5"),
            entry("2", None),
            entry("3", "linux/arm/v7"),
            entry("4", "linux/arm64/v8"),
            entry("5", "linux/amd64"),
        )
    )

    def chosen(platform: str) -> str:
        return "".join(found.digest[7] for found in index.select(parse_platform(platform)))

    assert chosen("linux/arm64") == "4312"
    assert chosen("linux/arm/v6") == "12"
    assert chosen("linux/amd64") == "52"
    assert chosen("linux/s390x") == "2"
