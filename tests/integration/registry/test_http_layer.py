"""Redirects, TLS, proxies and pooled connections below the registry protocol."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_servers import Handler, Image, ScriptedServer, client_for, make_image

from stagewright.config import Config, KeyPair, RegistryTable
from stagewright.errors import RegistryError, UsageError
from stagewright.registry.client import RegistryClient
from stagewright.registry.errors import UnauthorizedError, UnreachableError
from stagewright.registry.http import HttpClient
from stagewright.registry.reference import Reference

SECRET = "hunter2-secret"


def docker_config(tmp_path: Path, *hosts: str) -> str:
    auth = base64.b64encode(f"user:{SECRET}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth} for host in hosts}}))
    return str(tmp_path)


def basic_only(server: ScriptedServer) -> None:
    """Refuse what has no Authorization header."""
    scripts = list(server.scripts)

    def guard(handler: Handler) -> None:
        if "Authorization" not in handler.headers:
            handler.reply(401, WWW_Authenticate='Basic realm="x"')
            return
        server.scripts, guarded = scripts, server.scripts
        try:
            method = getattr(handler, f"do_{handler.command}")
            server.requests.pop()
            method()
        finally:
            server.scripts = guarded

    server.on("* .*", guard)


@pytest.fixture
def image() -> Image:
    return make_image(b"layer")


def ref(server: ScriptedServer) -> Reference:
    return Reference.parse(f"{server.address}/app:1")


def authorized(server: ScriptedServer) -> list[bool]:
    return ["Authorization" in request.headers for request in server.requests]


# Redirects


def test_credentials_stay_behind_when_a_redirect_leads_to_another_host(
    start_server: Callable[[], ScriptedServer], tmp_path: Path, image: Image
) -> None:
    registry, storage = start_server(), start_server()
    storage.serve_image(image)
    registry.on("* /v2/app/.*", lambda handler: handler.reply(307, Location=storage.url + handler.path))
    basic_only(registry)
    env = docker_config(tmp_path, registry.address, storage.address)
    client = client_for(registry.address, DOCKER_CONFIG=env)
    assert client.fetch_manifest(ref(registry), image.descriptor) == image.data
    assert authorized(registry) == [False, True]
    assert authorized(storage) == [False]


def test_credentials_go_along_within_a_host(server: ScriptedServer, tmp_path: Path, image: Image) -> None:
    server.serve_image(image)
    server.on("GET /v2/app/manifests/.*", lambda handler: handler.reply(302, Location="../../moved/manifests/x"))
    server.on("GET /v2/moved/manifests/x", lambda handler: handler.reply(200, image.data))
    basic_only(server)
    client = client_for(server.address, DOCKER_CONFIG=docker_config(tmp_path, server.address))
    assert client.fetch_manifest(ref(server), image.descriptor) == image.data
    assert authorized(server) == [False, True, True]


def test_a_host_that_was_redirected_to_gets_no_answer_to_its_challenge(
    start_server: Callable[[], ScriptedServer], tmp_path: Path, image: Image
) -> None:
    registry, thief = start_server(), start_server()
    registry.on("* /v2/.*", lambda handler: handler.reply(307, Location=thief.url + handler.path))
    thief.on("* .*", lambda handler: handler.reply(401, WWW_Authenticate='Basic realm="x"'))
    client = client_for(registry.address, DOCKER_CONFIG=docker_config(tmp_path, registry.address))
    with pytest.raises(UnauthorizedError):
        client.fetch_manifest(ref(registry), image.descriptor)
    assert not any(authorized(registry) + authorized(thief))


def test_an_identity_token_follows_no_redirect_to_another_host(
    start_server: Callable[[], ScriptedServer], tmp_path: Path
) -> None:
    registry, thief = start_server(), start_server()
    realm = f"{registry.url}/token"
    registry.on("* /v2/.*", lambda handler: handler.reply(401, WWW_Authenticate=f'Bearer realm="{realm}"'))
    registry.on("* /token", lambda handler: handler.reply(307, Location=f"{thief.url}/token"))
    thief.on("* .*", lambda handler: handler.reply(200, b'{"token": "t"}'))
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.address: {"identitytoken": SECRET}}}))
    client = client_for(registry.address, DOCKER_CONFIG=str(tmp_path))
    with pytest.raises(RegistryError, match=f"{registry.address} redirects a request with credentials to another host"):
        client.resolve(ref(registry))
    assert SECRET in registry.requests[-1].body.decode()
    assert not thief.requests


def test_a_circle_of_redirects_ends(server: ScriptedServer, image: Image) -> None:
    server.on("* .*", lambda handler: handler.reply(302, Location=handler.path))
    with pytest.raises(RegistryError, match="redirects more than 10 times"):
        client_for(server.address).fetch_manifest(ref(server), image.descriptor)
    assert len(server.requests) == 11


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 70}.example"])
def test_a_host_name_that_is_none_is_unreachable(server: ScriptedServer, image: Image, host: str) -> None:
    server.on("* .*", lambda handler: handler.reply(302, Location=f"http://{host}/"))
    with pytest.raises(UnreachableError, match="cannot be resolved"):
        client_for(server.address).fetch_manifest(ref(server), image.descriptor)


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://x/", "http://", "http://[::1", "http://x:99999/", "http://x/\u00e9", "gopher:x"],
)
def test_a_redirect_to_no_http_url_is_refused(server: ScriptedServer, image: Image, location: str) -> None:
    server.on("* .*", lambda handler: handler.reply(302, Location=location))
    with pytest.raises(RegistryError):
        client_for(server.address).fetch_manifest(ref(server), image.descriptor)


# TLS


@pytest.fixture
def tls_server(
    start_server: Callable[[], ScriptedServer], certificate: tuple[Path, Path], image: Image
) -> ScriptedServer:
    server = start_server()
    server.use_tls(*certificate)
    server.serve_image(image)
    return server


def test_an_unknown_authority_is_not_trusted(tls_server: ScriptedServer) -> None:
    with pytest.raises(RegistryError, match="its certificate cannot be trusted: ") as caught:
        client_for(tls_server.address, RegistryTable(http=False)).resolve(ref(tls_server))
    assert caught.value.hint is not None and tls_server.address in caught.value.hint
    assert not isinstance(caught.value, UnreachableError)
    assert tls_server.requests == []


def test_an_own_authority_is_trusted(
    tls_server: ScriptedServer, certificate: tuple[Path, Path], image: Image, tmp_path: Path
) -> None:
    (tmp_path / "own.crt").write_bytes(certificate[0].read_bytes())
    for table in (RegistryTable(ca=(str(certificate[0]),)), RegistryTable(tls_config_dirs=(str(tmp_path),))):
        assert client_for(tls_server.address, table).resolve(ref(tls_server)) == image.descriptor


def test_the_environments_trust_store_is_used(
    tls_server: ScriptedServer, certificate: tuple[Path, Path], image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert client_for(tls_server.address, RegistryTable()).resolve(ref(tls_server)) == image.descriptor


def test_insecure_trusts_anyone(tls_server: ScriptedServer, image: Image) -> None:
    table = RegistryTable(insecure=True)
    assert client_for(tls_server.address, table).resolve(ref(tls_server)) == image.descriptor


def test_a_client_certificate_is_shown(
    start_server: Callable[[], ScriptedServer], certificate: tuple[Path, Path], image: Image
) -> None:
    import ssl

    cert, key = certificate
    server = start_server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.load_verify_locations(cert)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_image(image)
    with pytest.raises(RegistryError):
        client_for(server.address, RegistryTable(http=False, ca=(str(cert),))).resolve(ref(server))
    table = RegistryTable(ca=(str(cert),), key_pairs=(KeyPair(key=str(key), cert=str(cert)),))
    assert client_for(server.address, table).resolve(ref(server)) == image.descriptor


@pytest.mark.parametrize(
    "table",
    [
        RegistryTable(http=False, ca=("/missing.pem",)),
        RegistryTable(http=False, key_pairs=(KeyPair("/missing.key", "/missing.cert"),)),
        RegistryTable(http=False, tls_config_dirs=("/missing",)),
    ],
)
def test_a_missing_file_is_named(tls_server: ScriptedServer, table: RegistryTable) -> None:
    with pytest.raises(UsageError, match="/missing"):
        client_for(tls_server.address, table).resolve(ref(tls_server))


def test_a_file_that_is_no_certificate_is_named(tls_server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(UsageError, match=r"x\.pem"):
        client_for(tls_server.address, RegistryTable(http=False, ca=(str(tmp_path / "x.pem"),))).resolve(
            ref(tls_server)
        )


def test_https_is_never_left_for_http_by_itself(server: ScriptedServer, image: Image) -> None:
    server.serve_image(image)
    with pytest.raises(UnreachableError, match=f"{server.address}: TLS failed: "):
        client_for(server.address, RegistryTable(http=False)).resolve(ref(server))


def test_a_loopback_server_that_speaks_neither(server: ScriptedServer) -> None:
    server.on("* .*", lambda handler: handler.reply(400))
    with pytest.raises(UnreachableError, match=f"{server.address}: TLS failed: "):
        client_for(server.address, RegistryTable()).resolve(ref(server))


def test_a_loopback_registry_may_speak_either(
    server: ScriptedServer, tls_server: ScriptedServer, certificate: tuple[Path, Path], image: Image
) -> None:
    server.serve_image(image)
    assert client_for(server.address, RegistryTable()).resolve(ref(server)) == image.descriptor
    table = RegistryTable(ca=(str(certificate[0]),))
    assert client_for(tls_server.address, table).resolve(ref(tls_server)) == image.descriptor


def test_a_token_server_without_tls_gets_no_credentials_of_a_registry_with_it(
    tls_server: ScriptedServer, server: ScriptedServer, tmp_path: Path
) -> None:
    realm = "http://tokens.example.com/token"
    tls_server.on("* .*", lambda handler: handler.reply(401, WWW_Authenticate=f'Bearer realm="{realm}"'))
    env = docker_config(tmp_path, tls_server.address)
    client = client_for(tls_server.address, RegistryTable(insecure=True), DOCKER_CONFIG=env)
    with pytest.raises(RegistryError, match="without encryption") as caught:
        client.resolve(ref(tls_server))
    assert SECRET not in caught.value.render()


# Proxies


class ConnectProxy:
    """A proxy that connects every tunnel to one address, and keeps the requests' first lines and headers."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.heads.append(head.decode())
        upstream = socket.create_connection(self._target)
        client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        threading.Thread(target=self._pump, args=(upstream, client), daemon=True).start()
        self._pump(client, upstream)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def proxy(tls_server: ScriptedServer) -> Iterator[ConnectProxy]:
    proxy = ConnectProxy(tls_server.address)
    yield proxy
    proxy.stop()


def test_https_goes_through_a_tunnel(proxy: ConnectProxy, image: Image) -> None:
    config = Config({"registry.test:5000": RegistryTable(insecure=True)})
    client = RegistryClient(config, {"HTTPS_PROXY": f"http://me:pw@{proxy.address}"})
    assert client.resolve(Reference.parse("registry.test:5000/app:1")) == image.descriptor
    assert proxy.heads[0].startswith("CONNECT registry.test:5000 HTTP/1.")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:pw').decode()}\r\n" in proxy.heads[0]


def test_http_is_asked_of_the_proxy(server: ScriptedServer, image: Image) -> None:
    server.on(r"* http://registry\.test:5000/v2/app/manifests/1", lambda handler: handler.reply(200, image.data))
    config = Config({"registry.test:5000": RegistryTable(http=True)})
    client = RegistryClient(config, {"HTTP_PROXY": f"me:pw@{server.address}"})
    assert client.resolve(Reference.parse("registry.test:5000/app:1")) == image.descriptor
    assert server.requests[0].headers["Host"] == "registry.test:5000"
    assert "Proxy-Authorization" in server.requests[0].headers


def test_a_proxy_that_is_gone_is_named_without_its_password() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{probe.getsockname()[1]}"
    client = RegistryClient(Config(), {"HTTPS_PROXY": f"http://me:{SECRET}@{gone}"})
    refused = f"registry.test: the proxy {gone} did not connect: Connection refused$"
    with pytest.raises(UnreachableError, match=refused) as caught:
        client.resolve(Reference.parse("registry.test/app:1"))
    assert SECRET not in caught.value.render()


# Connections


def test_a_connection_serves_one_request_after_another(server: ScriptedServer) -> None:
    ports = []

    def script(handler: Handler) -> None:
        ports.append(handler.client_address[1])
        handler.reply(200, b"x" * 10)

    server.on("GET .*", script)
    client = HttpClient({}, {})
    for _ in range(3):
        with client.request("GET", server.url) as response:
            assert response.read_all(10) == b"x" * 10
    with client.request("GET", server.url):
        pass
    with client.request("GET", server.url):
        pass
    assert len(set(ports)) == 1
    client.close()


def test_a_connection_that_the_server_closed_is_replaced(server: ScriptedServer) -> None:
    ports = []

    def script(handler: Handler) -> None:
        ports.append(handler.client_address[1])
        handler.reply(200, b"ok")
        handler.close_connection = True

    server.on("* .*", script)
    client = HttpClient({}, {})
    for method in ("GET", "POST", "GET"):
        with client.request(method, server.url, body=b"data" if method == "POST" else None) as response:
            assert response.read_all(10) == b"ok"
    assert len(set(ports)) == 3
    client.close()


def test_a_connection_with_an_unread_body_is_not_used_again(server: ScriptedServer) -> None:
    server.on("GET /big", lambda handler: handler.reply(200, b"x" * 1_000_000))
    server.on("GET /small", lambda handler: handler.reply(200, b"small"))
    client = HttpClient({}, {})
    with client.request("GET", f"{server.url}/big") as response:
        response.read(10)
    with client.request("GET", f"{server.url}/small") as response:
        assert response.read_all(10) == b"small"
    client.close()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 100_000])
def test_what_is_no_http_is_unreachable(server: ScriptedServer, answer: bytes) -> None:
    def script(handler: Handler) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    server.on("GET .*", script)
    with pytest.raises(UnreachableError):
        HttpClient({}, {}).request("GET", server.url)
