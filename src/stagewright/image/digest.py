"""Digests: how content is named, and the strict grammar that keeps a digest from ever being anything but a name."""

from __future__ import annotations

import hashlib

from stagewright.errors import IntegrityError
from stagewright.patterns import pattern

_DIGEST = pattern(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of a registered algorithm: `sha256:` + 64 or `sha512:` + 128 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def validate_digest(text: object) -> str:
    """Return `text` if it is a digest (OCI image-spec, "Digests"), else raise IntegrityError."""
    if not isinstance(text, str) or not is_digest(text):
        shown = repr(text)
        raise IntegrityError(f"invalid digest {shown if len(shown) < 200 else shown[:200] + '...'}")
    return text


def split_digest(digest: str) -> tuple[str, str]:
    """The algorithm and the hex digits of a digest. Raises IntegrityError where it is not one."""
    algorithm, _, encoded = validate_digest(digest).partition(":")
    return algorithm, encoded


def sha256_digest(data: bytes) -> str:
    """The canonical digest of `data`: `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def verify_digest(data: bytes, digest: str) -> None:
    """Raise IntegrityError unless `data` has this digest."""
    algorithm, encoded = split_digest(digest)
    found = hashlib.new(algorithm, data).hexdigest()
    if found != encoded:
        raise IntegrityError(f"content has digest {algorithm}:{found}, expected {digest}")
