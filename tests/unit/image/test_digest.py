import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import IntegrityError
from stagewright.image.digest import is_digest, sha256_digest, split_digest, validate_digest, verify_digest


@given(st.binary(max_size=200))
def test_a_computed_digest_is_valid_and_verifies(data: bytes) -> None:
    digest = sha256_digest(data)
    assert validate_digest(digest) == digest
    assert split_digest(digest) == ("sha256", hashlib.sha256(data).hexdigest())
    verify_digest(data, digest)
    verify_digest(data, "sha512:" + hashlib.sha512(data).hexdigest())
    with pytest.raises(IntegrityError):
        verify_digest(data + b"x", digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "../" * 21 + "a",
        "sha256:" + "a" * 128,
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "a" * 64,
        "sha256:" + "\u0661" * 64,
        None,
        7,
        ["sha256:" + "a" * 64],
    ],
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(IntegrityError):
        validate_digest(text)


@given(st.text())
def test_no_digest_holds_a_path_separator(text: str) -> None:
    if is_digest(text):
        assert "/" not in text and "." not in text


def test_a_long_bad_digest_is_cut_in_the_message() -> None:
    with pytest.raises(IntegrityError) as caught:
        validate_digest("x" * 100_000)
    assert len(caught.value.message) < 300
