"""That a secret is found in each form, whatever stands around it, and nothing else is."""

from __future__ import annotations

import base64
import json
import textwrap
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stagewright.secrecy.forms import MIN_SEARCHED, forms_of, significant

SECRET = b"p4ss w/rd+\"quoted\"=%?&~\xc3\xa4 4711-and-more"


def found(value: bytes, text: bytes) -> set[str]:
    """The names of the forms that a search finds: an anchor first, then the form itself."""
    return {
        form.name for form in forms_of(value) if any(anchor in text for anchor in form.anchors) and form.is_in(text)
    }


def wrapped(data: bytes, width: int, indent: str = "") -> bytes:
    return textwrap.indent("\n".join(textwrap.wrap(data.decode(), width)), indent).encode()


@pytest.mark.parametrize("before", [b"", b"x", b"xy", b"xyz", b"a longer text that stands before it, user:"])
@pytest.mark.parametrize("after", [b"", b"\n", b"@host/path, and more"])
def test_base64_at_each_alignment(before: bytes, after: bytes) -> None:
    whole = before + SECRET + after
    assert "base64" in found(SECRET, base64.b64encode(whole))
    assert "base64" in found(SECRET, base64.urlsafe_b64encode(whole).rstrip(b"="))


@pytest.mark.parametrize("length", [12, 20, 33, 48, 57, 100, 500, 5000])
@pytest.mark.parametrize("before", [b"", b"x" * 20, b"x" * 41, b"x" * 55])
def test_encodings_with_line_breaks(length: int, before: bytes) -> None:
    secret = bytes(33 + at * at * 7 % 90 for at in range(length)).strip()
    encoded = base64.b64encode(before + secret + b"!")
    for width, indent in ((76, ""), (64, ""), (76, "    ")):
        assert "base64" in found(secret, wrapped(encoded, width, indent))
    assert "base64" in found(secret, json.dumps(base64.encodebytes(before + secret).decode()).encode())
    for digits in ((before + secret).hex(), (before + secret).hex().upper()):
        assert "hex" in found(secret, wrapped(digits.encode(), 60))
        assert "hex" in found(secret, digits.encode())


@pytest.mark.parametrize("safe", ["", "/", "~", "!'()*~", "-_.~"])
def test_url_encoded(safe: str) -> None:
    text = b"https://me:" + quote(SECRET, safe=safe).encode() + b"@host/"
    assert "URL-encoded" in found(SECRET, text)
    lower = text.replace(b"%C3%A4", b"%c3%a4").replace(b"%2F", b"%2f")
    assert "URL-encoded" in found(SECRET, lower)
    assert "URL-encoded" in found(SECRET, b"password=" + quote_plus(SECRET).encode())


def test_json() -> None:
    assert "JSON-escaped" in found(SECRET, json.dumps({"token": SECRET.decode()}, ensure_ascii=False).encode())
    lines = b"-----BEGIN KEY-----\nc2VjcmV0LWtleQ==\n-----END KEY-----"
    assert found(lines, json.dumps(lines.decode()).encode()) == {"JSON-escaped"}


def test_a_token_reads_the_same_in_a_url() -> None:
    assert found(b"ghp_0123456789abcdef", b"https://me:ghp_0123456789abcdef@host") == {""}


@given(
    st.binary(min_size=MIN_SEARCHED, max_size=200).map(significant).filter(lambda value: len(value) >= MIN_SEARCHED),
    st.binary(max_size=100),
    st.binary(max_size=100),
)
@example(b"+/+/+/+/+/+/", b"", b"")
@example(b"\xfb\xff\xbf" * 30, b"a", b"b")
@example(b"%41%42%43", b"%", b"%")
def test_any_value_in_any_place(value: bytes, before: bytes, after: bytes) -> None:
    whole = before + value + after
    assert "" in found(value, whole)
    assert "base64" in found(value, b" " + base64.b64encode(whole) + b" ")
    assert "base64" in found(value, base64.urlsafe_b64encode(whole))
    assert "hex" in found(value, whole.hex().encode())
    assert "hex" in found(value, whole.hex().upper().encode())
    encoded = quote(value, safe="").encode()
    assert encoded == value or "URL-encoded" in found(value, b"?" + encoded + b"&")


def test_what_is_only_alike_is_not_found() -> None:
    value = b"correct-horse-battery-staple"
    for text in (b"correct-horse-battery-stable", value[1:], value[:-1], value.replace(b"-", b"_"), value.upper()):
        assert found(value, text) == set()
        assert found(value, base64.b64encode(text)) == set()
        assert found(value, text.hex().encode()) == set()


def test_white_space_around_a_value_does_not_count() -> None:
    assert significant(b" \n value \r\n") == b"value"
