"""The forms in which a secret's bytes turn up: as they are, in base64, in hex, URL-encoded, escaped for JSON.

A value counts without the white space around it. Base64 is looked for at each of its three alignments, since the value
may stand behind other bytes that were encoded with it: of each, only those characters count that no neighbour changes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator

from stagewright.patterns import pattern
from stagewright.records import dataclass

# A shorter value turns up by chance in any program.
MIN_SEARCHED = 6
# Encoders break lines at 76 characters (MIME), 64 (PEM) or 60 (xxd): of two anchors within the shortest line, a break
# can be in one only.
_LINE = 60
_MIN_ANCHOR = 6
_MAX_ANCHOR = 64
_MIN_LINE = 16
_MOST_LINES = 200
_GOOD_ANCHOR = 12
# What every URL encoder and JSON leave as it is.
_UNRESERVED = pattern(r"[A-Za-z0-9._-]+")
_SAFE_SETS = ("", "/", "~", "/~", "!'()*~", ";,/?:@&=+$!~*'()#")
_URL_ALPHABET = bytes.maketrans(b"+/", b"-_")
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a value.

    Where it occurs one of its `anchors` does, unbroken. It does occur in a text if `needle` is in `plain(text)`, which
    undoes what varies from encoder to encoder; no more than `stretch` bytes of the text become as many as the needle's.
    """

    name: str
    needle: bytes
    anchors: tuple[bytes, ...]
    plain: Callable[[bytes], bytes]
    stretch: int

    def is_in(self, text: bytes) -> bool:
        """Whether the value occurs in a text in this form."""
        return self.needle in self.plain(text)


def significant(value: bytes) -> bytes:
    """The part of a value that is looked for: files end with a line feed that is no part of the secret."""
    return value.strip()


def bytes_of(text: str) -> bytes:
    """The bytes that a text stands for, those that are no UTF-8 too."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a surrogate pair, as JSON may hold it, is no byte of anything.
        return text.encode("utf-8", "replace")


def forms_of(value: bytes) -> list[Form]:
    """All forms of a value, which is `significant` and of at least `MIN_SEARCHED` bytes."""
    shared = _unreserved_run(value)
    url_texts = [text for text in _url_encoded(value) if text != value]
    forms = [Form("", value, (shared or value[:_MAX_ANCHOR],), _as_it_is, len(value))]
    if url_texts:
        anchors = (shared,) if shared else tuple({text[:_MAX_ANCHOR] for text in url_texts})
        forms.append(Form("URL-encoded", value, anchors, _unquoted, 3 * len(value)))
        if b" " in value:
            forms.append(Form("URL-encoded", value, anchors, _unquoted_plus, 3 * len(value)))
    escaped = _json_escaped(value)
    if escaped != value:
        forms.append(Form("JSON-escaped", escaped, (shared or escaped[:_MAX_ANCHOR],), _as_it_is, len(escaped)))
    for text in _base64(value):
        forms.append(Form("base64", text, tuple(_base64_anchors(text)), _unwrapped_base64, 2 * len(text)))
    digits = value.hex().encode()
    anchors = tuple(anchor for case in (digits, digits.upper()) for anchor in _halves(case))
    forms.append(Form("hex", digits, anchors, _unwrapped_hex, 2 * len(digits)))
    return forms


def texts_of(value: bytes) -> set[bytes]:
    """What to take out of a text that is shown: all forms of a value on one line each, and its own longer lines."""
    texts = {value, _json_escaped(value), value.hex().encode(), value.hex().upper().encode(), *_url_encoded(value)}
    for text in _base64(value):
        texts |= {text, text.translate(_URL_ALPHABET)}
    lines = [line.strip() for line in value.splitlines()]
    # No key has more lines, and each one costs time with every piece of a log.
    return texts | {line for line in lines[:_MOST_LINES] if len(line) >= _MIN_LINE}


def _unreserved_run(value: bytes) -> bytes | None:
    """The longest part that reads the same in a URL and in JSON, None where it is too short to be searched for."""
    # Latin-1 has a character for each byte.
    runs: list[str] = _UNRESERVED.findall(value.decode("latin-1"))
    longest = max(runs, key=len, default="")
    if len(longest) < _MIN_ANCHOR:
        return None
    return longest[:_MAX_ANCHOR].encode()


def _url_encoded(value: bytes) -> set[bytes]:
    from urllib.parse import quote, quote_plus

    texts = {quote(value, safe=safe) for safe in _SAFE_SETS} | {quote_plus(value)}
    texts |= {re.sub("%..", lambda code: code.group().lower(), text) for text in texts}
    return {text.encode() for text in texts}


def _json_escaped(value: bytes) -> bytes:
    import json

    try:
        return json.dumps(value.decode(), ensure_ascii=False)[1:-1].encode()
    except UnicodeDecodeError:
        return value


def _base64(value: bytes) -> Iterator[bytes]:
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + value)
        yield encoded[-(-shift * 8 // 6) : (shift + len(value)) * 8 // 6]


def _base64_anchors(text: bytes) -> Iterator[bytes]:
    for half in _halves(text):
        run = max(half.replace(b"/", b"+").split(b"+"), key=len)
        if len(run) >= min(_GOOD_ANCHOR, len(half)):
            yield run
        else:
            yield half
            yield half.translate(_URL_ALPHABET)


def _halves(text: bytes) -> tuple[bytes, ...]:
    """Two parts of a text's first line of which a line break can be in one only; the whole text where it is short."""
    line = text[:_LINE]
    middle = len(line) // 2
    return (line[:middle], line[middle:]) if middle >= _MIN_ANCHOR else (line,)


def _as_it_is(text: bytes) -> bytes:
    return text


def _unquoted(text: bytes) -> bytes:
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(text)


def _unquoted_plus(text: bytes) -> bytes:
    return _unquoted(text.replace(b"+", b" "))


def _unwrapped_base64(text: bytes) -> bytes:
    # In JSON and in source code a line break is written as an escape.
    return text.replace(b"\\r", b"").replace(b"\\n", b"").translate(_STANDARD_ALPHABET, _BLANKS)


def _unwrapped_hex(text: bytes) -> bytes:
    return text.replace(b"\\n", b"").translate(None, _BLANKS).lower()
