"""The shell-like words of the language: quotes, escapes and the forms of `$NAME`, as BuildKit's shell lexer reads them.

Not a shell: no command substitution, no arithmetic, no globbing. Errors are DockerfileError without a location.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stagewright.dockerfile.golang import SPACES, quote
from stagewright.errors import DockerfileError
from stagewright.patterns import pattern
from stagewright.records import dataclass, field

if TYPE_CHECKING:
    from stagewright.dockerfile.glob import Glob, Item

_SPECIAL_PARAMETERS = "@*#?-$!0"
# Python's stack bounds the nesting of ${a:-${b:-...}}; nobody writes more than a few levels.
_MAX_DEPTH = 100
# A few lines that each double a variable would fill any memory; no process takes a variable of a tenth of this.
_MAX_GROWTH = 4 << 20
_MAX_GROWTH_OF_FILE = 128 << 20
_SPACE = pattern(f"[{re.escape(SPACES)}]")
# What means nothing wherever it stands: no space, quote, escape or end of an operand.
_PLAIN = pattern(rf"""[^{re.escape(SPACES)}$<'"`\\}}/]+""")


@dataclass(frozen=True, slots=True)
class Expansion:
    """A processed word: the text, the same split at unquoted spaces, and the names that were looked up."""

    text: str
    words: list[str]
    used: frozenset[str]
    unset: frozenset[str]


class Budget:
    """What all substitutions for one file may add to it: thousands of lines, each within bounds, fill any memory."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MAX_GROWTH_OF_FILE

    def spend(self, length: int) -> None:
        """Count so many characters. Raises DockerfileError where they are too many."""
        self._left -= length
        if self._left < 0:
            raise DockerfileError("what is substituted in all of the Dockerfile is too long")


@dataclass(frozen=True, slots=True)
class Lexer:
    """How words are processed.

    `escape` is the escape character. `raw_quotes` and `raw_escapes` leave quotes and escape characters in the
    result; `skip_quotes` takes quotes for ordinary characters; `skip_unset` leaves a variable that is not set as it
    is written. `budget` bounds what is substituted; the lexers of one file share it.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    skip_quotes: bool = False
    skip_unset: bool = False
    budget: Budget = field(default_factory=Budget, repr=False, compare=False)

    def process_word(self, word: str, env: Mapping[str, str]) -> str:
        """The word with variables replaced, quotes and escapes taken away; spaces stay. Raises DockerfileError."""
        return self.expand(word, env).text

    def process_words(self, word: str, env: Mapping[str, str]) -> list[str]:
        """The same, then split at the spaces that are not quoted. Raises DockerfileError."""
        return self.expand(word, env).words

    def expand(self, word: str, env: Mapping[str, str]) -> Expansion:
        """The processed word with the variables that it named. Raises DockerfileError."""
        run = _Run(self, word, env)
        try:
            text, words = run.until("", self.raw_escapes)
        except _SyntaxProblem as problem:
            raise DockerfileError(f"failed to process {quote(word)}: {problem}") from None
        return Expansion(text, words, frozenset(run.used), frozenset(run.unset))


class _SyntaxProblem(Exception):
    pass


class _Words:
    """Splits text into words as it is produced."""

    __slots__ = ("_pieces", "words")

    def __init__(self) -> None:
        self.words: list[str] = []
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        """Text whose spaces separate words."""
        first, *others = _SPACE.split(text)
        self._pieces.append(first)
        for other in others:
            self.end()
            self._pieces.append(other)

    def add_raw(self, text: str) -> None:
        """Text that is part of the word, spaces and all."""
        self._pieces.append(text)

    def end(self) -> None:
        """Ends the word; an empty one, even a quoted one, is none."""
        word = "".join(self._pieces)
        self._pieces.clear()
        if word:
            self.words.append(word)


class _Run:
    """One pass over one word."""

    __slots__ = ("_at", "_depth", "_env", "_grown", "_lexer", "_raw_escapes", "_source", "unset", "used")

    def __init__(self, lexer: Lexer, source: str, env: Mapping[str, str]) -> None:
        self._lexer = lexer
        self._source = source
        self._env = env
        self._at = 0
        self._depth = 0
        self._grown = 0
        self._raw_escapes = lexer.raw_escapes
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._source[self._at : self._at + 1]
        self._at += 1
        return char

    def _ended(self) -> bool:
        return self._at >= len(self._source)

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Processes up to and with the character `stop`, or up to the end where it is empty."""
        before, self._raw_escapes = self._raw_escapes, raw_escapes
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _SyntaxProblem("substitutions are nested too deeply")
        try:
            return self._until(stop)
        finally:
            self._depth -= 1
            self._raw_escapes = before

    def _until(self, stop: str) -> tuple[str, list[str]]:
        result: list[str] = []
        words = _Words()
        quotes = "" if self._lexer.skip_quotes else "'\""
        while not self._ended():
            if plain := _PLAIN.match(self._source, self._at):
                self._at = plain.end()
                result.append(plain[0])
                words.add_raw(plain[0])
                continue
            char = self._peek()
            if char == stop:
                self._at += 1
                words.end()
                return "".join(result), words.words
            if char == "$":
                piece = self._dollar()
                words.add(piece)
            elif char in quotes:
                piece = self._single_quoted() if char == "'" else self._double_quoted()
                words.add_raw(piece)
            elif char == "<":
                piece = self._redirection()
                words.add_raw(piece)
            elif char == self._lexer.escape:
                piece = self._escaped()
                words.add_raw(piece)
            else:
                piece = self._next()
                words.add(piece)
            result.append(piece)
        if stop:
            raise _SyntaxProblem(f"unexpected end of statement while looking for matching {stop}")
        words.end()
        return "".join(result), words.words

    def _escaped(self) -> str:
        escape = self._next()
        return (escape if self._raw_escapes else "") + self._next()

    def _redirection(self) -> str:
        """`<`, or `<<` with the blanks behind it: they belong to the word, so that `<< EOF` begins a here-document."""
        start = self._at
        self._at += 1
        if self._peek() == "<":
            self._at += 1
            while self._peek() and self._peek() in " \t\r":
                self._at += 1
        return self._source[start : self._at]

    def _single_quoted(self) -> str:
        end = self._source.find("'", self._at + 1)
        if end < 0:
            raise _SyntaxProblem("unexpected end of statement while looking for matching single-quote")
        start, self._at = self._at, end + 1
        return self._source[start : end + 1] if self._lexer.raw_quotes else self._source[start + 1 : end]

    def _double_quoted(self) -> str:
        mark = self._next()
        result = [mark] if self._lexer.raw_quotes else []
        while not self._ended():
            char = self._peek()
            if char == "$":
                result.append(self._dollar())
                continue
            self._at += 1
            if char == '"':
                if self._lexer.raw_quotes:
                    result.append(char)
                return "".join(result)
            if char == self._lexer.escape:
                if self._raw_escapes:
                    result.append(char)
                if self._ended():
                    break
                if self._peek() in ('"', "$", self._lexer.escape):
                    char = self._next()
            result.append(char)
        raise _SyntaxProblem("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._lookup(name)
            return f"${name}" if value is None and self._lexer.skip_unset else value or ""
        self._at += 1
        if self._ended():
            raise _SyntaxProblem("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise _SyntaxProblem("syntax error: bad substitution")
        name = self._name()
        operator = self._next()
        if not operator:
            raise _SyntaxProblem("syntax error: missing '}'")
        if operator == "}":
            value = self._lookup(name)
            return f"${{{name}}}" if value is None and self._lexer.skip_unset else value or ""
        if operator == "/":
            return self._replaced(name)
        return self._modified(name, operator)

    def _name(self) -> str:
        """Letters, digits and `_`; digits alone if it begins with one; or one special parameter."""
        source, start = self._source, self._at
        end = start
        if source[start : start + 1].isdecimal():
            while source[end : end + 1].isdecimal():
                end += 1
        elif start < len(source) and source[start] in _SPECIAL_PARAMETERS:
            end = start + 1
        else:
            while end < len(source) and (source[end].isalpha() or source[end].isdecimal() or source[end] == "_"):
                end += 1
        self._at = end
        return source[start:end]

    def _lookup(self, name: str) -> str | None:
        value = self._env.get(name)
        (self.unset if value is None else self.used).add(name)
        self._grow(len(value or ""))
        return value

    def _grow(self, length: int) -> None:
        self._lexer.budget.spend(length)
        self._grown += length
        if self._grown > _MAX_GROWTH:
            raise _SyntaxProblem("what is substituted is too long")

    def _operand(self, stop: str, raw_escapes: bool, unterminated: str = "missing '}'") -> str:
        try:
            return self.until(stop, raw_escapes)[0]
        except _SyntaxProblem:
            if self._ended():
                raise _SyntaxProblem(f"syntax error: {unterminated}") from None
            raise

    def _modified(self, name: str, operator: str) -> str:
        """`-`, `+`, `?` with and without a colon, `#`, `%` and their greedy twins."""
        modifier = operator
        null_is_unset = operator == ":"
        if null_is_unset:
            operator = self._next()
            modifier += operator
        if operator and operator not in ("-+?" if null_is_unset else "-+?#%"):
            raise _SyntaxProblem(f"unsupported modifier ({modifier}) in substitution")
        word = self._operand("}", operator in "#%")
        value = self._lookup(name)
        if value is None and self._lexer.skip_unset:
            return f"${{{name}{modifier}{word}}}"
        missing = value is None or (null_is_unset and value == "")
        if operator == "-":
            return word if missing else value or ""
        if operator == "+":
            return "" if missing else word
        if operator == "?":
            if missing:
                default = f"is not allowed to be {'unset' if value is None else 'empty'}"
                raise _SyntaxProblem(f"{name}: {word or default}")
            return value or ""
        return _trimmed(value or "", word, operator)

    def _replaced(self, name: str) -> str:
        """`${name/pattern/text}` and `${name//pattern/text}`."""
        every = self._peek() == "/"
        self._at += every
        pattern = self._operand("/", True, "missing '/' in ${}")
        text = self._operand("}", True)
        value = self._lookup(name)
        if value is None and self._lexer.skip_unset:
            return f"${{{name}/{pattern}/{text}}}"
        self._grow(len(value or "") * len(text) if every else len(text))
        return _replace(value or "", pattern, text, every)


def _not_newline(char: str) -> bool:
    return char != "\n"


def _glob(pattern: str) -> Glob:
    """A shell pattern of `*`, `?` and backslash escapes; brackets are not special."""
    # Few Dockerfiles have such patterns.
    from stagewright.dockerfile.glob import Glob, Many, One

    items: list[Item] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not (items and isinstance(items[-1], Many)):
                items.append(Many(_not_newline))
            continue
        if char == "?":
            items.append(One(_not_newline))
            continue
        if char == "\\":
            following = pattern[at : at + 1]
            # `/` and `}` had to be escaped to get here; for the pattern the backslash means nothing.
            if following in ("/", "}") and following:
                continue
            if following not in ("*", "?", "\\"):
                raise _SyntaxProblem(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{following}'")
            char = following
            at += 1
        items.append(One(char.__eq__))
    return Glob(items)


def _trimmed(value: str, pattern: str, operator: str) -> str:
    """The value without its shortest (operator doubled: longest) beginning (`#`) or end (`%`) that matches."""
    greedy = pattern.startswith(operator)
    glob = _glob(pattern[greedy:])
    if operator == "%":
        return _without_prefix(value[::-1], glob.reversed(), greedy)[::-1]
    return _without_prefix(value, glob, greedy)


def _without_prefix(value: str, glob: Glob, greedy: bool) -> str:
    ends = glob.ends(value)
    end = max(ends, default=0) if greedy else next(ends, 0)
    return value[end:]


def _replace(value: str, pattern: str, text: str, every: bool) -> str:
    """The value with the leftmost longest match (`every`: all of them) replaced."""
    glob = _glob(pattern)
    # Where matches of the reversed pattern end in the reversed value, those of the pattern begin.
    starts = [len(value) - end for end in reversed(glob.reversed().anywhere(value[::-1]))]
    pieces = []
    copied = searched = 0
    for start in starts:
        if start < searched:
            continue
        end = max(glob.ends(value, start))
        # An empty match right behind a match is none.
        if end > copied or start == 0:
            pieces += [value[copied:start], _template(text, value[start:end]) if every else text]
            copied = end
        searched = max(end, start + 1)
        if not every:
            break
    return "".join([*pieces, value[copied:]])


def _template(text: str, matched: str) -> str:
    """The replacement for one match: `${0}` and `$0` are the match, `$$` a dollar, other names are empty.

    BuildKit hands the text to Go's regexp.ReplaceAllString, which reads it so.
    """
    if "$" not in text:
        return text
    out = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        out.append(text[at:dollar])
        at = dollar + 1
        if text.startswith("$", at):
            out.append("$")
            at += 1
            continue
        braced = text.startswith("{", at)
        start = end = at + braced
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        if start == end or (braced and not text.startswith("}", end)):
            out.append("$")
            continue
        if text[start:end] == "0":
            out.append(matched)
        at = end + braced
    return "".join([*out, text[at:]])
