"""A wildcard matcher whose time is linear in the text whatever the pattern: its states are the bits of one integer.

Backtracking regular expressions take exponential time on patterns such as `*a*a*a*a*b`; those come from build
arguments and ignore files, so they are not to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from stagewright.records import dataclass

CharTest = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class One:
    """Exactly one character that passes the test."""

    accepts: CharTest


@dataclass(frozen=True, slots=True)
class Many:
    """Any number of characters that all pass the test."""

    accepts: CharTest


@dataclass(frozen=True, slots=True)
class Folders:
    """Nothing, or anything that ends with a slash."""


Item = One | Many | Folders


@dataclass(frozen=True, slots=True)
class State:
    """The items of a pattern that could come next after some text, one bit each, and the Folders in the midst of which
    the text may have ended."""

    items: int
    folders: int

    @property
    def dead(self) -> bool:
        """Whether nothing that follows can lead to a match."""
        return not (self.items or self.folders)


class Glob:
    """A pattern: items in a row."""

    __slots__ = ("_accept", "_folders", "_items", "_masks", "_nullable", "start")

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = tuple(items)
        self._accept = 1 << len(self._items)
        self._folders = sum(1 << at for at, item in enumerate(self._items) if isinstance(item, Folders))
        self._nullable = sum(1 << at for at, item in enumerate(self._items) if not isinstance(item, One))
        self._masks: dict[str, tuple[int, int]] = {}
        self.start = State(self._closure(1), 0)

    def reversed(self) -> Glob:
        """The pattern that matches the reversed texts; not for patterns with Folders."""
        return Glob(self._items[::-1])

    def advance(self, state: State, text: str) -> State:
        """The state after some more text."""
        items, folders = state.items, state.folders
        for char in text:
            one, many = self._masks.get(char) or self._mask(char)
            folders |= items & self._folders
            items = (items & one) << 1 | items & many
            if char == "/":
                items |= folders << 1
            items = self._closure(items)
            if not items and not folders:
                break
        return State(items, folders)

    def accepts(self, state: State) -> bool:
        """Whether the text up to this state matches."""
        return bool(state.items & self._accept)

    def fullmatch(self, text: str) -> bool:
        """Whether the whole text matches."""
        return self.accepts(self.advance(self.start, text))

    def ends(self, text: str, start: int = 0) -> Iterator[int]:
        """Every index, rising, at which a match that begins at `start` may end."""
        state = self.start
        for at in range(start, len(text) + 1):
            if self.accepts(state):
                yield at
            if at == len(text) or state.dead:
                return
            state = self.advance(state, text[at])

    def anywhere(self, text: str) -> list[int]:
        """Every index, rising, at which a match that begins anywhere ends."""
        found = []
        state = self.start
        for at in range(len(text) + 1):
            if self.accepts(state):
                found.append(at)
            if at < len(text):
                moved = self.advance(state, text[at])
                state = State(moved.items | self.start.items, moved.folders)
        return found

    def _mask(self, char: str) -> tuple[int, int]:
        one = many = 0
        for at, item in enumerate(self._items):
            if isinstance(item, One) and item.accepts(char):
                one |= 1 << at
            elif isinstance(item, Many) and item.accepts(char):
                many |= 1 << at
        self._masks[char] = one, many
        return one, many

    def _closure(self, items: int) -> int:
        # Within a run of items that may match nothing, the lowest reached one reaches all above it and the one behind
        # the run: that is where the carry of this addition goes.
        nullable = self._nullable
        reached = items & nullable
        return items | ((reached + nullable) ^ nullable) | reached
