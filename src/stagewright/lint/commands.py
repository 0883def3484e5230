"""The commands of a RUN line, as far as they can be told without running a shell."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from stagewright.dockerfile.ast import Run
from stagewright.patterns import pattern
from stagewright.records import dataclass

_TOKEN = pattern(
    r"""(?P<operator>&&|\|\||;;|[;|&\n(){}]|(?<![\w$])!)
    |(?P<space>[ \t\r]+|\\\n)
    |(?P<comment>\#[^\n]*)
    |(?P<word>(?:"(?:\\.|[^"\\])*"|'[^']*'|\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|`[^`]*`|\\.|[^\s;|&(){}"'`\\])+)
    |(?P<other>.)""",
    0x40,  # re.VERBOSE
)
_ASSIGNMENT = pattern(r"[A-Za-z_][A-Za-z0-9_]*=.*", 0x10)
_KEYWORDS = frozenset(
    {"if", "then", "elif", "else", "fi", "do", "done", "while", "until", "for", "case", "esac", "time"}
)
_WRAPPERS = frozenset({"sudo", "exec", "command", "env", "nice", "corepack"})
_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh"})


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a script: where it stands, and what it is without quotes."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A simple command where it stands in a script.

    `words` are all of it but shell keywords, so also assignments and programs that start others, like `env`.
    `before` is the operator or keyword that it follows, "" at the start; `after` the operator behind it, "" at the end.
    """

    command: Command
    words: tuple[Word, ...]
    before: str
    after: str

    @property
    def start(self) -> int:
        return self.words[0].start

    @property
    def end(self) -> int:
        return self.words[-1].end

    @property
    def arguments(self) -> tuple[Word, ...]:
        """Where the arguments of the command stand."""
        return self.words[len(self.words) - len(self.command.arguments) :]


@dataclass(frozen=True, slots=True)
class Command:
    """A simple command: its program's base name, and its arguments without quotes."""

    program: str
    arguments: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments that are no flags."""
        return tuple(word for word in self.arguments if not word.startswith("-"))

    def has(self, *flags: str) -> bool:
        """Whether one of the flags is given, alone or with a value behind `=`."""
        return any(word == flag or word.startswith(f"{flag}=") for word in self.arguments for flag in flags)

    def says(self, *words: str) -> bool:
        """Whether its first arguments that are no flags are these."""
        return self.words[: len(words)] == words


def commands_of(run: Run) -> list[Command]:
    """All commands of a RUN, in order; those of its here-document where a shell reads one."""
    if not run.shell_form:
        if run.command and posixpath.basename(run.command[0]) in _SHELLS and len(run.command) > 2:
            return list(split_commands(run.command[-1]))
        return [_command(list(run.command))] if run.command else []
    text = run.command[0] if run.command else ""
    if run.heredocs:
        # `RUN <<EOF` is a script; with a command before it the text is that command's input.
        first = text.strip()
        if first.startswith("<<") and not run.heredocs[0].content.startswith("#!"):
            return list(split_commands(run.heredocs[0].text()))
    return list(split_commands(text))


def split_commands(text: str) -> Iterator[Command]:
    """The simple commands of a shell script; what is inside of substitutions is not looked at."""
    return (piece.command for piece in pieces_of(text))


def pieces_of(text: str) -> Iterator[Piece]:
    """The same with where they stand."""
    words: list[Word] = []
    before = ""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "word":
            words.append(Word(match.start(), match.end(), _unquoted(match[0])))
        elif kind == "operator" or kind == "comment":
            if words:
                yield _piece(words, before, match[0])
            words = []
            before = match[0]
    if words:
        yield _piece(words, before, "")


def _piece(words: list[Word], before: str, after: str) -> Piece:
    command = _command([word.text for word in words])
    first = next((at for at, word in enumerate(words) if word.text not in _KEYWORDS), len(words) - 1)
    if first:
        before = words[first - 1].text
    return Piece(command, tuple(words[first:]), before, after)


def _command(words: list[str]) -> Command:
    at = 0
    while at < len(words) - 1:
        word = words[at]
        wraps = posixpath.basename(word) in _WRAPPERS and not words[at + 1].startswith("-")
        if word in _KEYWORDS or wraps or _ASSIGNMENT.fullmatch(word):
            at += 1
        else:
            break
    program = posixpath.basename(words[at])
    if program.startswith("python") and words[at + 1 : at + 2] == ["-m"] and len(words) > at + 2:
        program, at = words[at + 2], at + 2
    return Command(program, tuple(words[at + 1 :]))


def _unquoted(word: str) -> str:
    if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" and word[0] not in word[1:-1]:
        return word[1:-1]
    return word.replace('"', "").replace("'", "")
