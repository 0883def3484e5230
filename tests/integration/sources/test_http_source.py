"""Files behind URLs, from servers that are honest, poor, or hostile."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from drafts import drafts
from registry_servers import Handler, ScriptedServer

from stagewright.content.db import Database
from stagewright.errors import (
    CanceledError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    StagewrightError,
    StoreError,
)
from stagewright.graph.ops import SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.progress.events import VertexEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.registry.http import HttpClient
from stagewright.snapshots.store import SnapshotStore
from stagewright.sources.http import HttpSource
from stagewright.sources.remote import RemoteSources

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
SECONDS = 1445412480
LARGE = 3 << 20
HELLO_BYTES = b"hello\n"
HELLO = "sha256:" + hashlib.sha256(HELLO_BYTES).hexdigest()
OTHER = "sha256:" + hashlib.sha256(b"other\n").hexdigest()


@dataclass
class Store:
    """A state directory's parts that URLs need; `builds` are the builds that were made on it."""

    db: Database
    snapshots: SnapshotStore
    secrets: dict[str, bytes] = field(default_factory=dict)
    cancel: threading.Event = field(default_factory=threading.Event)
    client: HttpClient = field(default_factory=lambda: HttpClient({}, {}))
    builds: list[RemoteSources] = field(default_factory=list)

    def build(self, *, offline: bool = False) -> RemoteSources:
        """The sources of a new build."""

        def make() -> HttpSource:
            return HttpSource(
                self.client, self.snapshots, self.db, self.secrets.get, self.cancel, offline=offline
            )

        def no_git() -> object:
            raise AssertionError("no repository was asked for")

        self.builds.append(RemoteSources(make, no_git))  # type: ignore[arg-type]
        return self.builds[-1]

    def fetch(self, url: str, **attrs: str) -> tuple[object, Path]:
        """What the URL means and its file, in one build."""
        build, vertex = self.build(), source(url, **attrs)
        meaning = build.resolve(vertex, reporter())
        folder = Path(self.snapshots.folder(build.snapshot(vertex, reporter())))
        (file,) = folder.iterdir()
        return meaning, file

    def meaning(self, url: str, **attrs: str) -> object:
        """What the URL means, in a build that needs no more."""
        return self.build().resolve(source(url, **attrs), reporter())

    def failure(self, url: str, **attrs: str) -> StagewrightError:
        with pytest.raises(StagewrightError) as caught:
            self.fetch(url, **attrs)
        return caught.value

    def close(self) -> None:
        for build in self.builds:
            build.close()
        self.client.close()
        self.snapshots.close()
        self.db.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    db = Database(tmp_path / "metadata.db")
    made = Store(db, SnapshotStore(tmp_path / "snapshots", db))
    yield made
    made.close()
    assert drafts(tmp_path / "snapshots") == []
    assert os.listdir(tmp_path / "snapshots" / "trash") == []


def source(url: str, filename: str = "file", checksum: str = "") -> Vertex:
    attrs = {"http.filename": filename} | ({"http.checksum": checksum} if checksum else {})
    return Vertex(SourceOp(url, tuple(sorted(attrs.items()))), meta=Metadata("ADD"))


def reporter() -> Reporter:
    return Reporter(Emitter(None), VertexEvent("sha256:1", "ADD"))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def serve(server: ScriptedServer, data: bytes = b"hello\n", *, etag: str = "", modified: str = "") -> str:
    """Serve a file as a good server does; answers its URL."""
    headers = {name: value for name, value in (("ETag", etag), ("Last_Modified", modified)) if value}

    def script(handler: Handler) -> None:
        if etag and handler.headers.get("If-None-Match") == etag:
            handler.reply(304, **headers)
        else:
            handler.reply(200, data, **headers)

    server.on("* /file", script)
    return f"{server.url}/file"


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_file_is_its_bytes_and_its_time(store: Store, server: ScriptedServer) -> None:
    meaning, file = store.fetch(serve(server, modified=DATE))
    info = file.stat()
    assert (file.name, file.read_bytes()) == ("file", b"hello\n")
    assert (info.st_mode & 0o7777, info.st_uid, info.st_gid, info.st_mtime) == (0o600, 0, 0, SECONDS)
    assert meaning == ["http", "file", HELLO, SECONDS]


@pytest.mark.parametrize("modified", ["", "yesterday", "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_a_file_without_a_time_is_of_the_epoch(store: Store, server: ScriptedServer, modified: str) -> None:
    meaning, file = store.fetch(serve(server, modified=modified))
    assert file.stat().st_mtime == 0
    assert meaning == ["http", "file", HELLO, None]


def test_a_mode_does_not_depend_on_the_umask(store: Store, server: ScriptedServer) -> None:
    before = os.umask(0o777)
    try:
        _, file = store.fetch(serve(server))
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o7777 == 0o600


def test_a_large_file_comes_whole(store: Store, server: ScriptedServer) -> None:
    data = os.urandom(LARGE)
    meaning, file = store.fetch(serve(server, data))
    assert file.read_bytes() == data
    assert meaning == ["http", "file", sha256(data), None]


def test_a_body_that_was_compressed_on_the_way(store: Store, server: ScriptedServer) -> None:
    data = b"a" * LARGE
    body = gzip.compress(data[:1000]) + gzip.compress(data[1000:])
    server.on("GET /file", lambda handler: handler.reply(200, body, Content_Encoding="gzip"))
    _, file = store.fetch(f"{server.url}/file")
    assert file.read_bytes() == data
    assert server.requests[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (gzip.compress(os.urandom(5000))[:2000], "the server sent a gzip stream that ends too early"),
        (b"no gzip", "the server sent a broken gzip stream: Error -3 while decompressing data: incorrect header check"),
    ],
)
def test_a_broken_compressed_body(store: Store, server: ScriptedServer, body: bytes, message: str) -> None:
    server.on("GET /file", lambda handler: handler.reply(200, body, Content_Encoding="gzip"))
    error = store.failure(f"{server.url}/file")
    assert isinstance(error, IntegrityError)
    assert error.message == message


def test_what_a_url_cannot_hold_is_escaped(store: Store, server: ScriptedServer) -> None:
    server.on("GET /.*", lambda handler: handler.reply(200, b"x"))
    store.fetch(f"{server.url}/ä b%20c?q=ü#part")
    assert server.requests[0].path == "/%C3%A4%20b%20c?q=%C3%BC"


@pytest.mark.parametrize("name", ["a" * 300, "x/y"])
def test_a_name_that_no_file_can_have(store: Store, server: ScriptedServer, name: str) -> None:
    error = store.failure(serve(server), filename=name)
    assert isinstance(error, StoreError)
    assert error.message.startswith(f"cannot write what {server.url}/file holds: ")


# --- what has not changed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"'])
def test_an_unchanged_file_is_not_fetched_again(store: Store, server: ScriptedServer, etag: str) -> None:
    url = serve(server, etag=etag, modified=DATE)
    first, _ = store.fetch(url)
    assert store.meaning(url) == first
    assert [request.method for request in server.requests] == ["GET", "HEAD"]
    assert server.requests[1].headers["If-None-Match"] == '"one"'


def test_a_server_that_does_not_heed_etags_is_believed_too(store: Store, server: ScriptedServer) -> None:
    server.on("* /file", lambda handler: handler.reply(200, b"hello\n", ETag='"one"'))
    first, _ = store.fetch(f"{server.url}/file")
    assert store.meaning(f"{server.url}/file") == first
    assert server.asked("GET") == ["/file"]


def test_a_server_that_does_not_repeat_the_etag(store: Store, server: ScriptedServer) -> None:
    url = serve(server, etag='"one"')
    first, _ = store.fetch(url)
    server.on("HEAD /file", lambda handler: handler.reply(304))
    assert store.meaning(url) == first
    assert server.asked("GET") == ["/file"]


@pytest.mark.parametrize("status", [405, 404, 500, 200])
def test_a_server_without_head_is_asked_for_the_file(store: Store, server: ScriptedServer, status: int) -> None:
    url = serve(server, etag='"one"')
    first, _ = store.fetch(url)
    server.on("HEAD /file", lambda handler: handler.reply(status))
    server.on("GET /file", lambda handler: handler.reply(200, b"hello\n", ETag='"one"'))
    assert store.meaning(url) == first
    assert server.asked("GET") == ["/file"] * 2


def test_a_changed_file_is_fetched(store: Store, server: ScriptedServer) -> None:
    url = serve(server, etag='"one"')
    store.fetch(url)
    serve(server, b"other\n", etag='"two"')
    meaning, file = store.fetch(url)
    assert file.read_bytes() == b"other\n"
    assert store.meaning(url) == meaning
    assert server.asked("GET") == ["/file"] * 2


def test_without_an_etag_the_file_is_fetched_each_time(store: Store, server: ScriptedServer) -> None:
    url = serve(server, modified=DATE)
    assert store.meaning(url) == store.meaning(url)
    assert [request.method for request in server.requests] == ["GET", "GET"]


def test_within_a_build_a_url_means_one_thing(store: Store, server: ScriptedServer) -> None:
    url = serve(server)
    build = store.build()
    first = build.resolve(source(url), reporter())
    serve(server, b"other\n")
    assert build.resolve(source(url), reporter()) == first
    assert server.asked("GET") == ["/file"]


def test_a_file_whose_snapshot_is_gone_is_fetched_again(store: Store, server: ScriptedServer) -> None:
    url = serve(server, etag='"one"')
    store.meaning(url)
    _, file = store.fetch(url)
    assert file.read_bytes() == b"hello\n"
    assert [request.method for request in server.requests] == ["GET", "HEAD", "GET"]


def test_a_file_that_changes_under_the_build(store: Store, server: ScriptedServer) -> None:
    url = serve(server, etag='"one"')
    store.meaning(url)
    build = store.build()
    build.resolve(source(url), reporter())
    serve(server, b"other\n", etag='"two"')
    with pytest.raises(IntegrityError) as caught:
        build.snapshot(source(url), reporter())
    assert caught.value.message == f"digest mismatch for {url}: {OTHER} (expected: {HELLO})"


def test_credentials_of_urls_come_to_no_table(store: Store, server: ScriptedServer) -> None:
    serve(server, etag='"one"')
    store.fetch(f"http://user:hunter2@{server.address}/file")
    assert "hunter2" not in str(store.db.query("SELECT * FROM resolutions"))


# --- checksums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_checksum_is_known_without_asking(store: Store, server: ScriptedServer, algorithm: str) -> None:
    url = serve(server, modified=DATE)
    checksum = f"{algorithm}:{hashlib.new(algorithm, HELLO_BYTES).hexdigest()}"
    assert store.meaning(url, checksum=checksum) == ["http", "file", checksum, None]
    assert server.requests == []
    _, file = store.fetch(url, checksum=checksum)
    assert (file.read_bytes(), file.stat().st_mtime) == (b"hello\n", SECONDS)


def test_a_file_with_another_checksum(store: Store, server: ScriptedServer) -> None:
    url, wanted = serve(server), sha256(b"")
    error = store.failure(url, checksum=wanted)
    assert isinstance(error, IntegrityError)
    assert error.message == f"digest mismatch for {url}: {HELLO} (expected: {wanted})"


# --- credentials and redirects --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secrets", "login", "sent"),
    [
        ({"HTTP_AUTH_HEADER_127.0.0.1": b"Custom abc\n"}, "", "Custom abc"),
        ({"HTTP_AUTH_TOKEN_127.0.0.1": b"abc"}, "", "Bearer abc"),
        ({"HTTP_AUTH_HEADER_127.0.0.1": b"one", "HTTP_AUTH_TOKEN_127.0.0.1": b"two"}, "user:pass@", "one"),
        ({"HTTP_AUTH_TOKEN_example.com": b"abc"}, "", None),
        ({}, "user:p%40ss@", "Basic dXNlcjpwQHNz"),
        ({}, "user@", "Basic dXNlcjo="),
    ],
)
def test_credentials(
    store: Store, server: ScriptedServer, secrets: dict[str, bytes], login: str, sent: str | None
) -> None:
    store.secrets.update(secrets)
    serve(server, etag='"one"')
    url = f"http://{login}{server.address}/file"
    store.fetch(url)
    store.meaning(url)
    assert [request.headers.get("Authorization") for request in server.requests] == [sent] * 2


@pytest.mark.parametrize("secret", [b"abc\nX-Other: y", b"abc\0", b"\xff"])
def test_a_secret_that_is_no_header(store: Store, server: ScriptedServer, secret: bytes) -> None:
    store.secrets["HTTP_AUTH_HEADER_127.0.0.1"] = secret
    url = serve(server)
    assert store.failure(url).message == f"{url}: the secret for its server is no line of plain text"
    assert server.requests == []


def test_credentials_do_not_follow_to_another_host(
    store: Store, server: ScriptedServer, start_server: Callable[[], ScriptedServer]
) -> None:
    other = start_server()
    url = serve(other)
    server.on("GET /moved", lambda handler: handler.reply(302, Location=url))
    store.secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = b"abc"
    _, file = store.fetch(f"{server.url}/moved")
    assert file.read_bytes() == b"hello\n"
    assert server.requests[0].headers["Authorization"] == "Bearer abc"
    assert "Authorization" not in other.requests[0].headers


def test_proxies_are_used(store: Store, server: ScriptedServer) -> None:
    store.client = HttpClient({}, {"http_proxy": f"http://user:pass@{server.address}"})
    server.on("GET .*", lambda handler: handler.reply(200, b"hello\n"))
    _, file = store.fetch("http://files.invalid/file?x=1")
    assert file.read_bytes() == b"hello\n"
    assert server.requests[0].path == "http://files.invalid/file?x=1"
    assert server.requests[0].headers["Proxy-Authorization"] == "Basic dXNlcjpwYXNz"


def test_redirects_have_an_end(store: Store, server: ScriptedServer) -> None:
    server.on("GET /loop", lambda handler: handler.reply(302, Location="/loop"))
    error = store.failure(f"{server.url}/loop")
    assert isinstance(error, RegistryError)
    assert error.message == f"{server.address} redirects more than 10 times"
    assert len(server.requests) == 11


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.com/x", "gopher://x"])
def test_a_redirect_leads_only_to_the_web(store: Store, server: ScriptedServer, location: str) -> None:
    server.on("GET /moved", lambda handler: handler.reply(302, Location=location))
    error = store.failure(f"{server.url}/moved")
    assert error.message == "a server named a URL that is neither http nor https"


# --- servers that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, NotFoundError, "{url}: not found"),
        (403, RegistryError, "{url}: {address} denied access"),
        (410, RegistryError, "{url}: {address} answered with status 410"),
        (304, RegistryError, "{url}: {address} answered with status 304"),
    ],
)
def test_what_servers_refuse(
    store: Store, server: ScriptedServer, status: int, kind: type[StagewrightError], message: str
) -> None:
    server.on("GET /file", lambda handler: handler.reply(status))
    url = f"{server.url}/file"
    error = store.failure(url)
    assert isinstance(error, kind)
    assert error.message == message.format(url=url, address=server.address)


def test_messages_hold_no_credentials(store: Store, server: ScriptedServer) -> None:
    error = store.failure(f"http://user:hunter2@{server.address}/x?token=hunter2")
    assert error.message.startswith(f"http://***@{server.address}/x?token=***: not found")


def test_a_transfer_that_breaks_off_begins_anew(store: Store, server: ScriptedServer) -> None:
    def break_once(handler: Handler) -> None:
        whole = len(server.requests) > 1
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"0123456789" if whole else b"xxxx")
        if not whole:
            handler.cut()

    server.on("GET /file", break_once)
    meaning, file = store.fetch(f"{server.url}/file")
    assert file.read_bytes() == b"0123456789"
    assert meaning == ["http", "file", sha256(b"0123456789"), None]


def test_a_transfer_that_always_breaks_off(store: Store, server: ScriptedServer) -> None:
    def break_off(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.cut()

    server.on("GET /file", break_off)
    assert store.failure(f"{server.url}/file").message == f"{server.address}: the connection broke"
    assert len(server.requests) == 3


def test_an_endless_body_ends_with_the_build(store: Store, server: ScriptedServer) -> None:
    def never_end(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 100_000)
                store.cancel.set()
        except OSError:
            handler.close_connection = True

    server.on("GET /file", never_end)
    with pytest.raises(CanceledError):
        store.fetch(f"{server.url}/file")


def test_an_endless_chunked_compressed_body_ends_with_the_build(store: Store, server: ScriptedServer) -> None:
    bomb = gzip.compress(b"\0" * (32 << 20))

    def script(handler: Handler) -> None:
        store.cancel.set()
        handler.reply(200, bomb, Content_Encoding="gzip")

    server.on("GET /file", script)
    with pytest.raises(CanceledError):
        store.fetch(f"{server.url}/file")


def test_a_url_that_is_none(store: Store) -> None:
    error = store.failure("http://[::1/file")
    assert error.message == "http://[::1/file is no URL that can be fetched"


# --- without a network ----------------------------------------------------------------------------------------------


def test_offline_takes_what_is_known(store: Store, server: ScriptedServer) -> None:
    url = serve(server, etag='"one"')
    first, _ = store.fetch(url)
    build = store.build(offline=True)
    assert build.resolve(source(url), reporter()) == first
    assert server.asked("HEAD") == []
    with pytest.raises(NotFoundError) as caught:
        build.snapshot(source(url), reporter())
    assert caught.value.message == f"{url}: not here, and --offline forbids fetching it"


def test_offline_knows_nothing_new(store: Store, server: ScriptedServer) -> None:
    url = serve(server)
    with pytest.raises(NotFoundError) as caught:
        store.build(offline=True).resolve(source(url), reporter())
    assert caught.value.message == f"{url}: not known here, and --offline forbids asking its server"
    assert caught.value.hint == "build once without --offline"
