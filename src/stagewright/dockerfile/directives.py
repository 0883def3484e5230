"""Parser directives: the `# syntax=`, `# escape=` and `# check=` comments that may open a Dockerfile."""

from __future__ import annotations

from collections.abc import Sequence

from stagewright.dockerfile.golang import SPACES, parse_bool, quote
from stagewright.errors import DockerfileError, SourceRange, SourceText
from stagewright.patterns import pattern
from stagewright.records import dataclass

_KEY = pattern(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=")
_NAMES = ("syntax", "escape", "check")
_BLANKS = "\t\n\f\r "


@dataclass(frozen=True, slots=True)
class Directive:
    """A directive: its name in lower case, its value as written."""

    name: str
    value: str
    location: SourceRange


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Which build checks run, and whether a finding fails the build.

    `skip` and `experimental` name rules; `skip_all` and `experimental_all` stand for all rules.
    """

    skip: tuple[str, ...] = ()
    skip_all: bool = False
    experimental: tuple[str, ...] = ()
    experimental_all: bool = False
    error: bool = False


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives of a file. `syntax` keeps its whole value; `lines` is how many lines they take up."""

    syntax: Directive | None
    escape: str
    check: CheckOptions
    lines: int


def read_directives(lines: Sequence[str], source: SourceText) -> Directives:
    """The directives at the top of the lines.

    They end at the first line that is none of them; a `#!` line before them hides `escape` alone. Raises
    DockerfileError for one that is given twice and for values that mean nothing.
    """
    # One line more than there are directives can matter: a repeated one.
    count = len(_NAMES) + 1
    found = _scan([line.rstrip("\r\n").lstrip(SPACES) for line in lines[:count]], source, 1)
    escape = next((directive for directive in found if directive.name == "escape"), None)
    if escape is not None and escape.value not in ("\\", "`"):
        raise DockerfileError(f"invalid escape token '{escape.value}' does not match ` or \\", location=escape.location)
    skipped = bool(lines) and lines[0].startswith("#!")
    # What chooses the frontend and the checks does not look at indented lines.
    unindented = _scan([line.rstrip("\r\n") for line in lines[skipped : skipped + count]], source, 1 + skipped)
    named = {directive.name: directive for directive in unindented}
    check = CheckOptions()
    if "check" in named:
        try:
            check = parse_check_comment(named["check"].value)
        except DockerfileError as error:
            error.put_before("failed to parse check options")
            error.location = named["check"].location
            raise
    return Directives(named.get("syntax"), escape.value if escape else "\\", check, len(found))


def _scan(lines: Sequence[str], source: SourceText, first: int) -> list[Directive]:
    found: list[Directive] = []
    for number, line in enumerate(lines, first):
        match = _KEY.match(line[1:].lstrip(SPACES)) if line.startswith("#") else None
        if match is None or match[1].lower() not in _NAMES:
            break
        rest = match.string[match.end() :]
        # The value must not be empty: of blanks alone, the last is the value.
        value = rest.strip(_BLANKS) or rest[-1:]
        if not value:
            break
        name = match[1].lower()
        location = SourceRange(source, number, number)
        if any(other.name == name for other in found):
            raise DockerfileError(f"only one {name} parser directive can be used", location=location)
        found.append(Directive(name, value, location))
    return found


def parse_check_comment(text: str) -> CheckOptions:
    """The options of a `check` comment: behind the first space people write why. Raises DockerfileError."""
    return parse_check(text.partition(" ")[0])


def parse_check(text: str) -> CheckOptions:
    """Which checks run: `skip=`, `experimental=` and `error=`, separated by semicolons.

    Raises DockerfileError for any other option.
    """
    lists: dict[str, tuple[str, ...]] = {"skip": (), "experimental": ()}
    error = False
    for part in text.strip(SPACES).split(";", 2) if text.strip(SPACES) else ():
        key, separator, value = part.partition("=")
        key, value = key.strip(SPACES), value.strip(SPACES)
        if not separator:
            raise DockerfileError(f"invalid check option {quote(part)}")
        if key in lists:
            lists[key] = tuple(rule.strip(SPACES) for rule in value.split(","))
        elif key == "error":
            try:
                error = parse_bool(value)
            except ValueError as problem:
                raise DockerfileError(f"failed to parse check option {quote(part)}: {problem}") from None
        else:
            raise DockerfileError(f"invalid check option {quote(key)}")
    skip, experimental = lists["skip"], lists["experimental"]
    return CheckOptions(
        skip=() if skip == ("all",) else skip,
        skip_all=skip == ("all",),
        experimental=() if experimental == ("all",) else experimental,
        experimental_all=experimental == ("all",),
        error=error,
    )
