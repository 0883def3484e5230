"""A manifest, an index or an image config: refused, or the same again once it is written and read back."""

from __future__ import annotations

import json

from stagewright.errors import IntegrityError
from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.image.platform import Platform

TOKENS = (
    b'"schemaVersion":2', b'"mediaType":"', b'"config":{', b'"layers":[', b'"manifests":[', b'"digest":"sha256:',
    b'"size":', b'"urls":[', b'"platform":{', b'"os":"linux"', b'"architecture":"amd64"', b'"variant":"v7"',
    b'"annotations":{', b'"subject":{', b'"rootfs":{"diff_ids":[', b'"history":[', b'"Env":[', b'"ExposedPorts":{',
    b'"Healthcheck":{"Test":[', b'"created":"2024-01-01T00:00:00.5Z"', b'"Interval":', b"null", b"-1", b"1e400",
    b"9223372036854775808", b"NaN", b'"\\ud800"', b"[[[[", b"{}", b'"":', b"a" * 64, mediatypes.OCI_INDEX.encode(),
    mediatypes.DOCKER_MANIFEST.encode(), mediatypes.DOCKER_FOREIGN_LAYER.encode(),
)  # fmt: skip

_WANTED = (Platform("linux", "amd64"), Platform("linux", "arm", "v7"), Platform("windows", "amd64"))


def check(data: bytes) -> None:
    """Fails for anything but an IntegrityError, and for a document that changes when it is written again."""
    for media_type in ("", mediatypes.OCI_MANIFEST, mediatypes.DOCKER_MANIFEST_LIST):
        try:
            document: Manifest | Index = parse_manifest(data, media_type)
        except IntegrityError as error:
            error.render().encode("utf-8", "surrogatepass")
            continue
        again = parse_manifest(document.to_bytes())
        # What JSON cannot say, half of a surrogate pair, is written as a replacement.
        assert again.to_bytes() == document.to_bytes()
        if isinstance(document, Index):
            for platform in _WANTED:
                assert set(map(id, document.select(platform))) <= set(map(id, document.manifests))
    try:
        config = ImageConfig.from_bytes(data)
    except IntegrityError as error:
        error.render().encode("utf-8", "surrogatepass")
        return
    written = config.to_bytes()
    json.loads(written)
    assert ImageConfig.from_bytes(written).to_bytes() == written
