"""What the library, the store and the token servers of registries say when they refuse or fail."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import stagewright
from stagewright import builder
from stagewright.api import Output, Store
from stagewright.content.blobs import BlobStore
from stagewright.content.db import Database
from stagewright.dockerfile import instructions
from stagewright.dockerfile.giturl import parse_git_ref
from stagewright.dockerfile.instructions import parse
from stagewright.errors import (
    DamagedMetadataError,
    DockerfileError,
    NotFoundError,
    RegistryError,
    StagewrightError,
    StoreError,
    UsageError,
)
from stagewright.exporters.annotations import sort_annotations
from stagewright.exporters.destination import check_stream
from stagewright.frontend import state
from stagewright.frontend.convert import convert
from stagewright.frontend.options import Options
from stagewright.image.platform import Platform
from stagewright.registry.auth import Authorizer
from stagewright.registry.connection import Headers
from stagewright.registry.credentials import Credential
from stagewright.registry.errors import UnauthorizedError, UnreachableError
from stagewright.registry.hosts import Host
from stagewright.registry.http import Origin, join_url, split_url

HOST = Host("r.example.com", "r.example.com")
TOKENS = "https://auth.example.com/token"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"network": "foo"}, "network mode foo is not supported", "use default, host or none"),
        ({"secret_leak": "maybe"}, "secret leak mode maybe is not known", "use fail, warn or off"),
        ({"platform": "windows/amd64"}, "building for windows/amd64 is not supported",
         "its paths and shells are others"),
        ({"outputs": [Output("locl", "x")]}, '--output: unknown type "locl"',
         "one of image, oci, docker, local, tar, cacheonly, registry"),
        ({"allow": ["x"]}, "invalid entitlement: x", "the entitlements are network.host, security.insecure, device"),
    ],
)  # fmt: skip
def test_builds_from_python(tmp_path: Path, options: dict[str, Any], message: str, hint: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "config").touch()
    given = {"outputs": [Output("cacheonly")], "root": tmp_path / "root", "config": tmp_path / "config", **options}
    with pytest.raises(UsageError) as caught:
        stagewright.build(tmp_path, **given)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_runtimes_in_a_chroot() -> None:
    with pytest.raises(UsageError) as caught:
        builder.Builder._chroot_runtime(object(), "/usr/bin/crun")  # type: ignore[arg-type]
    assert caught.value.message == "steps cannot run by /usr/bin/crun and in a chroot"


# --- bounds of Dockerfiles --------------------------------------------------------------------------------------------


def test_more_instructions_than_any_store_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "_MOST_INSTRUCTIONS", 2)
    with pytest.raises(DockerfileError) as caught:
        parse(b"FROM a\nRUN b\nRUN c")
    assert caught.value.message == "the Dockerfile has more than 2 instructions"
    assert caught.value.location is not None and caught.value.location.start == 3


@pytest.mark.parametrize(
    ("lines", "what"),
    [("LABEL {n}=1", "labels"), ("VOLUME /{n}", "volumes"), ("ONBUILD RUN {n}", "ONBUILD triggers")],
)
def test_more_of_a_kind_than_anybody_writes(monkeypatch: pytest.MonkeyPatch, lines: str, what: str) -> None:
    monkeypatch.setattr(state, "_MOST_OF_A_KIND", 3)
    text = "\n".join(["FROM scratch", *(lines.format(n=number) for number in range(5))])
    with pytest.raises(DockerfileError) as caught:
        convert(parse(text.encode()), Options(Platform("linux", "amd64")), lambda requests: [])
    assert caught.value.message == f"the image has more than 3 {what}"


@pytest.mark.parametrize("text", ["-x@example.com:y", "git@-x:y"])
def test_repositories_that_are_options(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_git_ref(text)
    assert caught.value.message == "a git repository must not begin with a dash, which programs take for an option"


@pytest.mark.parametrize(
    "url", ["http://r.example.com/caf\u00e9", "https://me:pw@r.example.com/a b", "http://r.example.com/?\x7f"]
)
def test_urls_that_no_server_takes(url: str) -> None:
    with pytest.raises(RegistryError) as caught:
        split_url(url)
    assert caught.value.message == "r.example.com was to be asked for a URL with characters that no URL has"


def test_urls_that_servers_name() -> None:
    with pytest.raises(RegistryError) as caught:
        join_url("https://me:pw@r.example.com/v2/", "http://[")
    assert caught.value.message == "r.example.com named a URL that is not one"
    with pytest.raises(RegistryError) as caught:
        split_url("http://r.example.com:port/")
    assert caught.value.message == "a server named a URL that is not one"


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_an_archive_that_would_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.isatty", lambda handle: True)
    for dest, message in (
        ("-", "--output type=tar: an archive does not belong on a terminal"),
        (str(tmp_path), f"--output type=tar: the destination {tmp_path} is a folder"),
    ):
        with pytest.raises(UsageError) as caught, (tmp_path / "out").open("w") as stream:
            monkeypatch.setattr("sys.stdout", stream)
            check_stream(dest, "tar")
        assert caught.value.message == message


def test_an_annotation_without_a_key() -> None:
    with pytest.raises(UsageError) as caught:
        sort_annotations({}, {"": "x"}, Platform("linux", "amd64"))
    assert caught.value.message == 'annotation "" has no key'


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_metadata_file_that_fails(tmp_path: Path) -> None:
    database = Database(tmp_path / "metadata")
    with pytest.raises(StoreError) as caught:
        database.query("SELECT abs()")
    assert caught.value.message == (
        f"the metadata file {tmp_path}/metadata cannot be read: wrong number of arguments to function abs()"
    )
    with pytest.raises(StoreError) as caught:
        database.execute("INSERT INTO cache_keys VALUES ('a', NULL)")
    assert caught.value.message == (
        f"the metadata file {tmp_path}/metadata cannot be written: NOT NULL constraint failed: cache_keys.canonical"
    )
    with pytest.raises(DamagedMetadataError) as damaged:
        database.query("SELECT x FROM nowhere")
    assert damaged.value.message == f"the metadata file {tmp_path}/metadata is damaged: no such table: nowhere"
    with pytest.raises(StoreError) as caught, database.transaction():
        raise sqlite3.OperationalError("disk I/O error")
    assert caught.value.message == f"the metadata file {tmp_path}/metadata cannot be written: disk I/O error"
    database.execute("PRAGMA query_only=1")
    with pytest.raises(StoreError) as caught:
        database.execute("DELETE FROM snapshots")
    assert caught.value.message == (
        f"the metadata file {tmp_path}/metadata cannot be written: the state directory is read-only"
    )
    assert caught.value.hint == "make it writable, or use another --root"


def test_a_disk_that_refuses_a_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    with BlobStore(tmp_path).writer() as writer:
        monkeypatch.setattr(writer, "_file", Full())
        with pytest.raises(StoreError) as caught:
            writer.write(b"x")
    assert caught.value.message.startswith("cannot write blob ")
    assert caught.value.message.endswith(": No space left on device")
    assert caught.value.hint == (
        "make room on that disk; stagewright du says what the store takes, prune --all frees it"
    )


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda store: store.inspect("nope"), NotFoundError, "no image nope in the store"),
        (lambda store: store.tag("a", "b@sha256:" + "0" * 64), UsageError,
         f"cannot tag b@sha256:{'0' * 64}: a name that is given has no digest"),
        (lambda store: store.save(["a"], io.BytesIO(), "zip"), UsageError, "unknown archive format zip"),
    ],
)  # fmt: skip
def test_the_image_store(tmp_path: Path, call: Any, kind: type[StagewrightError], message: str) -> None:
    (tmp_path / "config").touch()
    store = Store(tmp_path / "root", tmp_path / "config")
    with pytest.raises(kind) as caught:
        call(store)
    store.close()
    assert caught.value.message == message


# --- token servers ----------------------------------------------------------------------------------------------------


class Answer:
    """A response of a token server."""

    def __init__(self, status: int, body: bytes = b"", challenge: str = f'Bearer realm="{TOKENS}"') -> None:
        self.status, self.body = status, body
        self.headers = Headers(("WWW-Authenticate", challenge))

    @property
    def origin(self) -> Origin:
        return split_url(TOKENS)[0]

    def read_all(self, limit: int) -> bytes:
        return self.body

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Server:
    """An HTTP client to which all requests get one answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def request(self, *_: Any, **__: Any) -> Answer:
        return self._answer


class Login:
    def __init__(self, credential: Credential | None) -> None:
        self._credential = credential

    def get(self, host: str) -> Credential | None:
        return self._credential


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, b"", UnauthorizedError, "auth.example.com refused to give a token for r.example.com"),
        (403, b"", UnauthorizedError, "auth.example.com refused to give a token for r.example.com"),
        (429, b"", UnreachableError, "auth.example.com: the token server answered with status 429"),
        (503, b"", UnreachableError, "auth.example.com: the token server answered with status 503"),
        (404, b"", StagewrightError, "auth.example.com: the token server answered with status 404"),
        (200, b"<html>", StagewrightError, "auth.example.com: the token server did not answer with a token"),
        (200, b'{"token": "a b"}', StagewrightError, "auth.example.com: the token server did not answer with a token"),
    ],
)
def test_token_servers(status: int, body: bytes, kind: type[StagewrightError], message: str) -> None:
    authorizer = Authorizer(Server(Answer(status, body)), Login(None))  # type: ignore[arg-type]
    with pytest.raises(kind) as caught:
        authorizer.answer(HOST, "https", Answer(401), frozenset(), None)  # type: ignore[arg-type]
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("challenge", "credential", "message"),
    [
        ("Negotiate", None, "r.example.com asks for credentials in no way that is known"),
        ("Basic realm=x", None, "r.example.com asks for credentials"),
        ("Basic realm=x", Credential("u", "p", ""), "r.example.com refused the credentials"),
        ('Bearer realm="http://plain.example.com/t"', Credential("u", "p", ""),
         "r.example.com wants its credentials sent to plain.example.com without encryption"),
    ],
)  # fmt: skip
def test_challenges_that_nothing_answers(challenge: str, credential: Credential | None, message: str) -> None:
    authorizer = Authorizer(Server(Answer(200)), Login(credential))  # type: ignore[arg-type]
    response = Answer(401, challenge=challenge)
    with pytest.raises(StagewrightError) as caught:
        sent = authorizer.answer(HOST, "https", response, frozenset(), None)  # type: ignore[arg-type]
        authorizer.answer(HOST, "https", response, frozenset(), sent)  # type: ignore[arg-type]
    assert caught.value.message == message
