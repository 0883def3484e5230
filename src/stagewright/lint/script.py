"""The script of a RUN as it stands in the file: edits that take commands and words of it away, or put others in."""

from __future__ import annotations

from collections.abc import Callable

from stagewright.lint.commands import Piece, Word, pieces_of
from stagewright.lint.findings import Edit
from stagewright.lint.source import Source, Step
from stagewright.patterns import pattern
from stagewright.records import dataclass

_FLAGS = pattern(r"[ \t]*RUN(?:[ \t]+--[a-z]+(?:=\S*)?)*[ \t]+", 0x2)
_CONTINUATION = pattern(r"\\[ \t]*\r?\n(?:[ \t]*(?:#[^\n]*)?\r?\n)*(?:[ \t]*#[^\n]*\Z)?")
# What joins a command to the one before it so that either can go.
_JOINS = ("&&", ";", "\n")
_ENDS = ("", "&&", ";", "\n", "}", ")")


@dataclass(frozen=True, slots=True)
class Script:
    """The commands of a RUN, with offsets into the text of the file. With `is_block` a here-document holds them."""

    start: int
    pieces: tuple[Piece, ...]
    is_block: bool

    def begin_with(self, command: str) -> Edit:
        """A command before all others, which go on only if it succeeds."""
        return Edit(self.start, self.start, command + ("\n" if self.is_block else " && \\\n    "))

    def put_before(self, piece: Piece, command: str) -> Edit:
        """A command before another, which goes on only if it succeeds."""
        return Edit(piece.start, piece.start, f"{command} && ")

    def without(
        self, unwanted: Callable[[Word, Piece], bool], cleaning: Callable[[Piece], bool]
    ) -> tuple[Edit, ...] | None:
        """Edits that take away commands that are only `cleaning`, and `unwanted` arguments of the others.

        A command whose arguments are all unwanted goes as a whole. None where that is more than an edit can do.
        """
        edits: list[Edit] = []
        for number, piece in enumerate(self.pieces):
            bad = [word for word in piece.arguments if unwanted(word, piece)]
            wanted = [word for word in piece.arguments if word not in bad and not word.text.startswith("-")]
            if cleaning(piece) or (bad and not wanted and piece.command.program == "rm"):
                edit = self._removal(number)
                if edit is None:
                    return None
                edits.append(edit)
            else:
                edits += [Edit(self._end_before(piece, word), word.end, "") for word in bad]
        return tuple(edits)

    def _end_before(self, piece: Piece, word: Word) -> int:
        return piece.words[piece.words.index(word) - 1].end

    def _removal(self, number: int) -> Edit | None:
        piece = self.pieces[number]
        if piece.after not in _ENDS:
            return None
        if number and piece.before in _JOINS and self.pieces[number - 1].after == piece.before:
            # A comment between the two was about what goes.
            return Edit(self.pieces[number - 1].end, piece.end, "")
        if number + 1 < len(self.pieces) and not piece.before and piece.after in _JOINS:
            return Edit(piece.start, self.pieces[number + 1].start, "")
        return None


def script_of(source: Source, step: Step) -> Script | None:
    """The script of a RUN; None where its text cannot be told from what the file says."""
    run = step.run
    if not run.shell_form or source.dockerfile.directives.escape != "\\":
        return None
    start, end = source.span(run.location)
    text = source.text[start:end]
    if run.heredocs:
        if len(run.heredocs) > 1 or run.heredocs[0].content not in text:
            return None
        at = text.index("\n") + 1
        text = text[at : at + len(run.heredocs[0].content)]
        start += at
    else:
        text = _CONTINUATION.sub(lambda match: " " * len(match[0]), text.rstrip("\r\n"))
        match = _FLAGS.match(text)
        if match is None:
            return None
        start += match.end()
        text = text[match.end() :]
    pieces = tuple(_moved(piece, start) for piece in pieces_of(text))
    if not pieces or tuple(piece.command for piece in pieces) != step.commands:
        return None
    begin = start + len(text) - len(text.lstrip())
    return Script(begin, pieces, bool(run.heredocs))


def _moved(piece: Piece, offset: int) -> Piece:
    words = tuple(Word(word.start + offset, word.end + offset, word.text) for word in piece.words)
    return Piece(piece.command, words, piece.before, piece.after)
