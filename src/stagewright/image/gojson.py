"""JSON as Go's encoding/json writes it, byte for byte, and a strict reader for documents that others wrote."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from stagewright.errors import IntegrityError
from stagewright.patterns import pattern

_ESCAPED = pattern("[<>&\u2028\u2029\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    # Python keeps bytes that are not UTF-8 as lone surrogates; Go writes the escape of U+FFFD for them.
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def dumps(value: Any, *, indent: bool = False) -> bytes:
    """Encode `value` as Go's json.Marshal does, or as MarshalIndent(v, "", "  ") does where `indent` is set.

    Keys keep the order of the dictionary: a caller sorts what is a map in Go and leaves what is a struct. The
    characters < > & U+2028 U+2029 are escaped, all else is UTF-8.
    """
    if indent:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    else:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED.sub(_escape, text).encode()


class _ConstantError(ValueError):
    """NaN or an infinity, which Python's decoder would take."""


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(f"{name} is not JSON")


def json_problem(error: ValueError | RecursionError) -> str:
    """What is wrong with a document that Python's decoder did not take."""
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError | _ConstantError):
        return str(error)
    return "it has a number of too many digits"


def loads_object(data: bytes, what: str) -> dict[str, Any]:
    """Decode a JSON object; `what` names it in the message of the IntegrityError that a bad one raises."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not valid JSON: {json_problem(error)}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object")
    return value


class Fields:
    """Typed reads from a decoded JSON object; a value of another type raises IntegrityError with its path.

    As in Go, `null` and an absent key both mean the zero value.
    """

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            raise IntegrityError(f"{what} is not a JSON object")
        self._value: dict[str, Any] = value
        self.what = what

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def _wrong(self, key: str, expected: str) -> IntegrityError:
        return IntegrityError(f"{self.what}: {key} is not {expected}")

    def raw(self, key: str) -> Any:
        """The value as it was decoded, None where it is absent."""
        return self._value.get(key)

    def string(self, key: str) -> str:
        """A string; "" where it is absent."""
        value = self._value.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def integer(self, key: str) -> int:
        """An integer of 64 bits; 0 where it is absent."""
        value = self._value.get(key)
        if value is None:
            return 0
        if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            raise self._wrong(key, "an integer")
        return value

    def boolean(self, key: str) -> bool:
        """A boolean; False where it is absent."""
        value = self._value.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._wrong(key, "a boolean")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where it is absent."""
        value = self._value.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of strings")
        return tuple(value)

    def string_map(self, key: str) -> dict[str, str]:
        """An object whose values are strings; empty where it is absent. A null value is an empty string."""
        value = self._value.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object of strings")
        result = {}
        for name, item in value.items():
            if item is not None and not isinstance(item, str):
                raise self._wrong(key, "an object of strings")
            result[name] = item or ""
        return result

    def set_of_names(self, key: str) -> frozenset[str]:
        """The keys of an object (Go's map[string]struct{}); empty where it is absent."""
        value = self._value.get(key)
        if value is None:
            return frozenset()
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return frozenset(value)

    def objects(self, key: str) -> list[Fields]:
        """A list of objects; empty where it is absent."""
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return [Fields(item, f"{self.what}: {key}[{number}]") for number, item in enumerate(value)]

    def object(self, key: str) -> Fields | None:
        """An object; None where it is absent."""
        value = self._value.get(key)
        return None if value is None else Fields(value, f"{self.what}: {key}")
