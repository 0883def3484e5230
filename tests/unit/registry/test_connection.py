import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import RegistryError
from stagewright.registry.connection import Answer, Connection, ProtocolError

Answering = Callable[[bytes], Connection]


def connected() -> tuple[Connection, socket.socket]:
    """A connection, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    connection = Connection("localhost", 80)
    connection.sock = ours
    return connection, theirs


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Makes connections whose other end has sent some bytes and closed."""
    opened = []

    def make(data: bytes) -> Connection:
        connection, theirs = connected()
        opened.append(connection)
        with theirs:
            theirs.sendall(data)
        return connection

    yield make
    for connection in opened:
        connection.close()


def body_of(answer: Answer, size: int = 7) -> bytes:
    pieces = []
    while piece := answer.read(size):
        pieces.append(piece)
    return b"".join(pieces)


def test_responses_follow_each_other(answering: Answering) -> None:
    connection = answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Name: a\r\nx-name: b\r\n\r\nfirst"
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecond"
    )
    first = connection.receive("GET")
    assert (first.status, first.headers.get("X-NAME"), first.headers.get_all("x-Name")) == (200, "a", ["a", "b"])
    assert not first.can_be_followed
    assert (body_of(first), first.can_be_followed) == (b"first", True)
    assert body_of(connection.receive("GET")) == b"second"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
def test_what_has_no_body_is_complete_at_once(answering: Answering, method: str, head: bytes) -> None:
    answer = answering(head + b"HTTP/1.1 200 OK").receive(method)
    assert (answer.can_be_followed, answer.read(5)) == (True, b"")


def test_interim_responses_are_passed_over(answering: Answering) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    answer = answering(interim * 2 + b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").receive("PUT")
    assert answer.status == 201
    with pytest.raises(ProtocolError):
        answering(interim * 100).receive("PUT")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 50))
def test_chunks_are_put_together(chunks: list[bytes], size: int) -> None:
    connection, theirs = connected()
    with theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            theirs.sendall(b"%X;name=value\r\n%s\r\n" % (len(chunk), chunk))
        theirs.sendall(b"0\r\nTrailer: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    answer = connection.receive("GET")
    assert (body_of(answer, size), answer.can_be_followed) == (b"".join(chunks), True)
    assert connection.receive("GET").status == 200
    connection.close()


@pytest.mark.parametrize(
    "chunks",
    [b"", b"5\r\nabc", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n\r\n", b"0x3\r\nabc\r\n", b"\r\n\r\n", b"f" * 17 + b"\r\n"],
)
def test_damaged_chunks_are_seen(answering: Answering, chunks: bytes) -> None:
    answer = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks).receive("GET")
    with pytest.raises(ProtocolError):
        body_of(answer)


def test_a_body_without_length_ends_with_the_connection(answering: Answering) -> None:
    answer = answering(b"HTTP/1.1 200 OK\r\n\r\nall of it").receive("GET")
    assert (body_of(answer), answer.remaining, answer.can_be_followed) == (b"all of it", 0, False)


def test_a_body_that_breaks_off_gives_what_came_and_then_the_error(answering: Answering) -> None:
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").receive("GET")
    assert answer.read(100) == b"half"
    with pytest.raises(ProtocolError):
        answer.read(100)


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_the_server_says_whether_it_goes_on(answering: Answering, head: bytes, kept: bool) -> None:
    assert answering(head + b"Content-Length: 0\r\n\r\n").receive("GET").can_be_followed is kept


def test_a_folded_field_is_one(answering: Answering) -> None:
    answer = answering(b"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 0\r\n\r\n").receive("GET")
    assert answer.headers.get("X") == "a b"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_seen(answering: Answering, head: bytes) -> None:
    with pytest.raises(ProtocolError):
        answering(head).receive("GET")


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_break_the_protocol(data: bytes) -> None:
    connection, theirs = connected()
    with theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\n" + data)
    try:
        body_of(connection.receive("GET"))
    except ProtocolError:
        pass
    finally:
        connection.close()


def test_a_request_is_sent_as_it_was_given() -> None:
    connection, theirs = connected()
    with theirs:
        connection.send_head("PUT", "/v2/x", {"Host": "x", "Content-Length": "2"})
        connection.send(b"ab")
        connection.close()
        assert theirs.makefile("rb").read() == b"PUT /v2/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"


@pytest.mark.parametrize("value", ["a\r\nEvil: b", "a\nb", "\0", "\u00e9"])
def test_a_header_cannot_bring_others_along(value: str) -> None:
    connection, theirs = connected()
    with theirs, pytest.raises(RegistryError):
        connection.send_head("GET", "/", {"Authorization": f"Bearer {value}"})
    connection.close()
