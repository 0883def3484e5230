"""Fixtures: registries, a store, a certificate."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_servers import HTPASSWD, ScriptedServer, TokenServer, start_registry

from stagewright.content.blobs import BlobStore


@pytest.fixture
def start_server() -> Iterator[Callable[[], ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start() -> ScriptedServer:
        servers.append(ScriptedServer())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start_server: Callable[[], ScriptedServer]) -> ScriptedServer:
    return start_server()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagewright.registry.session._FIRST_WAIT_S", 0.001)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"),
            *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an open docker-registry."""
    process, address = start_registry(tmp_path_factory.mktemp("registry"), {})
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def basic_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a docker-registry that wants user "user" with password "secret"."""
    directory = tmp_path_factory.mktemp("registry")
    (directory / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    process, address = start_registry(directory, {"auth": auth})
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def bearer_registry(
    tmp_path_factory: pytest.TempPathFactory, server: ScriptedServer, certificate: tuple[Path, Path]
) -> Iterator[tuple[str, TokenServer]]:
    """The address of a docker-registry that wants bearer tokens, and the server that gives them."""
    cert, key = certificate
    token = {"realm": f"{server.url}/token", "service": "registry", "issuer": "issuer", "rootcertbundle": str(cert)}
    process, address = start_registry(tmp_path_factory.mktemp("registry"), {"auth": {"token": token}})
    yield address, TokenServer(server, cert, key)
    process.kill()
    process.wait()
