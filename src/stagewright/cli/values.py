"""The values of flags: fields, switches, sizes, limits, host names and key=value pairs, from text.

All raise UsageError, which names the value, for text that is not in their form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from stagewright.errors import UsageError
from stagewright.patterns import pattern

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_SIZE = pattern(r"(\d+(?:\.\d*)?|\.\d+) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_POWERS = {unit: power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))}
_LIMIT = pattern(r"-1|\d+", re.ASCII)
MAX_INT64 = 2**63 - 1

ULIMITS = frozenset(
    {
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    }
)


def parse_bool(text: str | bool) -> bool:
    """A switch's value as Go's `strconv.ParseBool` reads it."""
    if isinstance(text, bool):
        return text
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise UsageError(f"{text!r} is neither true nor false")


def csv_fields(text: str) -> list[str]:
    """The fields of one record, as Go's `encoding/csv` reads it: commas part them, quotes hold them together.

    An empty text has no fields.
    """
    fields: list[str] = []
    position = 0
    while position < len(text) or fields:
        if text.startswith('"', position):
            field, position = _quoted(text, position)
        else:
            comma = text.find(",", position)
            end = len(text) if comma < 0 else comma
            field, position = text[position:end], end
            if '"' in field:
                raise UsageError(f"a quote in the middle of a field: {text}")
        fields.append(field)
        if position == len(text):
            break
        if text[position] != ",":
            raise UsageError(f"text after a closing quote: {text}")
        position += 1
    return fields


def _quoted(text: str, start: int) -> tuple[str, int]:
    parts: list[str] = []
    position = start + 1
    while True:
        quote = text.find('"', position)
        if quote < 0:
            raise UsageError(f"a quote that is not closed: {text}")
        parts.append(text[position:quote])
        if not text.startswith('"', quote + 1):
            return "".join(parts), quote + 1
        parts.append('"')
        position = quote + 2


def parse_pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """Pairs from `key=value` texts; a key without a value has an empty one, the last of several wins.

    `what` names the flag in errors.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise UsageError(f"{what}: {text!r} has no name before the =")
        pairs[key] = value
    return pairs


def parse_build_args(texts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Build arguments from `NAME=value`, or from `NAME` alone, which takes its value from `environ`, if it is there."""
    given = [text for text in texts if "=" in text or text in environ or not text]
    return parse_pairs([text if "=" in text else f"{text}={environ.get(text, '')}" for text in given], "--build-arg")


def parse_contexts(texts: Sequence[str]) -> dict[str, str]:
    """Named contexts from `name=value`; of several for one name the last wins."""
    contexts = {}
    for text in filter(None, texts):
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--build-context: invalid context value: {text}, expected name=value")
        contexts[name] = value
    return contexts


def parse_size(text: str) -> int:
    """A number of bytes from `64m`, `1.5g`, `512kb`, `2GiB`, `1024`; units are powers of 1024."""
    matched = _SIZE.fullmatch(text.strip())
    if matched is None:
        raise UsageError(f"{text!r} is not a size", hint="write it as 1024, 64m or 1g")
    size = int(float(matched[1]) * 1024 ** _POWERS[matched[2].lower()])
    if size > MAX_INT64:
        raise UsageError(f"the size {text!r} is too large")
    return size


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """A limit's name, soft and hard value from `nofile=1024:2048`; one value is for both, -1 means unlimited."""
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    if not equals or not _LIMIT.fullmatch(soft) or (colon and not _LIMIT.fullmatch(hard)):
        raise UsageError(f"{text!r} is not a limit", hint="write it as nofile=1024 or nofile=1024:2048")
    if name not in ULIMITS:
        raise UsageError(f"there is no limit named {name!r}", hint=f"one of {', '.join(sorted(ULIMITS))}")
    low, high = int(soft), int(hard if colon else soft)
    if max(low, high) > MAX_INT64:
        raise UsageError(f"the limit {text!r} is too large")
    if high != -1 and (low == -1 or low > high):
        raise UsageError(f"the soft limit is above the hard limit: {text}")
    return name, low, high


def parse_host(text: str) -> tuple[str, str]:
    """A host's name and address from `name:address`, `name=address` or `name=[address]`.

    The address `host-gateway` stands for the host itself and is given as it is.
    """
    name, separator, address = text.partition("=")
    if not separator:
        name, separator, address = text.partition(":")
    if len(address) > 2 and address[0] == "[" and address[-1] == "]":
        address = address[1:-1]
    if not name or any(char.isspace() for char in name) or not _is_address(address):
        raise UsageError(
            f"--add-host: {text!r} is not a host and its address", hint="write it as name:10.0.0.1 or name=::1"
        )
    return name, address


def _is_address(text: str) -> bool:
    if text == "host-gateway":
        return True
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def parse_count(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < 1:
        raise UsageError(f"{text!r} is not a number of at least 1")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    """A reader that takes these words alone."""

    def read(text: str) -> str:
        if text in words:
            return text
        raise UsageError(f"{text!r} is unknown", hint=f"one of {', '.join(words)}")

    return read
