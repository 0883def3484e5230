"""Handing an image archive to a Docker engine over its API (`POST /images/load`)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stagewright.errors import StagewrightError, UsageError, system_reason
from stagewright.redaction import redact_url
from stagewright.snapshots.sinks import ChunkSink

if TYPE_CHECKING:
    import http.client

_DEFAULT_HOST = "unix:///var/run/docker.sock"
_MAX_LINE = 1 << 20


class EngineError(StagewrightError):
    """A Docker engine could not be reached, or refused what it was given."""


def load(env: Mapping[str, str], write: Callable[[ChunkSink], None]) -> None:
    """Stream the archive that `write` writes into its sink to the engine that DOCKER_HOST in `env` names.

    `unix://` sockets and `tcp://` addresses are supported, the latter with TLS where DOCKER_TLS_VERIFY is set and with
    the keys of DOCKER_CERT_PATH. Raises EngineError, and UsageError for other addresses.
    """
    import http.client

    host = env.get("DOCKER_HOST") or _DEFAULT_HOST
    connection = _connection(host, env)
    try:
        connection.connect()
        connection.putrequest("POST", "/images/load?quiet=1")
        connection.putheader("Content-Type", "application/x-tar")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        sink = _ChunkedBody(connection)
        try:
            write(sink)
            connection.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # The engine says why in its answer.
        response = connection.getresponse()
        if response.status != 200:
            raise EngineError(f"the Docker engine refused the image: {_message(response.read(_MAX_LINE))}")
        _read_progress(response)
    except (OSError, http.client.HTTPException) as error:
        refused = isinstance(error, PermissionError)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise EngineError(
            f"cannot load the image into the Docker engine at {redact_url(host)}: {reason}",
            hint="may this user use Docker? usermod --append --groups docker USER"
            if refused
            else "is it running? DOCKER_HOST names another one",
        ) from error
    finally:
        connection.close()


class _ChunkedBody(ChunkSink):
    def __init__(self, connection: http.client.HTTPConnection) -> None:
        super().__init__()
        self._connection = connection

    def send(self, chunk: bytearray) -> None:
        self._connection.send(b"%x\r\n" % len(chunk))
        self._connection.send(chunk)
        self._connection.send(b"\r\n")


def _read_progress(response: http.client.HTTPResponse) -> None:
    while line := response.readline(_MAX_LINE):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("error"):
            raise EngineError(f"the Docker engine refused the image: {event['error']}")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or "no reason given"


def _connection(host: str, env: Mapping[str, str]) -> http.client.HTTPConnection:
    import http.client

    scheme, _, address = host.partition("://")
    if scheme == "unix":
        return _unix_connection(address)
    if scheme != "tcp" or not address:
        raise UsageError(f"DOCKER_HOST={redact_url(host)} is not supported", hint="use unix:///PATH or tcp://HOST:PORT")
    address = address.rstrip("/")
    if not env.get("DOCKER_TLS_VERIFY"):
        return http.client.HTTPConnection(address)
    import os
    import ssl

    folder = env.get("DOCKER_CERT_PATH") or os.path.join(env.get("HOME", ""), ".docker")
    try:
        context = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
        context.load_cert_chain(os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem"))
    except OSError as error:
        raise UsageError(f"cannot use the TLS keys of the Docker engine in {folder}: {system_reason(error)}") from error
    return http.client.HTTPSConnection(address, context=context)


def _unix_connection(path: str) -> http.client.HTTPConnection:
    import http.client

    class UnixConnection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(path)

    return UnixConnection("docker")
