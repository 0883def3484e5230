"""Registries that were made to harm: they dawdle, send credentials astray and nest their documents without end."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_servers import Handler, Image, ScriptedServer, client_for, digest_of, make_image

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, RegistryError, StagewrightError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.registry import pace
from stagewright.registry.errors import UnreachableError
from stagewright.registry.reference import Reference

SECRET = "correct-horse"


def ref(server: ScriptedServer) -> Reference:
    return Reference.parse(f"{server.address}/app:1")


@pytest.fixture
def image() -> Image:
    return make_image(b"layer")


# Dawdlers


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Much less of it than in earnest; the event ends the servers' waits."""
    monkeypatch.setattr(pace, "_WINDOW_S", 0.2)
    done = threading.Event()
    yield done
    done.set()


def drip(handler: Handler, done: threading.Event, piece: bytes) -> None:
    try:
        while not done.wait(0.02):
            handler.wfile.write(piece)
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True


def test_a_manifest_that_comes_byte_by_byte(server: ScriptedServer, image: Image, patience: threading.Event) -> None:
    def script(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(image.descriptor.size))
        handler.end_headers()
        drip(handler, patience, b" ")

    server.on("GET .*", script)
    with pytest.raises(UnreachableError, match="timed out"):
        client_for(server.address).fetch_manifest(ref(server), image.descriptor)


def test_a_head_that_comes_byte_by_byte(server: ScriptedServer, patience: threading.Event) -> None:
    def script(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        drip(handler, patience, b"x")

    server.on("HEAD .*", script)
    with pytest.raises(UnreachableError, match="timed out"):
        client_for(server.address).resolve(ref(server))


def test_chunks_of_one_byte(server: ScriptedServer, patience: threading.Event) -> None:
    def script(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        drip(handler, patience, b"1\r\n \r\n")

    server.on("HEAD .*", lambda handler: handler.reply(405))
    server.on("GET .*", script)
    with pytest.raises(UnreachableError, match="timed out"):
        client_for(server.address).resolve(ref(server))


def test_a_blob_that_comes_byte_by_byte(
    server: ScriptedServer, store: BlobStore, patience: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagewright.registry.download._MAX_FAILURES", 3)
    blob = Descriptor(mediatypes.OCI_LAYER, digest_of(bytes(100_000)), 100_000)

    def script(handler: Handler) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Range", f"bytes {start}-{blob.size - 1}/{blob.size}")
        handler.send_header("Content-Length", str(blob.size - start))
        handler.end_headers()
        drip(handler, patience, b"\0")

    server.on("GET .*", script)
    with pytest.raises(UnreachableError, match="timed out"):
        client_for(server.address).fetch_blob(ref(server), blob, store)
    assert not list(store.digests())
    assert len(server.requests) == 3


def test_whoever_waits_itself_is_not_taken_for_a_dawdler(
    server: ScriptedServer, store: BlobStore, patience: threading.Event
) -> None:
    data = bytes(1 << 20)
    blob = Descriptor(mediatypes.OCI_LAYER, digest_of(data), len(data))
    server.on("GET .*", lambda handler: handler.reply(200, data))
    with client_for(server.address).open_blob(ref(server), blob, store) as stream:
        stream.read(10)
        patience.wait(0.5)
        assert sum(len(piece) for piece in iter(lambda: stream.read(100_000), b"")) == len(data) - 10
    assert store.has(blob.digest)


# Credentials


def docker_config(folder: Path, *hosts: str) -> str:
    auth = base64.b64encode(f"user:{SECRET}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth} for host in hosts}}))
    return str(folder)


def test_credentials_do_not_come_back_with_a_redirect(
    start_server: Callable[[], ScriptedServer], tmp_path: Path, image: Image
) -> None:
    """Else a host in between could choose what is asked for with them (CVE-2024-45336)."""
    registry, between = start_server(), start_server()
    registry.on("GET /v2/app/.*", lambda handler: handler.reply(307, Location=f"{between.url}/x"))
    registry.on("GET /v2/private/.*", lambda handler: handler.reply(200, image.data))
    between.on("GET .*", lambda handler: handler.reply(307, Location=f"{registry.url}/v2/private/x"))

    def challenge(handler: Handler) -> None:
        if "Authorization" in handler.headers:
            handler.reply(307, Location=f"{between.url}/x")
        else:
            handler.reply(401, WWW_Authenticate='Basic realm="x"')

    registry.on("GET /v2/app/.*", challenge)
    client = client_for(registry.address, DOCKER_CONFIG=docker_config(tmp_path, registry.address))
    client.fetch_manifest(ref(registry), image.descriptor)
    seen = [(request.path, "Authorization" in request.headers) for request in registry.requests]
    assert seen[-1] == ("/v2/private/x", False)
    assert [asked for _, asked in seen].count(True) == 1
    assert not any("Authorization" in request.headers for request in between.requests)


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://example.com/", "", "//", "https://", "http://[", "x"])
def test_token_servers_that_are_none(server: ScriptedServer, tmp_path: Path, realm: str) -> None:
    server.on("* .*", lambda handler: handler.reply(401, WWW_Authenticate=f'Bearer realm="{realm}"'))
    client = client_for(server.address, DOCKER_CONFIG=docker_config(tmp_path, server.address))
    with pytest.raises(RegistryError, match="URL") as caught:
        client.resolve(ref(server))
    assert SECRET not in caught.value.render()


@pytest.mark.parametrize(
    "answer",
    [
        {"token": "a\r\nX-Injected: 1"},
        {"token": "a b"},
        {"token": ["a"]},
        {"token": {"token": "a"}},
        {"access_token": 5},
    ],
)
def test_tokens_that_are_none(server: ScriptedServer, answer: object) -> None:
    server.on("* /v2/.*", lambda handler: handler.reply(401, WWW_Authenticate=f'Bearer realm="{server.url}/token"'))
    server.on("GET /token", lambda handler: handler.reply(200, json.dumps(answer).encode()))
    with pytest.raises(RegistryError, match="did not answer with a token"):
        client_for(server.address).resolve(ref(server))


@pytest.mark.parametrize("lifetime", ["1e999", "-5", "0", "NaN", '"x"', "true", "1" + "0" * 4000])
def test_lifetimes_of_tokens_that_are_none(server: ScriptedServer, image: Image, lifetime: str) -> None:
    server.serve_image(image)

    def challenge(handler: Handler) -> None:
        if handler.headers.get("Authorization") == "Bearer t":
            handler.reply(
                200, Content_Type=image.manifest.media_type, Docker_Content_Digest=image.descriptor.digest,
                Content_Length=str(image.descriptor.size),
            )  # fmt: skip
        else:
            handler.reply(401, WWW_Authenticate=f'Bearer realm="{server.url}/token"')

    server.on("HEAD .*", challenge)
    server.on("GET /token", lambda handler: handler.reply(200, f'{{"token":"t","expires_in":{lifetime}}}'.encode()))
    assert client_for(server.address).resolve(ref(server)) == image.descriptor


def test_an_endless_token_ends(server: ScriptedServer) -> None:
    server.on("* /v2/.*", lambda handler: handler.reply(401, WWW_Authenticate=f'Bearer realm="{server.url}/token"'))
    server.on("GET /token", lambda handler: handler.reply(200, b" " * (2 << 20)))
    with pytest.raises(RegistryError, match="sent more than 1048576 bytes"):
        client_for(server.address).resolve(ref(server))


# Documents


NESTED = {
    "lists": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "annotations": b'{"schemaVersion":2,"annotations":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "digits": b'{"schemaVersion":' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("case", NESTED)
def test_documents_that_nest_without_end(server: ScriptedServer, case: str) -> None:
    server.on("HEAD .*", lambda handler: handler.reply(405))
    server.on("GET .*", lambda handler: handler.reply(200, NESTED[case], Content_Type=mediatypes.OCI_MANIFEST))
    with pytest.raises(IntegrityError, match="manifest"):
        client_for(server.address).resolve(ref(server))


def test_a_manifest_that_was_compressed_on_the_way(server: ScriptedServer, image: Image) -> None:
    """Nobody asked for it, and a few bytes could stand for gigabytes."""
    packed = gzip.compress(image.data)
    server.on("GET .*", lambda handler: handler.reply(200, packed, Content_Encoding="gzip"))
    with pytest.raises(StagewrightError, match=r"bytes, expected|sent more than"):
        client_for(server.address).fetch_manifest(ref(server), image.descriptor)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_headers_without_end(server: ScriptedServer) -> None:
    def script(handler: Handler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                handler.wfile.write(b"X: x\r\n" * 1000)
        except OSError:
            handler.close_connection = True

    server.on("HEAD .*", script)
    with pytest.raises(UnreachableError):
        client_for(server.address).resolve(ref(server))
