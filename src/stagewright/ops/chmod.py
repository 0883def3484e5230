"""The values of `--chmod`: an octal number, or chmod's symbolic expressions."""

from __future__ import annotations

from stagewright.errors import DockerfileError
from stagewright.patterns import pattern

_CLAUSE = pattern(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)")
_ACTION = pattern(r"([-+=])([rwxXstugo]*)")
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}
_CLASSES = {"u": 0o4700, "g": 0o2070, "o": 0o1007}


def apply_mode(expression: str, mode: int, is_dir: bool) -> int:
    """The permission bits (12 of them) that `expression` makes of `mode`.

    Raises DockerfileError where the expression is neither octal nor symbolic.
    """
    value = numeric_mode(expression)
    if value is not None:
        return value
    result = mode & 0o7777
    for clause in expression.split(","):
        parsed = _CLAUSE.fullmatch(clause)
        if parsed is None:
            raise _invalid(expression)
        for operator, permissions in _ACTION.findall(parsed[2]):
            result = _apply(result, parsed[1], operator, permissions, is_dir)
    return result


def numeric_mode(expression: str) -> int | None:
    """The permission bits (12 of them) that an octal number stands for, None for what is no number.

    Raises DockerfileError for a number that is too large.
    """
    if not expression or expression.strip("01234567"):
        return None
    value = int(expression, 8)
    if value > 0o7777:
        raise _invalid(expression)
    return value


def _invalid(expression: str) -> DockerfileError:
    return DockerfileError(
        f"invalid chmod parameter: '{expression}'", hint="use an octal number or a form like u=rwX,go=rX"
    )


def _apply(mode: int, classes: str, operator: str, permissions: str, is_dir: bool) -> int:
    if not classes or "a" in classes:
        classes = "ugo"
    mask = 0
    for name in classes:
        mask |= _CLASSES[name]
    bits = 0
    for permission in permissions:
        if permission in _BITS:
            bits |= _BITS[permission]
        elif permission == "X":
            bits |= 0o111 if is_dir or mode & 0o111 else 0
        elif permission == "s":
            bits |= 0o6000
        elif permission == "t":
            bits |= 0o1000
        else:
            shift = {"u": 6, "g": 3, "o": 0}[permission]
            bits |= (mode >> shift & 7) * 0o111
    bits &= mask
    if operator == "+":
        return mode | bits
    if operator == "-":
        return mode & ~bits
    return mode & ~mask | bits
