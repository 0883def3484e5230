"""An HTTP proxy that counts the bytes that come from the servers behind it, whatever they are."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit

_BLOCK = 64 << 10


class CountingProxy:
    """Listens on a free loopback port until `close`. `received` is what all servers have sent since `reset`."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.received = 0
        self.hosts: list[str] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Count from zero."""
        with self._lock:
            self.received = 0
            self.hosts.clear()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = client.recv(_BLOCK)
                    if not data:
                        return
                    head += data
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                address = urlsplit(f"//{target}" if method == "CONNECT" else target)
                port = address.port or 80
                with self._lock:
                    self.hosts.append(f"{address.hostname}:{port}")
                with socket.create_connection((str(address.hostname), port)) as server:
                    if method == "CONNECT":
                        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    else:
                        # Servers take requests in the form for proxies, too.
                        server.sendall(head)
                    answers = threading.Thread(target=self._copy, args=(server, client, True), daemon=True)
                    answers.start()
                    self._copy(client, server, False)
                    answers.join()
            except OSError:
                return

    def _copy(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(_BLOCK):
                if counted:
                    with self._lock:
                        self.received += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
