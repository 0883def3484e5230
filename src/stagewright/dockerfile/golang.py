"""The corners of Go's standard library that the Dockerfile language inherits: spaces, quoting, numbers, CSV.

Text is `str` decoded from UTF-8 with `surrogateescape`, so a byte that is not UTF-8 survives as a lone surrogate.
The parsers raise ValueError with Go's message.
"""

from __future__ import annotations

# unicode.IsSpace; str.isspace would add the separators U+001C to U+001F.
SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip
_NANOSECONDS = {
    "ns": 1, "us": 1_000, "\u00b5s": 1_000, "\u03bcs": 1_000, "ms": 1_000_000,
    "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000,
}  # fmt: skip
_MAX_INT64 = (1 << 63) - 1
_DIGITS = "0123456789"
_BINARY_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def quote(text: str) -> str:
    """The text as `%q` prints it: in double quotes, with escapes for what is not printable."""
    out = []
    for char in text:
        code = ord(char)
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char.isprintable():
            out.append(char)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code <= 0xFFFF:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def parse_bool(text: str) -> bool:
    """strconv.ParseBool."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def parse_int(text: str, bits: int = 32) -> int:
    """strconv.ParseInt in base 10."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits or digits.strip(_DIGITS):
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    limit = 1 << (bits - 1)
    # No 64-bit number has more than 20 digits; int() refuses to read thousands of them.
    value = int(digits) if len(digits.lstrip("0")) <= 20 else limit + 1
    value = -value if text[0] == "-" else value
    if not -limit <= value < limit:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return value


def parse_uint32(text: str, base: int) -> int:
    """strconv.ParseUint of 32 bits in base 8 or 10: digits of that base alone, no sign, no underscores."""
    if not text or text.strip(_DIGITS[:base]) or len(text.lstrip("0")) > 11:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    value = int(text, base)
    if value >= 1 << 32:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return value


def parse_duration(text: str) -> int:
    """time.ParseDuration: `1m30.5s` and its like, as nanoseconds."""
    invalid = ValueError(f"time: invalid duration {quote(text)}")
    rest = text
    negative = rest.startswith("-")
    if rest[:1] in ("+", "-"):
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        tail = rest.lstrip(_DIGITS)
        whole, rest = rest[: len(rest) - len(tail)], tail
        fraction = ""
        if rest.startswith("."):
            tail = rest[1:].lstrip(_DIGITS)
            fraction, rest = rest[1 : len(rest) - len(tail)], tail
        if not (whole or fraction) or len(whole.lstrip("0")) > 19:
            raise invalid
        end = next((at for at, char in enumerate(rest) if char == "." or char in _DIGITS), len(rest))
        unit, rest = rest[:end], rest[end:]
        if not unit:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        if unit not in _NANOSECONDS:
            raise ValueError(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        scale = _NANOSECONDS[unit]
        fraction = fraction[:18]
        total += int(whole or "0") * scale + int(fraction or "0") * scale // 10 ** len(fraction)
        if total > _MAX_INT64:
            raise invalid
    return -total if negative else total


def ram_in_bytes(text: str) -> int:
    """go-units RAMInBytes: `64m`, `1.5 GiB`, with binary multiples, as bytes."""
    invalid = ValueError(f"invalid size: {quote(text)}")
    end = max(text.rfind(char) for char in _DIGITS + ". ")
    if end < 0:
        raise invalid
    number, suffix = (text[:end] if text[end] == " " else text[: end + 1]), text[end + 1 :].lower()
    if "_" in number or number != number.strip():
        raise invalid
    try:
        size = float(number)
    except ValueError:
        raise invalid from None
    scale = 1
    if suffix[:1] in _BINARY_UNITS:
        scale = _BINARY_UNITS[suffix[0]]
        if suffix[1:] not in ("", "b", "ib"):
            raise invalid
    elif suffix not in ("", "b"):
        raise invalid
    if not 0 <= size * scale <= _MAX_INT64:
        raise invalid
    return int(size * scale)


def split_csv(line: str) -> list[str]:
    """The fields of one CSV record (RFC 4180 as encoding/csv reads it)."""
    if line.endswith("\n"):
        line = line[:-1].removesuffix("\r")
    if not line:
        raise ValueError("EOF")
    fields: list[str] = []
    at = 0
    while True:
        if not line.startswith('"', at):
            end = line.find(",", at)
            field = line[at:] if end < 0 else line[at:end]
            if '"' in field:
                column = at + field.index('"') + 1
                raise ValueError(f'parse error on line 1, column {column}: bare " in non-quoted-field')
            fields.append(field)
            if end < 0:
                return fields
            at = end + 1
            continue
        field, at = _quoted_field(line, at + 1)
        fields.append(field)
        if at == len(line):
            return fields
        at += 1


def _quoted_field(line: str, at: int) -> tuple[str, int]:
    """The field whose opening quote ends at `at`, and the index behind its closing quote."""
    pieces = []
    while True:
        end = line.find('"', at)
        if end < 0:
            raise ValueError(f'parse error on line 1, column {at + 1}: extraneous or missing " in quoted-field')
        pieces.append(line[at:end])
        at = end + 1
        if line.startswith('"', at):
            pieces.append('"')
            at += 1
        elif at == len(line) or line[at] == ",":
            return "".join(pieces), at
        else:
            raise ValueError(f'parse error on line 1, column {at}: extraneous or missing " in quoted-field')
