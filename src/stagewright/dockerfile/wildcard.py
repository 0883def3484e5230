"""Go's `filepath.Match` on slash-separated names, and how COPY and ADD split a source into a folder and a pattern."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from enum import Enum

from stagewright.dockerfile.golang import quote
from stagewright.errors import DockerfileError
from stagewright.records import dataclass


class Special(Enum):
    """`ANY` is one character, `STAR` any number of them, both but slashes."""

    ANY = "?"
    STAR = "*"


@dataclass(frozen=True, slots=True)
class CharClass:
    """One character inside (`negated`: outside) of the ranges, both ends included. May match a slash."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]

    def accepts(self, char: str) -> bool:
        """Whether the class matches the character."""
        return self.negated != any(low <= char <= high for low, high in self.ranges)

    def regex(self) -> str:
        """The class for `re`. Ranges that run backwards match nothing."""
        ranges = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in self.ranges if low <= high)
        if not ranges:
            return r"[\s\S]" if self.negated else r"(?!)"
        return f"[{'^' if self.negated else ''}{ranges}]"


Token = str | Special | CharClass


def tokenize(pattern: str) -> list[Token]:
    """The tokens of a pattern: literal characters, wildcards, classes. Raises DockerfileError where it is malformed."""
    tokens: list[Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            tokens.append(Special.STAR)
        elif char == "?":
            tokens.append(Special.ANY)
        elif char == "[":
            found, at = _char_class(pattern, at + 1)
            tokens.append(found)
            continue
        elif char == "\\":
            at += 1
            if at == len(pattern):
                raise _malformed(pattern)
            tokens.append(pattern[at])
        else:
            tokens.append(char)
        at += 1
    return tokens


def _char_class(pattern: str, at: int) -> tuple[CharClass, int]:
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while not ranges or not pattern.startswith("]", at):
        low, at = _class_char(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_char(pattern, at + 1)
        ranges.append((low, high))
    return CharClass(negated, tuple(ranges)), at + 1


def _class_char(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at : at + 1] in ("", "-", "]"):
        raise _malformed(pattern)
    at += pattern[at] == "\\"
    # A class has to go on behind each of its characters, at least with its bracket.
    if at + 1 >= len(pattern):
        raise _malformed(pattern)
    return pattern[at], at + 1


def _malformed(pattern: str) -> DockerfileError:
    return DockerfileError(f"syntax error in pattern {quote(pattern)}")


def tokens_regex(tokens: Sequence[Token]) -> str:
    """A regular expression for the tokens, unanchored at its start, anchored at its end.

    Each star but the last takes as little as lets the tokens up to the next star follow, and is never tried again
    (Go does the same), so the time is at worst the length of the name times that of the pattern.
    """
    chunks: list[str] = [""]
    for token in tokens:
        if token is Special.STAR:
            chunks.append("")
        elif token is Special.ANY:
            chunks[-1] += "[^/]"
        elif isinstance(token, CharClass):
            chunks[-1] += token.regex()
        else:
            chunks[-1] += re.escape(str(token))
    if len(chunks) == 1:
        return chunks[0] + r"\Z"
    middle = "".join(f"(?>[^/]*?{chunk})" for chunk in chunks[1:-1] if chunk)
    return f"{chunks[0]}{middle}[^/]*{chunks[-1]}\\Z"


def compile_tokens(tokens: Sequence[Token]) -> Callable[[str], bool]:
    """A function that says whether a name matches the tokens; the common forms need no regular expression."""
    stars = [at for at, token in enumerate(tokens) if token is Special.STAR]
    others = [token for token in tokens if token is not Special.STAR]
    if all(isinstance(token, str) for token in others) and "/" not in others:
        text = "".join(str(token) for token in others)
        if not stars:
            return text.__eq__
        if stars == [0]:
            return lambda name: name.endswith(text) and "/" not in name
        if stars == [len(tokens) - 1]:
            return lambda name: name.startswith(text) and "/" not in name
    compiled = re.compile(tokens_regex(tokens)).match
    return lambda name: compiled(name) is not None


def match(pattern: str, name: str) -> bool:
    """Whether the whole name matches: `*`, `?` (neither matches a slash), `[a-z]`, `[^a-z]`, `\\x`.

    Raises DockerfileError where the pattern is malformed, whether or not the name matches its beginning.
    """
    return compile_tokens(tokenize(pattern))(name)


def has_wildcards(name: str) -> bool:
    """Whether a `*`, `?` or `[` stands in the name without a backslash before it."""
    return re.search(r"(?<!\\)(?:\\\\)*[*?\[]", name) is not None


class SourcePattern:
    """A COPY or ADD source: the folder before its first component with a wildcard, and the pattern below that folder.

    `folder` is a clean path ("" for the root), `pattern` is "" where the source holds no wildcard.
    """

    __slots__ = ("_components", "_matches", "_wide", "folder", "pattern")

    def __init__(self, source: str) -> None:
        components = [component for component in posixpath.normpath("/" + source).split("/") if component]
        first = next((at for at, part in enumerate(components) if has_wildcards(part)), len(components))
        self.folder = "/".join(components[:first])
        self.pattern = "/".join(components[first:])
        tokens = tokenize(self.pattern)
        self._matches = compile_tokens(tokens)
        # A class may match a slash, and then components do not pair up.
        self._wide = any(isinstance(token, CharClass) and token.accepts("/") for token in tokens)
        self._components = [] if self._wide else [compile_tokens(part) for part in split_tokens(tokens)]

    def matches(self, name: str) -> bool:
        """Whether a path relative to `folder` matches the pattern."""
        return self._matches(name)

    def may_match_below(self, directory: str) -> bool:
        """Whether something inside of a directory (a path relative to `folder`) could match the pattern."""
        if self._wide:
            return True
        names = directory.split("/")
        return len(names) < len(self._components) and all(
            accepts(name) for accepts, name in zip(self._components, names, strict=False)
        )


def split_tokens(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens split at each literal slash."""
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token == "/":  # noqa: S105
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
