"""The .dockerignore format: reading its patterns, and matching paths against them as a tree is walked.

A pattern is one of a row: the last one that matches decides, `!` brings back what earlier ones excluded, and what
matches a folder holds for all below. The rules are those of moby/patternmatcher, which BuildKit uses.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from stagewright.dockerfile.golang import SPACES, quote
from stagewright.dockerfile.wildcard import CharClass, Special, Token, compile_tokens, split_tokens, tokenize
from stagewright.errors import DockerfileError, SourceRange, SourceText
from stagewright.records import dataclass, field

if TYPE_CHECKING:
    from stagewright.dockerfile.glob import Glob, Item, State

# BuildKit reads no longer lines; each path that is looked at is compared with every pattern.
_MAX_LINE = 65535
_MAX_PATTERNS = 10_000
# Such as `a**b` and `[^a]`, which are compared character by character.
_MAX_CROSSING = 1000


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line: a clean path relative to the root of the tree, with wildcards; an exception began with `!`."""

    text: str
    exception: bool = False
    location: SourceRange | None = field(default=None, compare=False)


def read_patterns(data: bytes, filename: str = ".dockerignore") -> list[Pattern]:
    """The patterns of an ignore file, in order.

    Blank lines and those with a `#` in their first column are left out; spaces around a pattern, a leading slash and
    needless `.`, `..` and slashes are dropped. Raises DockerfileError for a `!` alone, a line of more than 65535
    characters, and more than 10000 patterns.
    """
    text = data.removeprefix(b"\xef\xbb\xbf")
    source = SourceText(filename, text.decode("utf-8", "replace"))
    patterns: list[Pattern] = []
    for number, line in enumerate(text.decode("utf-8", "surrogateescape").split("\n"), 1):
        written = line.strip(SPACES)
        if line.startswith("#") or not written:
            continue
        location = SourceRange(source, number, number)
        if len(line) > _MAX_LINE:
            raise DockerfileError(f"a line of the ignore file is longer than {_MAX_LINE} characters", location=location)
        if len(patterns) == _MAX_PATTERNS:
            raise DockerfileError(f"the ignore file has more than {_MAX_PATTERNS} patterns", location=location)
        exception = written.startswith("!")
        if exception:
            written = written[1:].strip(SPACES)
            if not written:
                raise DockerfileError(f"illegal exclusion pattern: {quote('!')}", location=location)
        clean = posixpath.normpath(written).lstrip("/") or "/"
        patterns.append(Pattern(clean, exception, location))
    return patterns


def patterns_from(lines: Iterable[str]) -> list[Pattern]:
    """Patterns from single strings, such as the values of `COPY --exclude`: `!` and cleaning as in a file."""
    patterns = []
    for line in lines:
        written = line.strip(SPACES)
        if not written:
            continue
        exception = written.startswith("!")
        clean = posixpath.normpath(written)
        if clean == "!":
            raise DockerfileError(f"illegal exclusion pattern: {quote('!')}")
        patterns.append(Pattern(clean[exception:], exception))
    return patterns


class _Wild(Enum):
    FOLDERS = "any number of folders"
    BELOW = "one or more names"


_Component = str | _Wild | Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class _Table:
    """What a name in some folder is compared with.

    Positions index the components of all patterns, one behind the other. `final` holds for a name the patterns that
    it completes as a bit set, `onward` the positions that follow below a folder of that name.
    """

    positions: frozenset[int]
    alive: int
    always: int
    kept: frozenset[int]
    final: dict[str, int]
    final_tests: tuple[tuple[Callable[[str], bool], int], ...]
    onward: dict[str, list[int]]
    onward_tests: tuple[tuple[Callable[[str], bool], int], ...]


class Matcher:
    """The patterns of one ignore file, compiled.

    Raises DockerfileError where one is malformed, and where more than 1000 match across folders (`a**b`, `[^a]`).
    """

    __slots__ = ("_components", "_exceptions", "_globs", "_last", "_owner", "_tables", "_top")

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._exceptions = 0
        self._components: list[_Component] = []
        self._owner: list[int] = []
        self._last: list[bool] = []
        self._globs: list[tuple[int, Glob]] = []
        self._tables: dict[frozenset[int], _Table] = {}
        first: set[int] = set()
        for number, pattern in enumerate(patterns):
            bit = 1 << number
            if pattern.exception:
                self._exceptions |= bit
            components = _compile(pattern)
            if not isinstance(components, list):
                if len(self._globs) == _MAX_CROSSING:
                    message = f"more than {_MAX_CROSSING} patterns match across folders, such as {quote(pattern.text)}"
                    raise DockerfileError(message, location=pattern.location)
                self._globs.append((bit, components))
                continue
            start = len(self._components)
            self._components += components
            self._owner += [bit] * len(components)
            self._last += [False] * (len(components) - 1) + [True]
            self._reach(start, first)
        self._top = self._table(frozenset(first))

    def root(self) -> Folder:
        """The top of the tree, where a walk begins."""
        return Folder(self, self._top, tuple(glob.start for _, glob in self._globs), 0, False)

    def matches(self, path: str) -> bool:
        """Whether a path alone is excluded: the last pattern that matches it or a folder above it decides.

        A walk (`root`) asks patterns in order and does not ask an exception about what is not excluded, so the two
        differ where an exception for a folder follows a pattern for something in it.
        """
        folder = self.root()
        matched = 0
        for name in path.split("/"):
            matched |= folder.matched(name)
            folder = folder.enter(name)
        return bool(matched) and not self._exceptions >> (matched.bit_length() - 1) & 1

    def _reach(self, position: int, into: set[int]) -> None:
        """Adds the position, and those behind it where it may stand for nothing."""
        into.add(position)
        while self._components[position] is _Wild.FOLDERS:
            position += 1
            into.add(position)

    def _table(self, positions: frozenset[int]) -> _Table:
        found = self._tables.get(positions)
        if found is not None:
            return found
        alive = always = 0
        kept: set[int] = set()
        final: dict[str, int] = {}
        final_tests = []
        onward: dict[str, list[int]] = {}
        onward_tests = []
        for position in sorted(positions):
            component, bit = self._components[position], self._owner[position]
            alive |= bit
            if component is _Wild.FOLDERS:
                self._reach(position, kept)
            elif component is _Wild.BELOW:
                kept.add(position)
                always |= bit
            elif isinstance(component, str):
                if self._last[position]:
                    final[component] = final.get(component, 0) | bit
                else:
                    onward.setdefault(component, []).append(position + 1)
            elif callable(component):
                if self._last[position]:
                    final_tests.append((component, bit))
                else:
                    onward_tests.append((component, position + 1))
        table = _Table(
            positions, alive, always, frozenset(kept), final, tuple(final_tests), onward, tuple(onward_tests)
        )
        self._tables[positions] = table
        return table

    def _below(self, table: _Table, name: str) -> _Table:
        """The table for a folder of that name."""
        reached = set(table.kept)
        for position in table.onward.get(name, ()):
            self._reach(position, reached)
        for test, position in table.onward_tests:
            if test(name):
                self._reach(position, reached)
        return self._table(frozenset(reached))

    def _verdict(self, recorded: int, matched: int) -> tuple[bool, int]:
        """Whether something is excluded, and the patterns to remember for what is inside of it."""
        excluded = False
        remembered = 0
        todo = recorded | matched
        while todo:
            bit = todo & -todo
            todo ^= bit
            exception = bool(self._exceptions & bit)
            # A pattern that could change nothing is not asked, and so not remembered; moby does the same.
            if not recorded & bit and exception != excluded:
                continue
            remembered |= bit
            excluded = not exception
        return excluded, remembered


class Folder:
    """A folder reached by a walk.

    `excluded` says whether it is excluded itself, `hopeless` whether nothing inside of it could be brought back, so
    that a walk need not enter it.
    """

    __slots__ = ("_matcher", "_recorded", "_states", "_table", "excluded")

    def __init__(
        self, matcher: Matcher, table: _Table, states: tuple[State, ...], recorded: int, excluded: bool
    ) -> None:
        self._matcher = matcher
        self._table = table
        self._states = states
        self._recorded = recorded
        self.excluded = excluded

    def matched(self, name: str) -> int:
        """The patterns that match an entry of this folder itself, as a bit set."""
        table = self._table
        bits = table.always | table.final.get(name, 0)
        for test, bit in table.final_tests:
            if test(name):
                bits |= bit
        for (bit, glob), state in zip(self._matcher._globs, self._states, strict=True):
            if glob.accepts(glob.advance(state, name)):
                bits |= bit
        return bits

    def excludes(self, name: str) -> bool:
        """Whether an entry of this folder is excluded."""
        matched = self.matched(name)
        if not matched & ~self._recorded:
            return self.excluded
        return self._matcher._verdict(self._recorded, matched)[0]

    def enter(self, name: str) -> Folder:
        """The folder of that name in this folder."""
        matcher = self._matcher
        excluded, recorded = matcher._verdict(self._recorded, self.matched(name))
        states = tuple(
            glob.advance(state, name + "/") for (_, glob), state in zip(matcher._globs, self._states, strict=True)
        )
        return Folder(matcher, matcher._below(self._table, name), states, recorded, excluded)

    @property
    def hopeless(self) -> bool:
        """Whether the folder is excluded and nothing inside of it could be brought back."""
        if not self.excluded:
            return False
        alive = self._table.alive
        for (bit, _), state in zip(self._matcher._globs, self._states, strict=True):
            if not state.dead:
                alive |= bit
        # An exception before the last pattern that excludes the folder cannot bring anything back.
        last = self._recorded.bit_length()
        return not (alive & self._matcher._exceptions) >> last


def _compile(pattern: Pattern) -> list[_Component] | Glob:
    try:
        tokens = tokenize(pattern.text)
    except DockerfileError as error:
        error.location = pattern.location
        raise
    parts = split_tokens(tokens)
    if any(_crosses_folders(part) for part in parts):
        return _character_pattern(tokens)
    components: list[_Component] = []
    for number, part in enumerate(parts):
        if len(part) == 2 and part[0] is part[1] is Special.STAR:
            if number == len(parts) - 1:
                components.append(_Wild.BELOW)
            elif components[-1:] != [_Wild.FOLDERS]:
                # Any number of folders twice is any number of folders.
                components.append(_Wild.FOLDERS)
        elif all(isinstance(token, str) for token in part):
            components.append("".join(str(token) for token in part))
        else:
            components.append(compile_tokens(part))
    return components


def _crosses_folders(part: Sequence[Token]) -> bool:
    """Whether a component may match more than one name: `a**b`, or a class that a slash is in."""
    if any(isinstance(token, CharClass) and token.accepts("/") for token in part):
        return True
    return len(part) > 2 and any(left is right is Special.STAR for left, right in pairwise(part))


def _character_pattern(tokens: Sequence[Token]) -> Glob:
    """The pattern as moby reads it character by character: `**` at the end is anything, else any number of folders."""
    # Hardly any ignore file has such patterns.
    from stagewright.dockerfile.glob import Folders, Glob, Many, One

    items: list[Item] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token is Special.STAR and at < len(tokens) and tokens[at] is Special.STAR:
            at += 1
            attached = at < len(tokens) and tokens[at] != "/"
            at += not attached and at < len(tokens)
            literal = all(isinstance(other, str) for other in tokens[at:])
            # `**name` as a whole pattern is compared with the end of the path, not with a name.
            anything = at == len(tokens) or (attached and not items and literal)
            if not (items and isinstance(items[-1], Folders)) or anything:
                items.append(Many(_any) if anything else Folders())
        elif token is Special.STAR:
            items.append(Many(_no_slash))
        elif token is Special.ANY:
            items.append(One(_no_slash))
        elif isinstance(token, CharClass):
            items.append(One(token.accepts))
        else:
            items.append(One(partial(str.__eq__, str(token))))
    return Glob(items)


def _any(char: str) -> bool:
    return True


def _no_slash(char: str) -> bool:
    return char != "/"
