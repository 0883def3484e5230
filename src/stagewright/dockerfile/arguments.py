"""What stands behind a keyword: flags, JSON arrays, words and name-value pairs, still unexpanded and untyped."""

from __future__ import annotations

import json
import math
import re
from functools import cache

from stagewright.dockerfile.golang import SPACES, quote
from stagewright.errors import DockerfileError
from stagewright.patterns import pattern
from stagewright.records import dataclass

_BLANKS = pattern(r"[\t\v\f\r ]+")
_SURROGATES = pattern("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A name with its value; `legacy` marks the form without `=`: `ENV name value`."""

    name: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Arguments:
    """An instruction's arguments: strings, for ENV and LABEL pairs. `json` says that they were a JSON array."""

    values: tuple[str, ...] = ()
    pairs: tuple[KeyValue, ...] = ()
    json: bool = False


def split_command(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """The keyword of a line, the flags behind it with quotes and escapes taken away, and the rest."""
    keyword, *rest = _BLANKS.split(line.strip(SPACES), maxsplit=1)
    if not rest:
        return keyword, (), ""
    text, at = rest[0], 0
    flags = []
    while True:
        while at < len(text) and text[at] in SPACES:
            at += 1
        if not text.startswith("--", at):
            break
        flag, at = _flag(text, at, escape)
        if flag == "--":
            break
        flags.append(flag)
    return keyword, tuple(flags), text[at:].strip(SPACES)


def _flag(text: str, at: int, escape: str) -> tuple[str, int]:
    """The flag that begins at an index, and the index behind it."""
    out = []
    mark = ""
    while at < len(text):
        char = text[at]
        at += 1
        if not mark and char in SPACES:
            break
        if char == mark:
            mark = ""
        elif not mark and char in "'\"":
            mark = char
        elif char == escape:
            # An escape that nothing follows is dropped.
            out.append(text[at : at + 1])
            at += 1
        else:
            out.append(char)
    return "".join(out), min(at, len(text))


@cache
def _word_pattern(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    spaces = re.escape(SPACES)
    double_quoted = rf'"(?:[^"{e}]++|{e}[\s\S])*+(?:"|(?P<open>{e})?\Z)'
    return re.compile(
        rf"""(?:[^{spaces}'"{e}]++|{e}[\s\S]|'[^']*+(?:'|\Z)|{double_quoted}|(?P<last>{e})\Z)++""",
    )


def split_words(text: str, escape: str) -> list[str]:
    """The words of a text, quotes and escapes still in them; an escape at the very end is dropped."""
    words = []
    for match in _word_pattern(escape).finditer(text):
        word = match[0][:-1] if match["open"] or match["last"] else match[0]
        if word:
            words.append(word)
    return words


def parse_pairs(text: str, escape: str, keyword: str) -> Arguments:
    """`name=value ...`, or with no `=` in the first word the old `name value`. Raises DockerfileError."""
    words = split_words(text, escape)
    if not words:
        return Arguments()
    if "=" not in words[0]:
        parts = _BLANKS.split(text, maxsplit=1)
        if len(parts) < 2:
            raise DockerfileError(f"{keyword} must have two arguments")
        return Arguments(pairs=(KeyValue(parts[0], parts[1], legacy=True),))
    pairs = []
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            raise DockerfileError(f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value")
        pairs.append(KeyValue(name, value))
    return Arguments(pairs=tuple(pairs))


def parse_list(text: str) -> Arguments:
    """Strings between blanks."""
    return Arguments(tuple(_BLANKS.split(text)) if text else ())


def parse_whole(text: str) -> Arguments:
    """The whole text as one string, if there is any."""
    return Arguments((text,) if text else ())


def parse_json(text: str) -> Arguments | None:
    """The strings of a JSON array, None if the text is none. Raises DockerfileError if it holds anything else."""
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(value, str) for value in values):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    # Go decodes what is no UTF-8 and half of a surrogate pair to U+FFFD.
    return Arguments(tuple(_SURROGATES.sub("\ufffd", value) for value in values), json=True)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number out of range")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def parse_healthcheck(text: str) -> Arguments:
    """The type of a health check and its command, in JSON or shell form. Raises DockerfileError."""
    kind = next((text[:at] for at, char in enumerate(text) if char in SPACES), text)
    if not kind:
        return Arguments()
    rest = text[len(kind) :].lstrip(SPACES)
    command = parse_json(rest) or parse_whole(rest)
    return Arguments((kind, *command.values), json=command.json)
