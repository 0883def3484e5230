"""Relays connections that a step makes to its SSH agent socket to the host's socket, and back."""

from __future__ import annotations

import selectors
import socket

_CHUNK = 1 << 16
# What an agent's clients need many times over; a step that opens more would use up the builder's descriptors.
MAX_CONNECTIONS = 64


class Relay:
    """Serves one listening socket within a selector that somebody else runs: `data` of its keys is a callable."""

    def __init__(self, selector: selectors.BaseSelector, listener: socket.socket, host_socket: str) -> None:
        self._selector = selector
        self._listener = listener
        self._host_socket = host_socket
        self._pairs: dict[socket.socket, _Pair] = {}
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Close the listener and all connections."""
        for pair in set(self._pairs.values()):
            self._end(pair)
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self, _: int) -> None:
        try:
            inner, _address = self._listener.accept()
        except OSError:
            return
        if len(self._pairs) >= 2 * MAX_CONNECTIONS:
            inner.close()
            return
        outer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            outer.connect(self._host_socket)
        except OSError:
            # The step's client sees its connection closed, as when an agent has gone.
            inner.close()
            outer.close()
            return
        pair = _Pair(inner, outer)
        for sock in (inner, outer):
            sock.setblocking(False)
            self._pairs[sock] = pair
            self._watch(sock)

    def _watch(self, sock: socket.socket) -> None:
        """Wait for what this socket of a pair can do next."""
        pair = self._pairs[sock]
        events = 0
        if not pair.ended[sock] and not pair.waiting[pair.other(sock)]:
            events |= selectors.EVENT_READ
        if pair.waiting[sock]:
            events |= selectors.EVENT_WRITE
        known = sock in self._selector.get_map()
        if events and known:
            self._selector.modify(sock, events, lambda ready: self._serve(sock, ready))
        elif events:
            self._selector.register(sock, events, lambda ready: self._serve(sock, ready))
        elif known:
            self._selector.unregister(sock)

    def _serve(self, sock: socket.socket, ready: int) -> None:
        pair = self._pairs.get(sock)
        if pair is None:
            return
        other = pair.other(sock)
        try:
            if ready & selectors.EVENT_READ:
                data = sock.recv(_CHUNK)
                pair.waiting[other] += data
                pair.ended[sock] = not data
                pair.flush(other)
            if ready & selectors.EVENT_WRITE:
                pair.flush(sock)
        except BlockingIOError:
            return
        except OSError:
            self._end(pair)
            return
        if all(pair.ended.values()) and not any(pair.waiting.values()):
            self._end(pair)
            return
        self._watch(sock)
        self._watch(other)

    def _end(self, pair: _Pair) -> None:
        for sock in pair.sockets:
            if sock in self._selector.get_map():
                self._selector.unregister(sock)
            del self._pairs[sock]
            sock.close()


class _Pair:
    """Two sockets, what waits to be written to each, and whether each has said all it will."""

    def __init__(self, inner: socket.socket, outer: socket.socket) -> None:
        self.sockets = (inner, outer)
        self.waiting = {inner: bytearray(), outer: bytearray()}
        self.ended = {inner: False, outer: False}

    def other(self, sock: socket.socket) -> socket.socket:
        inner, outer = self.sockets
        return outer if sock is inner else inner

    def flush(self, sock: socket.socket) -> None:
        """Write what waits for this socket, as much as it takes, and pass on the other side's end."""
        waiting = self.waiting[sock]
        if waiting:
            try:
                del waiting[: sock.send(waiting)]
            except BlockingIOError:
                return
        if not waiting and self.ended[self.other(sock)]:
            sock.shutdown(socket.SHUT_WR)
