"""Text without secrets, and streams that are cut anywhere."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stagewright.secrecy.masks import MaskedStream, Masks

SECRET = "hunter2-hunter2-hunter3"


def shown(masks: Masks, *pieces: bytes) -> bytes:
    stream = MaskedStream(masks)
    return b"".join([stream.feed(piece) for piece in pieces]) + stream.flush()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token={SECRET}!", "token=***!"),
        (SECRET.encode().hex(), "***"),
        (SECRET.encode().hex().upper(), "***"),
        (f"{SECRET}{SECRET} and {SECRET}", "****** and ***"),
        ("nothing of it: hunter2-hunter2", "nothing of it: hunter2-hunter2"),
        (f"caf\u00e9 \udcff {SECRET}", "caf\u00e9 \udcff ***"),
        (f"half a pair \ud83d {SECRET}", "half a pair ? ***"),
        ("", ""),
    ],
)
def test_text(text: str, masked: str) -> None:
    assert Masks([SECRET.encode()]).text(text) == masked


def test_base64_of_it_within_something_longer() -> None:
    for user in ("", "me", "you"):
        text = base64.b64encode(f"{user}:{SECRET}".encode()).decode()
        masked = Masks([SECRET.encode() + b"\n"]).text(f"Authorization: Basic {text}")
        assert "***" in masked
        assert text[6:-6] not in masked


def test_urls() -> None:
    assert Masks([b"p@ss/word"]).text("https://me:p%40ss%2Fword@host") == "https://me:***@host"


def test_values_of_one_line_are_masked_line_by_line() -> None:
    masks = Masks([b"user\nthe-longer-line-of-it\n"])
    assert masks.text("+ the-longer-line-of-it") == "+ ***"
    assert masks.text("user") == "user"
    assert masks.text("user\nthe-longer-line-of-it") == "***"
    assert masks.text("a\nuser\nthe-longer-line-of-it\nb", keep_lines=True) == "a\n***\n\nb"


def test_very_short_values_are_not_masked() -> None:
    assert Masks([b"", b"1", b"abc\n", b" "]).text("abc 1") == "abc 1"
    assert Masks([b"1234"]).text("PIN 1234") == "PIN ***"


def test_of_two_secrets_the_longer_one_is_masked_whole() -> None:
    masks = Masks([b"prefix", b"prefix-and-more"])
    assert masks.text("prefix-and-more, prefix") == "***, ***"
    assert shown(masks, b"prefix", b"-and-more, pre", b"fix") == b"***, ***"
    assert shown(masks, b"prefix", b"-and-less") == b"***-and-less"


def test_a_stream_gives_at_once_what_cannot_be_a_secret() -> None:
    stream = MaskedStream(Masks([SECRET.encode()]))
    assert stream.feed(b"Password: ") == b"Password: "
    assert stream.feed(b"hunter") == b""
    assert stream.feed(b"s are many\n") == b"hunters are many\n"
    assert stream.feed(SECRET.encode()) == b"***"
    assert stream.feed(b"hunter2-") == b""
    assert stream.flush() == b"hunter2-"


@given(
    st.lists(st.sampled_from([b"ab", b"aba", SECRET.encode(), b"hunter2-", b"h", b"\n", b"abab-abac", b"x"])),
    st.data(),
)
@example([b"abab-abac", b"abab-abac"], None)
def test_a_stream_is_masked_as_a_whole_however_it_is_cut(parts: list[bytes], data: st.DataObject | None) -> None:
    whole = b"".join(parts)
    masks = Masks([SECRET.encode(), b"abab-abac"])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole))))) if data else list(range(len(whole)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert shown(masks, *pieces) == masks.text(whole.decode()).encode()
