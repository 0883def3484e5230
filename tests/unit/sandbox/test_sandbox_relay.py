"""The relay between a step's agent socket and the host's."""

from __future__ import annotations

import selectors
import socket
from pathlib import Path

from stagewright.sandbox.relay import MAX_CONNECTIONS, Relay


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4 * MAX_CONNECTIONS)
    return listener


def test_a_step_cannot_use_up_the_builders_descriptors(tmp_path: Path) -> None:
    agent = listening(tmp_path / "agent")
    selector = selectors.DefaultSelector()
    relay = Relay(selector, listening(tmp_path / "step"), str(tmp_path / "agent"))
    clients = []
    for _ in range(MAX_CONNECTIONS + 10):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect(str(tmp_path / "step"))
        clients.append(client)
        for key, ready in selector.select(0):
            key.data(ready)
    refused = [client for client in clients if _is_closed(client)]
    assert refused == clients[MAX_CONNECTIONS:]
    # When one ends, there is room for another.
    clients[0].close()
    for key, ready in selector.select(1):
        key.data(ready)
    agent.accept()[0].close()
    for key, ready in selector.select(1):
        key.data(ready)
    late = socket.socket(socket.AF_UNIX)
    late.setblocking(False)
    late.connect(str(tmp_path / "step"))
    for key, ready in selector.select(1):
        key.data(ready)
    assert not _is_closed(late)
    relay.close()
    for sock in (agent, late, *clients):
        sock.close()
    selector.close()


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
