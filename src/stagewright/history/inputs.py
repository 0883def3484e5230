"""Values as records keep them: without secrets, and without what only looks like one by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from stagewright.patterns import pattern
from stagewright.redaction import redact_text

HIDDEN = "***"
# What a name says of a value that is better not kept: `API_KEY`, `dbPassword`, `NPM_TOKEN`.
_SECRET_NAME = pattern(
    r"(?i)token|secret|passw|passphrase|pwd|credential|api_?key|access_?key|private_?key|signing_?key|auth(?!or)"
    r"|(?:^|_)key$"
)
# What is longer is cut there, and told apart by its digest.
_LONGEST = 200


def shown_variable(item: str) -> str:
    """`NAME=value` as it is kept: a value that looks like a secret's by its name is left out."""
    name, equals, value = item.partition("=")
    return f"{name}{equals}{shown_value(name, value)}"


def shown_value(name: str, value: str) -> str:
    """The value of a variable or an argument as it is kept, from which can be told whether it has changed."""
    if not value:
        return value
    if looks_secret(name):
        # With two bytes of a digest nobody can check a guess.
        return f"{HIDDEN} {_digest(name, value)[:4]}"
    value = redact_text(value)
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}... {_digest(name, value)[:16]}"


def looks_secret(name: str) -> bool:
    """Whether the value of a variable of that name is better not kept."""
    return _SECRET_NAME.search(name) is not None


def cleaned(data: Any, clean: Callable[[str], str]) -> Any:
    """JSON-able data of which each text was passed through `clean`."""
    if isinstance(data, str):
        return clean(data)
    if isinstance(data, dict):
        return {clean(key): cleaned(value, clean) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [cleaned(item, clean) for item in data]
    return data


def _digest(name: str, value: str) -> str:
    return hashlib.sha256(f"{name}={value}".encode(errors="surrogateescape")).hexdigest()
