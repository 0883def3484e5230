"""Images go to an engine over its socket; what the engine says is understood. The engine here is a stand-in."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from stagewright.errors import UsageError
from stagewright.exporters.engine import EngineError, load
from stagewright.snapshots.sinks import ChunkSink


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Takes one kind of request and answers it as it was told to."""

    daemon_threads = True
    answer: tuple[int, bytes] = (200, b"")
    hang_up = False
    path = ""
    body = b""


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_POST(self) -> None:
        self.server.path = self.path
        if not self.server.hang_up:
            self.server.body = self.read_chunks()
        status, text = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(str(tmp_path / "docker.sock"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}


def writer(data: bytes) -> Callable[[ChunkSink], None]:
    def write(sink: ChunkSink) -> None:
        sink.write(data)
        sink.flush()

    return write


def test_the_archive_arrives(engine: Engine, env: dict[str, str]) -> None:
    data = bytes(range(256)) * 20_000
    engine.answer = (200, b'{"stream":"Loaded image: app:1\\n"}\r\n')
    load(env, writer(data))
    assert engine.path.partition("?")[0] == "/images/load"
    assert engine.body == data


def test_an_error_in_the_answer_is_raised(engine: Engine, env: dict[str, str]) -> None:
    engine.answer = (200, b'{"stream":"Loading"}\n{"errorDetail":{"message":"bad layer"},"error":"bad layer"}\n')
    with pytest.raises(EngineError, match="the Docker engine refused the image: bad layer"):
        load(env, writer(b"x"))


def test_a_refusal_says_why(engine: Engine, env: dict[str, str]) -> None:
    engine.answer = (500, b'{"message":"no space left"}')
    with pytest.raises(EngineError, match="the Docker engine refused the image: no space left"):
        load(env, writer(b"x"))


def test_an_engine_that_hangs_up_is_an_error(engine: Engine, env: dict[str, str]) -> None:
    engine.hang_up = True
    engine.answer = (400, b'{"message":"too large"}')
    with pytest.raises(EngineError):
        load(env, writer(bytes(30_000_000)))


def test_an_engine_that_is_not_there(env: dict[str, str]) -> None:
    with pytest.raises(EngineError, match=r"cannot load the image into the Docker engine at unix://.*No such file"):
        load(env, writer(b"x"))


def test_an_engine_that_is_for_others(engine: Engine, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(EngineError, match=r"Docker engine at unix://.*: Permission denied") as raised:
        load(env, writer(b"x"))
    assert raised.value.hint == "may this user use Docker? usermod --append --groups docker USER"


@pytest.mark.parametrize("host", ["ssh://host", "nonsense", "tcp://"])
def test_other_addresses_are_refused(host: str) -> None:
    with pytest.raises(UsageError, match="is not supported"):
        load({"DOCKER_HOST": host}, writer(b"x"))
