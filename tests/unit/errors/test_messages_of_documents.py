"""What is said of names and documents that are not what they should be: references, platforms, manifests, configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stagewright.config import Config, KeyPair, RegistryTable
from stagewright.errors import IntegrityError, RegistryError, StagewrightError, UsageError
from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import sha256_digest, verify_digest
from stagewright.image.gojson import Fields, loads_object
from stagewright.image.manifest import parse_manifest
from stagewright.image.platform import parse_platform
from stagewright.registry.credentials import CredentialStore
from stagewright.registry.hosts import pull_hosts
from stagewright.registry.reference import Reference
from stagewright.registry.tls import tls_context
from stagewright.sources.ssh import SshAgents

DIGEST = "sha256:" + "0" * 64


def said(call: Callable[[], object], kind: type[StagewrightError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
        ("App", "invalid reference format: repository name (library/App) must be lowercase"),
        ("", 'invalid reference format: "" is not a valid repository name'),
        ("a//b", 'invalid reference format: "a//b" is not a valid repository name'),
        ("a:", 'invalid reference format: "" is not a valid tag'),
        ("a:-x", 'invalid reference format: "-x" is not a valid tag'),
        ("a@sha256:0", 'invalid reference format: "sha256:0" is not a valid digest'),
        ("a" * 256, "repository name must not be more than 255 characters"),
    ],
)
def test_references(text: str, message: str) -> None:
    assert said(lambda: Reference.parse(text), UsageError) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'invalid platform ""'),
        ("a/b/c/d", 'invalid platform "a/b/c/d"'),
        ("linux/a b", 'invalid platform "linux/a b"'),
        ("linuks", 'unknown operating system or architecture "linuks"'),
    ],
)
def test_platforms(text: str, message: str) -> None:
    assert said(lambda: parse_platform(text), UsageError) == message


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "thing is not valid JSON: Expecting property name enclosed in double quotes"),
        (b"\xff", "thing is not valid JSON: it is not UTF-8"),
        (b"[" * 100_000, "thing is not valid JSON: it is nested too deeply"),
        (b'{"a": NaN}', "thing is not valid JSON: NaN is not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "thing is not valid JSON: it has a number of too many digits"),
    ],
)
def test_json(data: bytes, message: str) -> None:
    assert said(lambda: loads_object(data, "thing"), IntegrityError).startswith(message)


def test_json_that_is_no_object() -> None:
    assert said(lambda: Fields(loads_object(b"[]", "thing"), "thing"), IntegrityError) == "thing is not a JSON object"


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (Fields.string, 1, "a string"),
        (Fields.integer, "1", "an integer"),
        (Fields.integer, True, "an integer"),
        (Fields.integer, 1 << 63, "an integer"),
        (Fields.boolean, 1, "a boolean"),
        (Fields.strings, "a", "a list of strings"),
        (Fields.strings, [1], "a list of strings"),
        (Fields.string_map, [], "an object of strings"),
        (Fields.string_map, {"a": 1}, "an object of strings"),
        (Fields.set_of_names, [], "an object"),
        (Fields.objects, {}, "a list"),
    ],
)
def test_fields(read: Callable[[Fields, str], object], value: object, expected: str) -> None:
    assert said(lambda: read(Fields({"key": value}, "thing"), "key"), IntegrityError) == f"thing: key is not {expected}"


def manifest(**changes: Any) -> bytes:
    config = {"mediaType": mediatypes.OCI_CONFIG, "digest": DIGEST, "size": 1}
    document = {"schemaVersion": 2, "config": config, "layers": [], **changes}
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("data", "media_type", "message"),
    [
        (b" " * (8 << 20) + b"{}", "", "manifest has 8388610 bytes, more than 8388608"),
        (manifest(schemaVersion=1), "", "image manifest is of Docker's schema 1, which nothing has written since 2017"),
        (manifest(schemaVersion=3), "", "manifest: unknown schemaVersion 3"),
        (manifest(schemaVersion=False), "", "manifest: unknown schemaVersion false"),
        (manifest(layers=[{}] * 10_001), "", "manifest: layers has 10001 entries, more than 10000"),
        (manifest(config=None), "", "manifest: config is missing"),
        (manifest(manifests=[]), "", "manifest is both an image manifest and an index"),
        (manifest(), mediatypes.OCI_INDEX, f"manifest is not what its media type says ({mediatypes.OCI_INDEX})"),
        (manifest(layers=[{"digest": DIGEST, "size": -1}]), "", "manifest: layers[0]: size is negative"),
        (manifest(layers=[{"digest": "md5:0", "size": 1}]), "", "manifest: layers[0]: "),
    ],
)
def test_manifests(data: bytes, media_type: str, message: str) -> None:
    assert said(lambda: parse_manifest(data, media_type), IntegrityError).startswith(message)


def test_content_of_another_digest() -> None:
    empty = sha256_digest(b"")
    assert said(lambda: verify_digest(b"", DIGEST), IntegrityError) == f"content has digest {empty}, expected {DIGEST}"


def test_descriptors() -> None:
    assert said(lambda: Descriptor.from_json([]), IntegrityError) == "descriptor is not a JSON object"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" " * (8 << 20) + b"{}", "image config has 8388610 bytes, more than 8388608"),
        (b'{"created": "yesterday"}', "image config: created is not an RFC 3339 time"),
    ],
)
def test_image_configs(data: bytes, message: str) -> None:
    assert said(lambda: ImageConfig.from_bytes(data), IntegrityError).startswith(message)


# --- what a configuration names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mirror", "shown"), [("", ""), ("a b", "a b"), ("https://me:pw@x.io", "https://***@x.io"), ("x?y", "x?y")]
)
def test_mirrors(mirror: str, shown: str) -> None:
    config = Config({"docker.io": RegistryTable(mirrors=(mirror,))})
    assert said(lambda: pull_hosts(config, "docker.io"), UsageError) == f'invalid mirror "{shown}" of docker.io'


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (RegistryTable(ca=("/no/ca",)), "cannot use the certificate authority /no/ca: No such file or directory"),
        (RegistryTable(key_pairs=(KeyPair("/no/key", "/no/cert"),)),
         "cannot use the key pair /no/cert, /no/key: No such file or directory"),
        (RegistryTable(tls_config_dirs=("/no/folder",)),
         "cannot read the directory /no/folder: No such file or directory"),
    ],
)  # fmt: skip
def test_certificates(table: RegistryTable, message: str) -> None:
    assert said(lambda: tls_context(table), UsageError) == message


@pytest.mark.parametrize(
    ("document", "kind", "message"),
    [
        ({"auths": {"r.example.com": {"auth": "?"}}}, UsageError, "{path}: auth of r.example.com is not valid base64"),
        ({"credsStore": "../x"}, UsageError, '{path}: "../x" is not the name of a credential helper'),
        ({"credsStore": "nope"}, RegistryError, "credential helper docker-credential-nope is not installed"),
    ],
)
def test_credentials(tmp_path: Path, document: object, kind: type[StagewrightError], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(document))
    store = CredentialStore({"DOCKER_CONFIG": str(tmp_path), "PATH": ""})
    assert said(lambda: store.get("r.example.com"), kind) == message.format(path=tmp_path / "config.json")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "--ssh a: SSH_AUTH_SOCK is not set"),
        (("/no/key",), "--ssh: /no/key: No such file or directory"),
    ],
)
def test_agents(paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(StagewrightError) as caught:
        SshAgents({"a": paths}, {}).check()
    assert caught.value.message == message
