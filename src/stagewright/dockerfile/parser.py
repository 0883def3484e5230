"""From bytes to instructions as text: lines joined, comments and here-documents attached, arguments split.

What an instruction means is not looked at here; `stagewright.dockerfile.instructions` does that.
"""

from __future__ import annotations

from stagewright.dockerfile import arguments
from stagewright.dockerfile.arguments import Arguments
from stagewright.dockerfile.directives import Directives, read_directives
from stagewright.dockerfile.golang import SPACES
from stagewright.dockerfile.heredoc import Heredoc, heredocs_in
from stagewright.errors import DockerfileError, SourceRange, SourceText
from stagewright.records import dataclass, replace

MAX_LINE_BYTES = 65535
_TAKE_HEREDOCS = ("add", "copy", "run")


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction as it is written.

    `keyword` keeps its case; `original` is the line with continuations joined; `comments` are the comment lines
    before it, without `#`. `blank_continuation` is the last line of an instruction that had an empty line between
    continued ones. `child` is the instruction behind ONBUILD.
    """

    keyword: str
    flags: tuple[str, ...]
    arguments: Arguments
    original: str
    location: SourceRange
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    blank_continuation: SourceRange | None = None
    child: Node | None = None


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """A Dockerfile as a row of nodes."""

    source: SourceText
    directives: Directives
    nodes: tuple[Node, ...]


def parse_file(data: bytes, filename: str) -> ParsedFile:
    """Reads a Dockerfile. Raises DockerfileError, with a location, where it cannot be read."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    source = SourceText(filename, data.decode("utf-8", "replace"))
    if not data:
        raise DockerfileError("the Dockerfile cannot be empty", location=SourceRange(source, 1, 1))
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    ends_open = lines.pop()
    lines = [line + "\n" for line in lines]
    if ends_open:
        lines.append(ends_open)
    return _Reader(source, lines).read()


class _Reader:
    """Goes through the lines of one file."""

    def __init__(self, source: SourceText, lines: list[str]) -> None:
        self._source = source
        self._lines = lines
        self._at = 0
        self._directives = read_directives(lines, source)

    def read(self) -> ParsedFile:
        nodes: list[Node] = []
        comments: list[str] = []
        self._at = self._directives.lines
        while (line := self._next()) is not None:
            text = line.rstrip("\r\n").lstrip(SPACES)
            if text.startswith("#"):
                # BuildKit takes away one character, be it the `#` or a space before it.
                comment = line[1:].strip(SPACES)
                if comment:
                    comments.append(comment)
                else:
                    comments = []
            elif text:
                nodes.append(self._instruction(text, tuple(comments)))
                comments = []
        if not nodes:
            last = max(1, len(self._lines))
            raise DockerfileError("file with no instructions", location=SourceRange(self._source, last, last))
        return ParsedFile(self._source, self._directives, tuple(nodes))

    def _next(self) -> str | None:
        if self._at == len(self._lines):
            return None
        line = self._lines[self._at]
        self._at += 1
        # A character has at most four bytes, so a short line need not be encoded to be measured.
        if len(line) > MAX_LINE_BYTES // 4 and _byte_length(line) > MAX_LINE_BYTES:
            location = SourceRange(self._source, self._at, self._at)
            raise DockerfileError(
                f"dockerfile line greater than max allowed size of {MAX_LINE_BYTES}", location=location
            )
        return line

    def _instruction(self, first: str, comments: tuple[str, ...]) -> Node:
        start = self._at
        line, has_blank = self._joined(first)
        location = SourceRange(self._source, start, self._at)
        blank = SourceRange(self._source, self._at, self._at) if has_blank else None
        try:
            node = parse_line(line, self._directives.escape, location, comments, blank)
            heredocs = heredocs_in(line) if _takes_heredocs(node) else []
        except DockerfileError as error:
            raise DockerfileError(error.message, location=location) from None
        if not heredocs:
            return node
        bodies = tuple(replace(heredoc, content=self._body(heredoc, location)) for heredoc in heredocs)
        return replace(node, heredocs=bodies, location=SourceRange(self._source, start, self._at))

    def _joined(self, first: str) -> tuple[str, bool]:
        """The whole line with what it is continued by, and whether an empty line was in between."""
        piece, continued = self._without_escape(first)
        pieces = [piece]
        has_blank = False
        while continued and (line := self._next()) is not None:
            text = line.rstrip("\r\n")
            content = text.lstrip(SPACES)
            if content.startswith("#"):
                continue
            if not content:
                has_blank = True
                continue
            piece, continued = self._without_escape(text)
            pieces.append(piece)
        return "".join(pieces), has_blank

    def _without_escape(self, text: str) -> tuple[str, bool]:
        """The text without the escape character that continues it; one that is escaped itself does not."""
        escape = self._directives.escape
        bare = text.rstrip(" \t")
        if bare.endswith(escape) and not bare.endswith(escape * 2):
            return bare[:-1], True
        return text, False

    def _body(self, heredoc: Heredoc, location: SourceRange) -> str:
        content: list[str] = []
        while (line := self._next()) is not None:
            end = line.rstrip("\r\n")
            if (end.lstrip("\t") if heredoc.chomp else end) == heredoc.name:
                return "".join(content)
            content.append(line)
        raise DockerfileError("unterminated heredoc", location=SourceRange(self._source, location.start, self._at))


def parse_line(
    line: str,
    escape: str,
    location: SourceRange,
    comments: tuple[str, ...] = (),
    blank_continuation: SourceRange | None = None,
) -> Node:
    """One instruction from its joined line. Raises DockerfileError without a location."""
    keyword, flags, rest = arguments.split_command(line, escape)
    child = None
    found = Arguments()
    match keyword.lower():
        case "add" | "copy" | "volume":
            found = arguments.parse_json(rest) or arguments.parse_list(rest)
        case "cmd" | "entrypoint" | "run" | "shell":
            found = arguments.parse_json(rest) or arguments.parse_whole(rest)
        case "from" | "expose":
            found = arguments.parse_list(rest)
        case "maintainer" | "stopsignal" | "user" | "workdir":
            found = arguments.parse_whole(rest)
        case "env" | "label":
            found = arguments.parse_pairs(rest, escape, keyword.upper())
        case "arg":
            found = Arguments(tuple(arguments.split_words(rest, escape)))
        case "healthcheck":
            found = arguments.parse_healthcheck(rest)
        case "onbuild":
            # ONBUILD behind ONBUILD is refused later; a long row of them must not exhaust the stack before that.
            inner = arguments.split_command(rest, escape)[0]
            if inner.lower() == "onbuild":
                child = Node(inner, (), Arguments(), rest, location)
            elif inner:
                child = parse_line(rest, escape, location)
    return Node(keyword, flags, found, line, location, comments, (), blank_continuation, child)


def _takes_heredocs(node: Node) -> bool:
    inner = node.child or node
    return inner.keyword.lower() in _TAKE_HEREDOCS and not inner.arguments.json


def _byte_length(line: str) -> int:
    return len(line.removesuffix("\n").encode("utf-8", "surrogateescape"))
