"""The name that was probably meant: the nearest of some options within two edits."""

from __future__ import annotations

from collections.abc import Iterable

_TOO_FAR = 3


def suggest(value: str, options: Iterable[str], *, case_sensitive: bool = True) -> str | None:
    """The option nearest to `value` by Levenshtein distance, None if none is within two edits or one is equal.

    Between equally near options one of the same letters is taken, else the first in sort order. Without
    `case_sensitive` the answer takes over the case of `value` where that is all lower or all upper.
    """
    wanted = value if case_sensitive else value.lower()
    known = set(options) if case_sensitive else {option.lower() for option in options}
    names = sorted(known, key=lambda name: (sorted(name) != sorted(wanted), name))
    if wanted in known:
        return None
    best, nearest = None, _TOO_FAR
    for name in names:
        distance = _distance(wanted, name)
        if distance < nearest:
            best, nearest = name, distance
    if best is not None and not case_sensitive and value == value.upper() and value != value.lower():
        return best.upper()
    return best


def similar_name(name: str, others: Iterable[str]) -> str | None:
    """Of the names of files the one that was probably meant: the same in other cases, or the nearest to a long one."""
    names = sorted(others)
    same = next((other for other in names if other.casefold() == name.casefold() and other != name), None)
    return same or (suggest(name, names) if len(name) > _TOO_FAR else None)


def with_suggestion(message: str, value: str, options: Iterable[str], *, case_sensitive: bool = True) -> str:
    """The message with ` (did you mean X?)` behind it where an option is near `value`."""
    best = suggest(value, options, case_sensitive=case_sensitive)
    return message if best is None else f"{message} (did you mean {best}?)"


def _distance(left: str, right: str) -> int:
    """The Levenshtein distance, or 3 as soon as it cannot be less."""
    if abs(len(left) - len(right)) >= _TOO_FAR:
        return _TOO_FAR
    row = list(range(len(right) + 1))
    for number, char in enumerate(left, 1):
        above, row[0] = row[0], number
        for column, other in enumerate(right, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (char != other))
        if min(row) >= _TOO_FAR:
            return _TOO_FAR
    return row[-1]
