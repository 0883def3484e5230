"""PyPI behind a loopback address, with the headers by which PyPI lets clients cache, and a count of what it sends."""

from __future__ import annotations

import hashlib
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_FILES = "https://files.pythonhosted.org/"


class PackageIndex:
    """A package index at `url`. `packages` are the files that were sent, `received` all bytes of bodies."""

    def __init__(self) -> None:
        self.packages: list[str] = []
        self.received = 0
        self._lock = threading.Lock()
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                index._answer(self)

            def do_HEAD(self) -> None:
                index._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Count from zero."""
        with self._lock:
            self.packages.clear()
            self.received = 0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        is_file = handler.path.startswith("/files/")
        source = _FILES + handler.path[7:] if is_file else f"https://pypi.org{handler.path}"
        request = urllib.request.Request(source, headers={"Accept": "text/html, */*"})
        try:
            with urllib.request.urlopen(request) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            handler.send_response(error.code)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if not is_file:
            body = re.sub(rb"https://files\.pythonhosted\.org/", b"/files/", body)
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        unchanged = handler.headers.get("If-None-Match") == tag
        handler.send_response(304 if unchanged else 200)
        handler.send_header("ETag", tag)
        handler.send_header(
            "Cache-Control", "max-age=365000000, immutable, public" if is_file else "max-age=600, public"
        )
        handler.send_header("Content-Type", "application/octet-stream" if is_file else "text/html")
        handler.send_header("Content-Length", str(0 if unchanged else len(body)))
        handler.end_headers()
        if not unchanged and handler.command == "GET":
            handler.wfile.write(body)
            with self._lock:
                self.received += len(body)
                if is_file:
                    self.packages.append(handler.path.rpartition("/")[2])
