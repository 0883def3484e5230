"""What a hostile or broken registry can send, and that none of it gets into the store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from registry_servers import Handler, Image, ScriptedServer, client_for, digest_of, make_image

from stagewright.config import Config, RegistryTable
from stagewright.content.blobs import BlobStore
from stagewright.errors import CanceledError, IntegrityError, NotFoundError, RegistryError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.registry.client import RegistryClient
from stagewright.registry.errors import UnauthorizedError, UnreachableError
from stagewright.registry.reference import Reference

DATA = os.urandom(300_000)
BLOB = Descriptor(mediatypes.OCI_LAYER, digest_of(DATA), len(DATA))
BLOB_PATH = f"GET /v2/app/blobs/{BLOB.digest}"


def ref(server: ScriptedServer, rest: str = "app:1") -> Reference:
    return Reference.parse(f"{server.address}/{rest}")


@pytest.fixture
def image() -> Image:
    return make_image(b"layer")


def nothing_left(store: BlobStore, tmp_path: Path) -> bool:
    ingest = tmp_path / "store" / "ingest"
    return not list(store.digests()) and (not ingest.exists() or not os.listdir(ingest))


# Manifests


def test_an_honest_registry_is_believed(server: ScriptedServer, image: Image) -> None:
    server.serve_image(image)
    client = client_for(server.address)
    found = client.resolve(ref(server))
    assert found == image.descriptor
    assert client.fetch_manifest(ref(server), found) == image.data
    assert server.asked("HEAD") == ["/v2/app/manifests/1"]


@pytest.mark.parametrize("status", [400, 405, 501])
def test_without_head_the_digest_is_computed(server: ScriptedServer, image: Image, status: int) -> None:
    server.serve_image(image)
    server.on("HEAD .*", lambda handler: handler.reply(status))
    assert client_for(server.address).resolve(ref(server)) == image.descriptor


def test_a_head_that_says_too_little_is_not_enough(server: ScriptedServer, image: Image) -> None:
    server.on("GET .*", lambda handler: handler.reply(200, image.data, Content_Type="application/json; charset=utf-8"))
    server.on("HEAD .*", lambda handler: handler.reply(200, image.data, Docker_Content_Digest="sha256:../../x"))
    assert client_for(server.address).resolve(ref(server)) == image.descriptor


def test_a_tag_that_is_not_there(server: ScriptedServer) -> None:
    with pytest.raises(NotFoundError, match=r"app:1: not found"):
        client_for(server.address).resolve(ref(server))


def test_a_pinned_digest_is_held_against_the_answer(server: ScriptedServer, image: Image) -> None:
    other = make_image(b"other")
    pinned = ref(server, f"app@{other.descriptor.digest}")
    server.serve_image(image, tag=other.descriptor.digest)
    with pytest.raises(IntegrityError, match="answered with digest"):
        client_for(server.address).resolve(pinned)
    server.on("HEAD .*", lambda handler: handler.reply(405))
    with pytest.raises(IntegrityError, match="has digest"):
        client_for(server.address).resolve(pinned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(b"layer", b"laxer"), "has digest"),
        (lambda data: data[:-1], "bytes, expected"),
        (lambda data: data + b" ", "sent more than"),
        (lambda data: b"", "bytes, expected"),
    ],
)
def test_a_manifest_of_other_bytes_is_refused(
    server: ScriptedServer, image: Image, change: Callable[[bytes], bytes], message: str
) -> None:
    server.on("GET .*", lambda handler: handler.reply(200, change(image.data)))
    with pytest.raises((IntegrityError, RegistryError), match=message):
        client_for(server.address).fetch_manifest(ref(server), image.descriptor)


def test_a_huge_manifest_is_not_asked_for(server: ScriptedServer) -> None:
    huge = Descriptor(mediatypes.OCI_MANIFEST, BLOB.digest, (8 << 20) + 1)
    with pytest.raises(IntegrityError, match=f"app:1: manifest {huge.digest} has 8388609 bytes, more than 8 MiB"):
        client_for(server.address).fetch_manifest(ref(server), huge)
    assert server.requests == []


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * (1 << 20))
    except OSError:
        handler.close_connection = True


def test_an_endless_manifest_ends(server: ScriptedServer) -> None:
    server.on("HEAD .*", lambda handler: handler.reply(405))
    server.on("GET .*", endless)
    with pytest.raises(RegistryError, match="more than 8388608 bytes"):
        client_for(server.address).resolve(ref(server))


def test_an_endless_header_ends(server: ScriptedServer) -> None:
    def script(handler: Handler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                handler.wfile.write(b"X: " + b"x" * 65000 + b"\r\n")
        except OSError:
            handler.close_connection = True

    server.on("HEAD .*", script)
    with pytest.raises(UnreachableError):
        client_for(server.address).resolve(ref(server))


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"<html>log in</html>", "text/html", "answered with a web page, not with a manifest"),
        (b"<html>log in</html>", "text/plain", "not valid JSON"),
        (b'{"schemaVersion":1}', mediatypes.DOCKER_SCHEMA1_SIGNED, "schema 1"),
        (b'{"schemaVersion":2,"manifests":[]}', mediatypes.OCI_MANIFEST, "media type"),
    ],
)
def test_what_is_no_manifest_is_refused(server: ScriptedServer, body: bytes, content_type: str, message: str) -> None:
    server.on("HEAD .*", lambda handler: handler.reply(200, Content_Type=content_type))
    server.on("GET .*", lambda handler: handler.reply(200, body, Content_Type=content_type))
    with pytest.raises((RegistryError, IntegrityError), match=message):
        client_for(server.address).resolve(ref(server))


def test_the_registrys_own_words_are_shown_but_not_its_escapes(server: ScriptedServer) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"pay \\u001b[31mfirst"},{"code":"MORE"}]}'
    server.on("HEAD .*", lambda handler: handler.reply(405))
    server.on("GET .*", lambda handler: handler.reply(403, body))
    with pytest.raises(UnauthorizedError) as caught:
        client_for(server.address).resolve(ref(server))
    assert caught.value.message.endswith("denied access: pay [31mfirst; MORE")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"errors":7}', b'{"errors":[7]}', b"\xff" * 100_000])
def test_any_error_body_will_do(server: ScriptedServer, body: bytes) -> None:
    server.on("HEAD .*", lambda handler: handler.reply(405))
    server.on("GET .*", lambda handler: handler.reply(418, body))
    with pytest.raises(RegistryError, match=r"answered with status 418$"):
        client_for(server.address).resolve(ref(server))


def test_an_overloaded_registry_is_asked_again(server: ScriptedServer, image: Image) -> None:
    server.serve_image(image)
    answers = iter([(429, {"Retry_After": "0"}), (503, {})])

    def script(handler: Handler) -> None:
        status, headers = next(answers, (0, {}))
        if status:
            handler.reply(status, **headers)
        else:
            handler.reply(200, image.data, Content_Type=image.manifest.media_type)

    server.on("GET .*", script)
    assert client_for(server.address).fetch_manifest(ref(server), image.descriptor) == image.data
    server.on("HEAD .*", lambda handler: handler.reply(500))
    with pytest.raises(UnreachableError, match="status 500"):
        client_for(server.address).resolve(ref(server))
    assert len(server.asked("HEAD")) == 3


def test_a_wait_ends_with_the_build(server: ScriptedServer) -> None:
    cancel = threading.Event()

    def script(handler: Handler) -> None:
        handler.reply(429, Retry_After="60")
        cancel.set()

    server.on("HEAD .*", script)
    with pytest.raises(CanceledError):
        client_for(server.address).resolve(ref(server), cancel)


# Blobs


def test_a_blob_streams_into_the_store(server: ScriptedServer, store: BlobStore) -> None:
    server.on(BLOB_PATH, lambda handler: handler.reply(200, DATA))
    seen: list[tuple[int, int]] = []
    client = client_for(server.address)
    client.fetch_blob(ref(server), BLOB, store, lambda current, total: seen.append((current, total)))
    assert store.read(BLOB.digest) == DATA
    assert seen[-1] == (len(DATA), len(DATA)) and seen == sorted(seen)
    client.fetch_blob(ref(server), BLOB, store)
    assert len(server.requests) == 1


def test_an_empty_blob_needs_no_request(server: ScriptedServer, store: BlobStore) -> None:
    client_for(server.address).fetch_blob(ref(server), Descriptor("", digest_of(b""), 0), store)
    assert store.read(digest_of(b"")) == b"" and server.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (DATA[:-1] + bytes([DATA[-1] ^ 1]), "blob has digest"),
        (DATA + b"x", "announces 300001 bytes"),
        (DATA[:-1], "announces 299999 bytes"),
    ],
)
def test_wrong_bytes_are_refused(
    server: ScriptedServer, store: BlobStore, tmp_path: Path, body: bytes, message: str
) -> None:
    server.on(BLOB_PATH, lambda handler: handler.reply(200, body))
    with pytest.raises(IntegrityError, match=message):
        client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert nothing_left(store, tmp_path)
    assert len(server.requests) == 1


def test_an_endless_blob_ends(server: ScriptedServer, store: BlobStore, tmp_path: Path) -> None:
    server.on(BLOB_PATH, endless)
    with pytest.raises(IntegrityError):
        client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert nothing_left(store, tmp_path)


def flaky(server: ScriptedServer, bytes_at_once: int, *, ranges: bool = True, spoil: int | None = None) -> None:
    """Serve the blob, breaking off after so many bytes; the byte at `spoil` is wrong in the second response."""
    count = 0

    def script(handler: Handler) -> None:
        nonlocal count
        count += 1
        data = bytearray(DATA)
        if spoil is not None and count == 2:
            data[spoil] ^= 1
        start = 0
        asked = handler.headers.get("Range")
        if asked and ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA) - start))
        handler.end_headers()
        sent = bytes_at_once * (count if not ranges else 1)
        handler.wfile.write(data[start : start + sent])
        if start + sent < len(DATA):
            handler.cut()

    server.on(BLOB_PATH, script)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(server: ScriptedServer, store: BlobStore, ranges: bool) -> None:
    flaky(server, 100_001, ranges=ranges)
    client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert store.read(BLOB.digest) == DATA
    asked = [request.headers.get("Range") for request in server.requests]
    assert asked == [None, "bytes=100001-", "bytes=200002-"]


def test_a_resume_that_goes_wrong_starts_again_from_zero(
    server: ScriptedServer, store: BlobStore, tmp_path: Path
) -> None:
    flaky(server, 150_001, spoil=200_000)
    client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert store.read(BLOB.digest) == DATA
    asked = [request.headers.get("Range") for request in server.requests]
    assert asked == [None, "bytes=150001-", None, "bytes=150001-"]


def test_it_starts_again_only_once(server: ScriptedServer, store: BlobStore, tmp_path: Path) -> None:
    wrong = bytes(len(DATA))

    def script(handler: Handler) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        handler.send_header("Content-Length", str(len(DATA) - start))
        handler.end_headers()
        handler.wfile.write(wrong[start : start + 150_000])
        if start == 0:
            handler.cut()

    server.on(BLOB_PATH, script)
    with pytest.raises(IntegrityError):
        client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert len(server.requests) == 4
    assert nothing_left(store, tmp_path)


def test_a_range_that_was_not_asked_for_is_not_used(server: ScriptedServer, store: BlobStore) -> None:
    def script(handler: Handler) -> None:
        if handler.headers.get("Range"):
            handler.reply(206, DATA[5:], Content_Range=f"bytes 5-{len(DATA) - 1}/{len(DATA)}")
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        if len(server.requests) == 1:
            handler.wfile.write(DATA[:100_000])
            handler.cut()
        else:
            handler.wfile.write(DATA)

    server.on(BLOB_PATH, script)
    client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert store.read(BLOB.digest) == DATA


def test_a_registry_that_always_breaks_off_is_given_up(
    server: ScriptedServer, store: BlobStore, tmp_path: Path
) -> None:
    def script(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.cut()

    server.on(BLOB_PATH, script)
    with pytest.raises(UnreachableError, match="connection broke"):
        client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert len(server.requests) == 5
    assert nothing_left(store, tmp_path)


def test_a_blob_that_ends_too_early_is_given_up(server: ScriptedServer, store: BlobStore) -> None:
    def script(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"0\r\n\r\n")

    server.on(BLOB_PATH, script)
    with pytest.raises(UnreachableError, match=f"{server.address}: the blob ended too early"):
        client_for(server.address).fetch_blob(ref(server), BLOB, store)


def test_drops_without_end_are_given_up(server: ScriptedServer, store: BlobStore) -> None:
    flaky(server, 1)
    with pytest.raises(UnreachableError):
        client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert len(server.requests) == 30


def test_a_chunked_blob_that_breaks_off_is_resumed(server: ScriptedServer, store: BlobStore) -> None:
    def script(handler: Handler) -> None:
        if handler.headers.get("Range"):
            handler.reply(206, DATA[1000:], Content_Range=f"bytes 1000-{len(DATA) - 1}/*")
            return
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3e8\r\n" + DATA[:1000] + b"\r\n")
        handler.cut()

    server.on(BLOB_PATH, script)
    client_for(server.address).fetch_blob(ref(server), BLOB, store)
    assert store.read(BLOB.digest) == DATA


def test_a_stream_gives_its_bytes_as_they_come_and_then_the_blob(server: ScriptedServer, store: BlobStore) -> None:
    flaky(server, 100_001)
    with client_for(server.address).open_blob(ref(server), BLOB, store) as stream:
        first = stream.read(10)
        assert first == DATA[:10] and not store.has(BLOB.digest)
        assert first + stream.readall() == DATA
        assert store.has(BLOB.digest) and stream.resumed
        assert stream.read(10) == b""


def test_a_stream_never_ends_well_with_wrong_bytes(server: ScriptedServer, store: BlobStore, tmp_path: Path) -> None:
    server.on(BLOB_PATH, lambda handler: handler.reply(200, bytes(len(DATA))))
    with client_for(server.address).open_blob(ref(server), BLOB, store) as stream:
        with pytest.raises(IntegrityError):
            stream.readall()
    assert nothing_left(store, tmp_path)


def test_a_stream_that_is_closed_early_leaves_nothing(server: ScriptedServer, store: BlobStore, tmp_path: Path) -> None:
    server.on(BLOB_PATH, lambda handler: handler.reply(200, DATA))
    with client_for(server.address).open_blob(ref(server), BLOB, store) as stream:
        stream.read(10)
    assert nothing_left(store, tmp_path)


def test_a_download_ends_with_the_build(server: ScriptedServer, store: BlobStore, tmp_path: Path) -> None:
    server.on(BLOB_PATH, lambda handler: handler.reply(200, DATA))
    cancel = threading.Event()
    with pytest.raises(CanceledError):
        client_for(server.address).fetch_blob(ref(server), BLOB, store, lambda current, total: cancel.set(), cancel)
    assert nothing_left(store, tmp_path)


@pytest.mark.parametrize("after_headers", [True, False])
def test_abort_breaks_off_a_download_that_is_stuck(
    server: ScriptedServer, store: BlobStore, tmp_path: Path, after_headers: bool
) -> None:
    stuck, release = threading.Event(), threading.Event()

    def script(handler: Handler) -> None:
        if after_headers:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(DATA)))
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(DATA[:1000])
            handler.wfile.flush()
        stuck.set()
        release.wait(30)
        handler.close_connection = True

    server.on(BLOB_PATH, script)
    client = client_for(server.address)
    caught: list[BaseException] = []

    def fetch() -> None:
        try:
            client.fetch_blob(ref(server), BLOB, store)
        except CanceledError as error:
            caught.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    try:
        assert stuck.wait(30)
        client.abort()
        thread.join(30)
        assert not thread.is_alive() and caught
    finally:
        release.set()
        thread.join()
    with pytest.raises(CanceledError):
        client.resolve(ref(server))
    assert nothing_left(store, tmp_path)


# Mirrors


def mirrored(*hosts: str) -> RegistryClient:
    """A client that knows the last host, and those before it as its mirrors."""
    tables = {name.partition("/")[0]: RegistryTable(http=True) for name in hosts}
    tables[hosts[-1]] = RegistryTable(http=True, mirrors=hosts[:-1])
    return RegistryClient(Config(tables), {})


def unused_address() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("status", [404, 401, 403, 500, 200])
def test_the_next_host_is_asked_where_a_mirror_fails(
    start_server: Callable[[], ScriptedServer], store: BlobStore, image: Image, status: int
) -> None:
    mirror, origin = start_server(), start_server()
    origin.serve_image(image)
    for method in ("GET", "HEAD"):
        mirror.on(f"{method} .*", lambda handler: handler.reply(status, b"garbage"))
    client = mirrored(unused_address(), f"{mirror.address}/hub", origin.address)
    name = Reference.parse(f"{origin.address}/app:1")
    found = client.resolve(name)
    assert found == image.descriptor
    assert client.fetch_manifest(name, found) == image.data
    client.fetch_blob(name, image.blobs[1][0], store)
    assert store.has(image.blobs[1][0].digest)
    paths = [request.path for request in mirror.requests]
    assert f"/v2/hub/app/manifests/1?ns={origin.address.replace(':', '%3A')}" in paths


def test_the_mirror_alone_is_asked_where_it_has_the_image(
    start_server: Callable[[], ScriptedServer], store: BlobStore, image: Image
) -> None:
    mirror, origin = start_server(), start_server()
    mirror.serve_image(image, "hub/app")
    client = mirrored(f"{mirror.address}/hub", origin.address)
    name = Reference.parse(f"{origin.address}/app:1")
    client.fetch_manifest(name, client.resolve(name))
    client.fetch_blob(name, image.blobs[1][0], store)
    assert origin.requests == []


def test_a_mirror_with_wrong_bytes_is_left_for_the_next(
    start_server: Callable[[], ScriptedServer], store: BlobStore
) -> None:
    mirror, origin = start_server(), start_server()
    mirror.on(BLOB_PATH, lambda handler: handler.reply(200, bytes(len(DATA))))
    origin.on(BLOB_PATH, lambda handler: handler.reply(200, DATA))
    client = mirrored(mirror.address, origin.address)
    client.fetch_blob(Reference.parse(f"{origin.address}/app:1"), BLOB, store)
    assert store.read(BLOB.digest) == DATA


def test_where_all_fail_all_are_named(server: ScriptedServer) -> None:
    gone = unused_address()
    client = mirrored(gone, server.address)
    with pytest.raises(NotFoundError) as caught:
        client.resolve(ref(server))
    assert caught.value.hint is not None and f"mirror {gone}" in caught.value.hint


def test_no_connection_is_unreachable() -> None:
    gone = unused_address()
    with pytest.raises(UnreachableError, match=f"{gone}: connection refused") as caught:
        client_for(gone).resolve(Reference.parse(f"{gone}/app"))
    assert not caught.value.connected


def test_a_host_name_that_means_nothing_is_unreachable() -> None:
    with pytest.raises(UnreachableError):
        RegistryClient(Config(), {}).resolve(Reference.parse("registry.invalid/app"))
