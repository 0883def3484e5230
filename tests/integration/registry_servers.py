"""Registries for tests: one that lies as it is told to, Debian's docker-registry, and a token server for it."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stagewright.config import Config, RegistryTable
from stagewright.content.blobs import BlobStore
from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Manifest
from stagewright.image.platform import Platform
from stagewright.registry.client import RegistryClient


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(http.server.BaseHTTPRequestHandler):
    """One request of a ScriptedServer: a script writes the answer through `reply`, or to the connection itself."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            # A request that broke off was never made.
            self.close_connection = True
            return
        request = Request(self.command, self.path, dict(self.headers), body)
        with self.server.lock:
            self.server.requests.append(request)
        for pattern, script in self.server.scripts:
            method, _, path = pattern.partition(" ")
            if method in (self.command, "*") and re.fullmatch(path, self.path.partition("?")[0]):
                script(self)
                return
        self.reply(404, b'{"errors":[{"code":"UNKNOWN","message":"nothing here"}]}')

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if "Content-Length" not in named:
            named["Content-Length"] = str(len(body))
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        """Break the connection."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


Script = Callable[[Handler], None]


class ScriptedServer(http.server.ThreadingHTTPServer):
    """Answers as its scripts say: `on("GET /v2/.*", script)`; the newest one that matches has the word."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[Request] = []
        self.scripts: list[tuple[str, Script]] = []
        self.address = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def use_tls(self, cert: Path, key: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://{self.address}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def on(self, pattern: str, script: Script) -> None:
        self.scripts.insert(0, (pattern, script))

    def serve_image(self, image: Image, repository: str = "app", tag: str = "1") -> None:
        """Be an honest registry for one image."""

        def manifest(handler: Handler) -> None:
            handler.reply(
                200,
                image.data,
                Content_Type=image.manifest.media_type,
                Docker_Content_Digest=image.descriptor.digest,
            )

        self.on(f"* /v2/{repository}/manifests/({tag}|{image.descriptor.digest})", manifest)
        for descriptor, data in image.blobs:
            self.on(
                f"* /v2/{repository}/blobs/{descriptor.digest}", lambda handler, data=data: handler.reply(200, data)
            )

    def asked(self, method: str) -> list[str]:
        return [request.path for request in self.requests if request.method == method]

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


@dataclass
class Image:
    """A small image: its manifest, and its config and layers as blobs."""

    manifest: Manifest
    blobs: list[tuple[Descriptor, bytes]]
    data: bytes = field(init=False)
    descriptor: Descriptor = field(init=False)

    def __post_init__(self) -> None:
        self.data = self.manifest.to_bytes()
        self.descriptor = Descriptor(self.manifest.media_type, digest_of(self.data), len(self.data))

    def put_into(self, store: BlobStore) -> None:
        for _, data in [*self.blobs, (self.descriptor, self.data)]:
            store.write(data)


def make_image(*layers: bytes, platform: Platform = Platform("linux", "amd64")) -> Image:  # noqa: B008
    config = ImageConfig(platform, diff_ids=tuple(digest_of(layer) for layer in layers)).to_bytes()
    blobs = [(Descriptor(mediatypes.OCI_CONFIG, digest_of(config), len(config)), config)]
    blobs += [(Descriptor(mediatypes.OCI_LAYER, digest_of(layer), len(layer)), layer) for layer in layers]
    return Image(Manifest(blobs[0][0], tuple(descriptor for descriptor, _ in blobs[1:])), blobs)


def client_for(address: str, table: RegistryTable | None = None, **env: str) -> RegistryClient:
    return RegistryClient(Config({address: table or RegistryTable(http=True)}), env)


# The bcrypt hash of "secret".
HTPASSWD = "user:$2b$04$H/fbst4FRaILkQZXNd7YYuJRplqhZdHg7CGmFyipZxT1E2oOkzEnK\n"


def start_registry(directory: Path, extra: dict[str, object]) -> tuple[subprocess.Popen[bytes], str]:
    """Start docker-registry on a free loopback port; `extra` are more tables of its configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **extra,
    }
    path = directory / "config.yml"
    path.write_text(json.dumps(config))
    process = subprocess.Popen(
        ["docker-registry", "serve", path], stdout=subprocess.DEVNULL, stderr=(directory / "log").open("wb")
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, f"127.0.0.1:{port}"
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail((directory / "log").read_text())
            time.sleep(0.02)


class TokenServer:
    """Gives docker-registry's JSON web tokens to "user" with "secret" or the refresh token "refresh-secret"."""

    def __init__(self, server: ScriptedServer, cert: Path, key: Path) -> None:
        self.server = server
        self._cert = cert
        self._key = key
        self.lifetime_s = 300
        self.given: list[str] = []
        server.on("GET /token", self._get)
        server.on("POST /token", self._post)

    def _get(self, handler: Handler) -> None:
        query = urllib.parse.urlsplit(handler.path).query
        scopes = [value for name, value in urllib.parse.parse_qsl(query) if name == "scope"]
        basic = "Basic " + base64.b64encode(b"user:secret").decode()
        authorization = handler.headers.get("Authorization")
        if authorization not in (None, basic):
            handler.reply(401, b"{}")
            return
        self._give(handler, scopes, {"pull", "push"} if authorization else {"pull"}, "token")

    def _post(self, handler: Handler) -> None:
        form = dict(urllib.parse.parse_qsl(self.server.requests[-1].body.decode()))
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != "refresh-secret":
            handler.reply(401, b"{}")
            return
        self._give(handler, form["scope"].split(" "), {"pull", "push"}, "access_token")

    def _give(self, handler: Handler, scopes: list[str], allowed: set[str], name: str) -> None:
        self.given += scopes
        access = []
        for scope in scopes:
            kind, repository, actions = scope.split(":")
            access.append(
                {"type": kind, "name": repository, "actions": [a for a in actions.split(",") if a in allowed]}
            )
        now = int(time.time())
        claims = {"iss": "issuer", "sub": "", "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now - 10}
        claims |= {"jti": os.urandom(8).hex(), "access": access}
        der = ssl.PEM_cert_to_DER_cert(self._cert.read_text())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._key], input=signed.encode(), check=True, capture_output=True
        ).stdout
        body = {name: f"{signed}.{_base64url(signature)}", "expires_in": self.lifetime_s}
        handler.reply(200, json.dumps(body).encode(), Content_Type="application/json")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
