"""Uploads to registries that are picky, broken, or lie."""

from __future__ import annotations

import io
import os
import threading
from typing import BinaryIO

import pytest
from registry_servers import Handler, ScriptedServer, client_for, digest_of, make_image

from stagewright.content.blobs import BlobStore
from stagewright.errors import CanceledError, IntegrityError, RegistryError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.registry.client import RegistryClient
from stagewright.registry.errors import UnauthorizedError, UnreachableError
from stagewright.registry.reference import Reference
from stagewright.registry.transfer import ImagePush

DATA = os.urandom(600_000)
BLOB = Descriptor(mediatypes.OCI_LAYER, digest_of(DATA), len(DATA))
UPLOADS = "/v2/app/blobs/uploads/"


class Receiver:
    """A registry that takes uploads, and what it got."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.blobs: list[bytes] = []
        self.parts = b""
        server.on(f"POST {UPLOADS}", lambda handler: handler.reply(202, Location="/up/1?state=a"))
        server.on("PUT /up/.*", self._put)
        server.on("PATCH /up/.*", self._patch)

    def _put(self, handler: Handler) -> None:
        self.blobs.append(self.parts + self.server.requests[-1].body)
        handler.reply(201)

    def _patch(self, handler: Handler) -> None:
        body = self.server.requests[-1].body
        assert handler.headers["Content-Range"] == f"{len(self.parts)}-{len(self.parts) + len(body) - 1}"
        self.parts += body
        handler.reply(202, Location="/up/2?state=b")


@pytest.fixture
def receiver(server: ScriptedServer) -> Receiver:
    return Receiver(server)


def push(server: ScriptedServer, client: RegistryClient | None = None, **options: object) -> str:
    name = Reference.parse(f"{server.address}/app:1")

    def open_blob() -> BinaryIO:
        return io.BytesIO(DATA)

    return (client or client_for(server.address)).push_blob(name, BLOB, open_blob, **options)  # type: ignore[arg-type]


def test_a_blob_that_is_there_is_not_sent(server: ScriptedServer) -> None:
    server.on(f"HEAD /v2/app/blobs/{BLOB.digest}", lambda handler: handler.reply(200, DATA))
    assert push(server) == "exists"
    assert len(server.requests) == 1


def test_a_blob_goes_in_one_piece(server: ScriptedServer, receiver: Receiver) -> None:
    seen: list[tuple[int, int]] = []
    assert push(server, progress=lambda current, total: seen.append((current, total))) == "uploaded"
    assert receiver.blobs == [DATA]
    assert server.asked("PUT") == [f"/up/1?state=a&digest={BLOB.digest.replace(':', '%3A')}"]
    assert seen[-1] == (len(DATA), len(DATA))


def test_a_mount_saves_the_upload(server: ScriptedServer, receiver: Receiver) -> None:
    server.on(
        f"POST {UPLOADS}", lambda handler: handler.reply(201 if "from=base" in handler.path else 202, Location="/up/1")
    )
    assert push(server, mount_from=["app", "other", "base"]) == "mounted"
    assert [path.partition("from=")[2] for path in server.asked("POST")] == ["other", "base"]
    assert receiver.blobs == []


def test_a_mount_that_is_denied_is_an_upload(server: ScriptedServer, receiver: Receiver) -> None:
    def script(handler: Handler) -> None:
        if "from=" in handler.path:
            handler.reply(401, WWW_Authenticate='Basic realm="x"')
        else:
            handler.reply(202, Location="/up/1")

    server.on(f"POST {UPLOADS}", script)
    assert push(server, mount_from=["closed"]) == "uploaded"
    assert receiver.blobs == [DATA]


def test_the_upload_that_takes_the_place_of_a_mount_is_used(server: ScriptedServer, receiver: Receiver) -> None:
    assert push(server, mount_from=["other"]) == "uploaded"
    assert receiver.blobs == [DATA]
    assert len(server.asked("POST")) == 1


@pytest.mark.parametrize("status", [413, 405, 416])
def test_a_registry_that_wants_pieces_gets_them(
    server: ScriptedServer, receiver: Receiver, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagewright.registry.upload._CHUNK", 250_000)

    def put(handler: Handler) -> None:
        if server.requests[-1].body:
            handler.reply(status)
        else:
            receiver._put(handler)

    server.on("PUT /up/.*", put)
    assert push(server) == "uploaded"
    assert receiver.blobs == [DATA]
    assert len(server.asked("PATCH")) == 3


def test_the_registrys_smallest_piece_is_obeyed(
    server: ScriptedServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagewright.registry.upload._CHUNK", 1000)
    server.on(f"POST {UPLOADS}", lambda handler: handler.reply(202, Location="/up/1", OCI_Chunk_Min_Length="400000"))
    server.on("PUT /up/.*", lambda handler: handler.reply(413) if server.requests[-1].body else receiver._put(handler))
    push(server)
    assert [len(request.body) for request in server.requests if request.method == "PATCH"] == [400_000, 200_000]


def test_a_broken_upload_starts_again(server: ScriptedServer, receiver: Receiver) -> None:
    count = 0

    def put(handler: Handler) -> None:
        nonlocal count
        count += 1
        if count == 1:
            handler.cut()
        elif count == 2:
            handler.reply(503)
        else:
            receiver._put(handler)

    server.on("PUT /up/.*", put)
    assert push(server) == "uploaded"
    assert receiver.blobs == [DATA] and count == 3
    assert len(server.asked("POST")) == 3


def test_an_upload_that_never_works_is_given_up(server: ScriptedServer, receiver: Receiver) -> None:
    server.on("PUT /up/.*", lambda handler: handler.cut())
    with pytest.raises(UnreachableError):
        push(server)
    assert len(server.asked("PUT")) == 5


@pytest.mark.parametrize(("status", "error"), [(403, UnauthorizedError), (400, RegistryError), (418, RegistryError)])
def test_a_refusal_is_told(server: ScriptedServer, receiver: Receiver, status: int, error: type[Exception]) -> None:
    server.on("PUT /up/.*", lambda handler: handler.reply(status, b'{"errors":[{"message":"quota"}]}'))
    with pytest.raises(error, match="quota"):
        push(server)


def test_an_upload_without_a_place_is_refused(server: ScriptedServer) -> None:
    server.on(f"POST {UPLOADS}", lambda handler: handler.reply(202))
    with pytest.raises(RegistryError, match=f"{server.address} did not say where to upload it to"):
        push(server)


def test_an_upload_ends_with_the_build(server: ScriptedServer, receiver: Receiver) -> None:
    cancel = threading.Event()
    with pytest.raises(CanceledError):
        push(server, cancel=cancel, progress=lambda current, total: cancel.set())
    assert receiver.blobs == []


def test_a_manifest_goes_under_its_tag_or_its_digest(server: ScriptedServer) -> None:
    image = make_image(b"x")
    server.on("PUT /v2/app/manifests/.*", lambda handler: handler.reply(201))
    client = client_for(server.address)
    name = Reference.parse(f"{server.address}/app:1")
    assert client.push_manifest(name, image.data, image.manifest.media_type) == image.descriptor.digest
    untagged = Reference(name.domain, name.path, digest=image.descriptor.digest)
    client.push_manifest(untagged, image.data, image.manifest.media_type)
    assert server.asked("PUT") == ["/v2/app/manifests/1", f"/v2/app/manifests/{image.descriptor.digest}"]
    assert server.requests[0].headers["Content-Type"] == mediatypes.OCI_MANIFEST
    assert server.requests[0].body == image.data


def test_a_registry_that_took_another_manifest_is_found_out(server: ScriptedServer) -> None:
    image = make_image(b"x")
    server.on("PUT .*", lambda handler: handler.reply(201, Docker_Content_Digest=BLOB.digest))
    client = client_for(server.address)
    name = Reference.parse(f"{server.address}/app:1")
    message = f"app:1: the registry took manifest {image.descriptor.digest} for {BLOB.digest}"
    with pytest.raises(IntegrityError, match=message):
        client.push_manifest(name, image.data, image.manifest.media_type)
    with pytest.raises(IntegrityError):
        client.push_manifest(name.with_digest(BLOB.digest), image.data, image.manifest.media_type)


class Arrivals:
    """A registry that takes everything, and tells when a blob has come."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.blobs: list[bytes] = []
        self.some = threading.Event()
        server.on(f"POST {UPLOADS}", lambda handler: handler.reply(202, Location="/up/1"))
        server.on("PUT /up/1", self._put)
        server.on("PUT /v2/app/manifests/.*", lambda handler: handler.reply(201))

    def _put(self, handler: Handler) -> None:
        length = int(handler.headers["Content-Length"])
        body = next(one.body for one in reversed(self.server.requests) if len(one.body) == length)
        self.blobs.append(body)
        handler.reply(201)
        self.some.set()


def test_a_layer_is_pushed_before_the_others_are_there(server: ScriptedServer, store: BlobStore) -> None:
    image = make_image(b"first", b"second one")
    registry = Arrivals(server)
    name = Reference.parse(f"{server.address}/app:1")
    (_, config), (first, first_data), _ = image.blobs
    store.write(first_data)
    with ImagePush(client_for(server.address), name, store) as push:
        push.begin(first)
        assert registry.some.wait(30)
        assert registry.blobs == [first_data]
        # No more is asked for it when the rest has come.
        image.put_into(store)
        push.begin(first)
        push.finish(name, image.descriptor)
    assert sorted(registry.blobs) == sorted([config, b"first", b"second one"])
    assert len(server.asked("HEAD")) == 3
    assert server.asked("PUT")[-1] == "/v2/app/manifests/1"


def test_a_layer_that_cannot_be_pushed_fails_the_push_at_its_end(server: ScriptedServer, store: BlobStore) -> None:
    image = make_image(b"first", b"second one")
    image.put_into(store)
    Arrivals(server)
    server.on(f"HEAD /v2/app/blobs/{image.blobs[1][0].digest}", lambda handler: handler.reply(403))
    name = Reference.parse(f"{server.address}/app:1")
    with ImagePush(client_for(server.address), name, store) as push:
        push.begin(image.blobs[1][0])
        push.begin(image.blobs[2][0])
        with pytest.raises(UnauthorizedError):
            push.finish(name, image.descriptor)
    assert not [path for path in server.asked("PUT") if "manifests" in path]


def test_a_push_that_is_given_up_leaves_no_thread(server: ScriptedServer, store: BlobStore) -> None:
    image = make_image(b"first")
    image.put_into(store)
    asked, go_on = threading.Event(), threading.Event()

    def hold(handler: Handler) -> None:
        asked.set()
        go_on.wait(30)
        handler.reply(404)

    Arrivals(server)
    server.on("HEAD .*", hold)
    name = Reference.parse(f"{server.address}/app:1")
    with pytest.raises(ValueError, match="the layer could not be made"):
        with ImagePush(client_for(server.address), name, store) as push:
            push.begin(image.blobs[1][0])
            assert asked.wait(30)
            go_on.set()
            raise ValueError("the layer could not be made")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("transfer")]
