"""Exporters' options as `docker buildx build --output` spells them, made typed; what is unknown is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stagewright.config import parse_duration
from stagewright.errors import UsageError

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Attrs:
    """The options of one value of `flag`. Each is taken once; `finish()` refuses those that nobody took."""

    def __init__(self, kind: str, attrs: Mapping[str, str], flag: str = "--output") -> None:
        self._what = f"{flag} type={kind}"
        self._left = dict(attrs)

    def text(self, key: str) -> str | None:
        """The value, None where the option is absent."""
        return self._left.pop(key, None)

    def required(self, key: str, hint: str | None = None) -> str:
        """The value. Raises UsageError where the option is absent or empty."""
        value = self._left.pop(key, None)
        if not value:
            raise UsageError(f"{self._what} needs {key}=...", hint=hint)
        return value

    def choice(self, key: str, *values: str) -> str:
        """One of the values, the first where the option is absent."""
        value = self._left.pop(key, values[0])
        if value not in values:
            raise UsageError(f'{self._what}: {key}="{value}" is none of {", ".join(values)}')
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean as Go's strconv.ParseBool reads it; an empty value means true."""
        value = self._left.pop(key, None)
        if value is None:
            return default
        if value == "" or value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise UsageError(f'{self._what}: {key}="{value}" is neither true nor false')

    def integer(self, key: str) -> int | None:
        """A whole number, None where the option is absent."""
        value = self._left.pop(key, None)
        if value is None:
            return None
        if not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
            raise UsageError(f'{self._what}: {key}="{value}" is not a number')
        return int(value)

    def duration(self, key: str, default: float) -> float:
        """Seconds, from a duration as Go writes it that is more than zero."""
        value = self._left.pop(key, None)
        if value is None:
            return default
        try:
            if (seconds := parse_duration(value)) > 0:
                return seconds
        except UsageError:
            pass
        raise UsageError(f'{self._what}: {key}="{value}" is not a duration', hint="write it as 90s, 5m or 1h30m")

    def prefixed(self, pattern: re.Pattern[str]) -> dict[str, str]:
        """All options whose names match."""
        found = {key: value for key, value in self._left.items() if pattern.fullmatch(key)}
        for key in found:
            del self._left[key]
        return found

    def finish(self) -> None:
        """Raise UsageError for an option that is left."""
        if self._left:
            key = min(self._left)
            raise UsageError(f'{self._what}: unknown or unsupported option "{key}"')
