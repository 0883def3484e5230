"""Git repositories for tests, and what serves them: git's own daemon, its HTTP backend, plain files, OpenSSH."""

from __future__ import annotations

import base64
import http.server
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_START_TIMEOUT_S = 30
_IDENTITY = {
    "GIT_AUTHOR_NAME": "A U Thor",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "C O Mitter",
    "GIT_COMMITTER_EMAIL": "committer@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "file",
}


def git(folder: Path, *arguments: str, env: Mapping[str, str] | None = None, data: bytes = b"") -> str:
    """What git prints in a folder; its failure fails the test."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **_IDENTITY, **(env or {})}, input=data, capture_output=True
    )
    assert done.returncode == 0, f"git {arguments} ended with {done.returncode}\n{done.stderr.decode()}"
    return done.stdout.decode().strip()


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository with a work tree, whose `.git` folder is served as it is."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, *, format: str = "sha1") -> Repository:
        """An empty repository on the branch main."""
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--initial-branch=main", f"--object-format={format}")
        return cls(folder)

    def git(self, *arguments: str, data: bytes = b"") -> str:
        """What git prints in it."""
        return git(self.folder, *arguments, data=data)

    def commit(self, files: Mapping[str, str] | None = None, message: str = "change") -> str:
        """Commit files besides what is there; answers the commit."""
        for name, text in (files or {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def commit_tree(self, *entries: tuple[str, str, bytes]) -> str:
        """Commit a tree of (mode, name, content) on main, written as no git would; answers the commit."""
        raw = b""
        for mode, name, content in entries:
            object = content.decode() if mode == "160000" else self._write("blob", content)
            raw += f"{mode} {name}".encode() + b"\0" + bytes.fromhex(object)
        commit = self.git("commit-tree", self._write("tree", raw), "-m", "hostile")
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def _write(self, kind: str, data: bytes) -> str:
        return self.git("hash-object", "-t", kind, "-w", "--stdin", "--literally", data=data)


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(port: int, *command: object) -> Iterator[None]:
    """A server that accepts connections on a port of the loopback, until the block ends."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, f"{command[0]} does not start"
                time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def git_daemon(root: Path) -> Iterator[str]:
    """The address of git's daemon, which serves the repositories below a folder."""
    port = free_port()
    program = Path(git(root, "--exec-path")) / "git-daemon"
    command = [program, "--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={root}"]
    with running(port, *command, root):
        yield f"127.0.0.1:{port}"


@contextmanager
def ssh_server(folder: Path, public_key: Path) -> Iterator[tuple[str, str]]:
    """The address of an OpenSSH server that lets the key in as this user, and its host key as known hosts have it."""
    port = free_port()
    host_key = folder / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)
    keys = folder / "authorized_keys"
    shutil.copy(public_key, keys)
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "HostKey": host_key,
        "AuthorizedKeysFile": keys,
        "ListenAddress": "127.0.0.1",
        "PidFile": "none",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    command = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", os.devnull, "-p", port]
    with running(port, *command, *(f"-o{name}={value}" for name, value in options.items())):
        kind, key, *_ = host_key.with_suffix(".pub").read_text().split()
        yield f"127.0.0.1:{port}", f"[127.0.0.1]:{port} {kind} {key}\n"


class HttpServer(http.server.ThreadingHTTPServer):
    """Serves the repositories below a folder through git's HTTP backend, or as plain files.

    `logins` are the Authorization headers of which one has to come; `requests` are path and header of all that came.
    """

    daemon_threads = True

    def __init__(self, root: Path, *, plain: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.plain = plain
        self.logins: set[str] = set()
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def use_tls(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def stop(self) -> None:
        """End it."""
        self.shutdown()
        self._thread.join()
        self.server_close()


@dataclass(slots=True)
class _Answer:
    status: str = "200 OK"
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HttpServer

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        login = self.headers.get("Authorization")
        self.server.requests.append((self.path, login))
        path, _, query = self.path.partition("?")
        target = next((new for old, new in self.server.redirects.items() if path.startswith(old)), None)
        if target is not None:
            answer = _Answer("302 Found", [("Location", target + path)])
        elif self.server.logins and login not in self.server.logins:
            answer = _Answer("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="git"')])
        elif self.server.plain:
            file = self.server.root / path.lstrip("/")
            answer = _Answer(body=file.read_bytes()) if file.is_file() else _Answer("404 Not Found")
        else:
            answer = self._run_backend(path, query, body)
        status, _, reason = answer.status.partition(" ")
        self.send_response(int(status), reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = _handle

    def _run_backend(self, path: str, query: str, body: bytes) -> _Answer:
        env = {
            **os.environ,
            **_IDENTITY,
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True)
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        pairs = [tuple(line.split(": ", 1)) for line in head.decode().splitlines()]
        status = next((value for name, value in pairs if name == "Status"), "200 OK")
        return _Answer(status, [(name, value) for name, value in pairs if name != "Status"], rest)

    def log_message(self, format: str, *args: object) -> None:
        pass


def basic(login: str) -> str:
    """The header that a login makes."""
    return "basic " + base64.b64encode(login.encode()).decode()
