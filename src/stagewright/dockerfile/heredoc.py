"""Here-documents: recognizing `<<NAME` words. The lines of their bodies are read by the parser."""

from __future__ import annotations

import re

from stagewright.dockerfile.shell import Lexer
from stagewright.errors import DockerfileError
from stagewright.patterns import pattern
from stagewright.records import dataclass

_WORD = pattern(r"[0-9]*<<(-?)[\t\n\f\r ]*+([^<]*)")
_LEADING_TABS = pattern(r"^\t+", re.MULTILINE)

# Delimiters are read with a backslash whatever the file's escape character is, as BuildKit does.
_LINE = Lexer(raw_quotes=True, raw_escapes=True, skip_unset=True)
_NAME = Lexer(skip_unset=True)
_RAW_NAME = Lexer(raw_quotes=True, skip_unset=True)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document.

    `content` is the body as written, line ends included; `expand` says that no part of the delimiter was quoted,
    `chomp` that leading tabs are to be dropped (`<<-`).
    """

    name: str
    expand: bool
    chomp: bool
    content: str = ""

    def text(self) -> str:
        """The body, without the leading tabs of its lines where they are to be dropped."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content


def parse_heredoc(word: str) -> Heredoc | None:
    """The here-document that a word begins, without its body; None if it begins none.

    Raises DockerfileError where the delimiter's quotes do not end.
    """
    match = _WORD.fullmatch(word)
    if match is None or not match[2]:
        return None
    names = _NAME.process_words(match[2], {})
    raw_names = _RAW_NAME.process_words(match[2], {})
    if len(names) != 1 or len(raw_names) != 1:
        return None
    return Heredoc(names[0], _quotes(names[0]) == _quotes(raw_names[0]), match[1] == "-")


def heredocs_in(line: str) -> list[Heredoc]:
    """The here-documents that an instruction's line begins, in order, without their bodies. Raises DockerfileError."""
    if "<<" not in line:
        return []
    try:
        words = _LINE.process_words(line, {})
    except DockerfileError:
        # What is no sequence of shell words begins no here-document; the shell will say what is wrong with it.
        return []
    return [heredoc for word in words if (heredoc := parse_heredoc(word)) is not None]


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
