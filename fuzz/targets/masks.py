"""Secrets, one a line up to a NUL byte, in a stream behind it that comes in pieces: none of them is shown."""

from __future__ import annotations

from stagewright.redaction import MASK
from stagewright.secrecy.forms import significant, texts_of
from stagewright.secrecy.masks import MIN_MASKED, MaskedStream, Masks

TOKENS = (b"secret", b"secr", b"ret", b"%73", b"c2VjcmV0", b"736563726574", b"\n", b"\0", b"***", b"aaaa", b'\\"')


def check(data: bytes) -> None:
    """Fails where a secret stands in what is shown, whole or put together again, and where other text is lost."""
    head, _, text = data.partition(b"\0")
    secrets = [secret for secret in map(significant, head[:100].split(b"\n")) if len(secret) >= MIN_MASKED]
    masks = Masks(secrets)
    whole = MaskedStream(masks)
    shown = whole.feed(text) + whole.flush()
    for size in (1, 2, 7):
        stream = MaskedStream(masks)
        pieces = [stream.feed(text[at : at + size]) for at in range(0, len(text), size)]
        in_pieces = b"".join(pieces) + stream.flush()
        _check_shown(in_pieces, secrets)
    _check_shown(shown, secrets)
    if not any(form in text for secret in secrets for form in texts_of(secret)):
        assert shown == in_pieces == text


def _check_shown(shown: bytes, secrets: list[bytes]) -> None:
    # What a mask put beside each other is no secret that was there.
    for part in shown.split(MASK.encode()):
        for secret in secrets:
            assert secret not in part
