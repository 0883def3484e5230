"""Replies as they come over a socket: how their bodies end, in which pieces they come, and what is no reply."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.registry.connection import BrokenReplyError, Connection, Reply

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED += b"5\r\nhello\r\n3;name=value\r\n, w\r\n0\r\nTrailer: x\r\n\r\n"


@contextmanager
def answered(*pieces: bytes) -> Iterator[Connection]:
    """A connection to a peer that sends these pieces one by one, and their end."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            try:
                for piece in pieces:
                    theirs.sendall(piece)
                theirs.shutdown(socket.SHUT_WR)
                while theirs.recv(1000):
                    pass
            except OSError:
                return

    sender = threading.Thread(target=send)
    connection = Connection("registry.test", 80)
    connection.sock = ours
    ours.settimeout(10)
    sender.start()
    try:
        yield connection
    finally:
        connection.close()
        sender.join()


def body_of(reply: Reply) -> bytes:
    body = b""
    while piece := reply.read(7):
        body += piece
    return body


@pytest.mark.parametrize(
    ("answer", "status", "body", "keeps", "has_more"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True, False),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\r\nConnection: x, Close\r\n\r\nhello", 200, b"hello", False, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", 200, b"hello", False, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False, False),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end", False, False),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, b"", True, False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True, False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", True, False),
        (b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 202 \r\nContent-Length: 1\r\n\r\nx", 202, b"x", True, False),
        (CHUNKED, 200, b"hello, w", True, False),
        (CHUNKED + b"x", 200, b"hello, w", False, True),
    ],
)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_reply_is_the_same_in_whatever_pieces_it_comes(
    answer: bytes, status: int, body: bytes, keeps: bool, has_more: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    with answered(*pieces) as connection:
        reply = connection.request("GET", "/", [])
        assert reply.status == status
        assert body_of(reply) == body
        # What comes behind a reply may not have come yet.
        assert reply.keeps_connection is keeps or has_more
        assert reply.headers.get("A") is None
        assert reply.headers.get("Trailer") is None


def test_a_reply_to_head_has_no_body() -> None:
    with answered(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n") as connection:
        reply = connection.request("HEAD", "/", [])
        assert reply.read(10) == b""
        assert reply.headers.get("content-length") == "500"
        assert reply.keeps_connection


def test_all_fields_of_a_name_are_found() -> None:
    with answered(b"HTTP/1.1 401 X\r\nA: 1\r\nb: \xe9\r\na: 2\r\nContent-Length: 0\r\n\r\n") as connection:
        headers = connection.request("GET", "/", []).headers
        assert (headers.get_all("A"), headers.get("B"), headers.get("C")) == (["1", "2"], "é", None)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nA: b\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"\x16\x03\x01\x00\x05",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 1_000_000,
    ],
)
def test_what_is_no_reply(answer: bytes) -> None:
    with answered(answer) as connection, pytest.raises(BrokenReplyError):
        connection.request("GET", "/", [])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    ],
)
def test_a_body_that_ends_too_early(answer: bytes) -> None:
    with answered(answer) as connection:
        reply = connection.request("GET", "/", [])
        assert reply.read(5) == b"hello"
        with pytest.raises(BrokenReplyError):
            reply.read(5)
        assert not reply.keeps_connection


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=60, deadline=None)
def test_hostile_bytes_break_nothing_else(noise: bytes, begins_well: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if begins_well else b""
    with answered(head + noise) as connection:
        try:
            body_of(connection.request("GET", "/", []))
        except BrokenReplyError:
            pass


def test_a_field_cannot_carry_another() -> None:
    with answered() as connection, pytest.raises(ValueError, match="the header field A has an end of line in it"):
        connection.request("GET", "/", [("A", "b\r\nC: d")])


def test_what_was_sent() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection("registry.test", 80)
    connection.sock = ours
    theirs.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    reply = connection.request("PUT", "/v2/?a=b", [("Host", "h"), ("Content-Length", "4")], [b"ab", b"cd"])
    assert reply.status == 201
    connection.close()
    with theirs:
        assert theirs.recv(1000) == b"PUT /v2/?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nabcd"
