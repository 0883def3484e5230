"""Prints a typed Dockerfile as text that reads back as the same Dockerfile."""

from __future__ import annotations

from collections.abc import Iterator

from stagewright.dockerfile.ast import Dockerfile, Instruction, Stage
from stagewright.dockerfile.directives import CheckOptions, Directives
from stagewright.dockerfile.golang import SPACES
from stagewright.dockerfile.parser import MAX_LINE_BYTES

# Characters a line, so that no line is too long whatever its characters are.
_LINE_CHARS = (MAX_LINE_BYTES - 1) // 4


def print_dockerfile(dockerfile: Dockerfile) -> bytes:
    """The text: directives, then each instruction with its comments, its line and its here-documents."""
    escape = dockerfile.directives.escape
    lines = list(_directives(dockerfile.directives))
    # What follows is no directive any more, even if a comment looks like one.
    lines.append("")
    for arg in dockerfile.meta_args:
        lines += _instruction(arg, escape)
    for stage in dockerfile.stages:
        lines += _commented(stage, escape)
        for instruction in stage.instructions:
            lines += _instruction(instruction, escape)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _directives(directives: Directives) -> Iterator[str]:
    if directives.syntax is not None:
        yield f"# syntax={directives.syntax.value}"
    if directives.escape != "\\":
        yield f"# escape={directives.escape}"
    if directives.check != CheckOptions():
        yield f"# check={_check(directives.check)}"


def _check(check: CheckOptions) -> str:
    options = []
    if check.skip or check.skip_all:
        options.append(f"skip={'all' if check.skip_all else ','.join(check.skip)}")
    if check.experimental or check.experimental_all:
        options.append(f"experimental={'all' if check.experimental_all else ','.join(check.experimental)}")
    if check.error:
        options.append("error=true")
    return ";".join(options)


def _instruction(instruction: Instruction, escape: str) -> Iterator[str]:
    yield from _commented(instruction, escape)
    for heredoc in instruction.heredocs:
        yield f"{heredoc.content}{heredoc.name}"


def _commented(item: Instruction | Stage, escape: str) -> Iterator[str]:
    for comment in item.comments:
        yield f"# {comment}"
    text = item.original
    while len(text) > _LINE_CHARS:
        cut = _cut(text, escape)
        yield text[:cut] + escape
        text = text[cut:]
    # A space that does not count as one at a line's end keeps an escape there from continuing the line.
    yield f"{text}\v" if text.endswith(escape) else text


def _cut(text: str, escape: str) -> int:
    """Where a line may be broken: not behind an escape, and not before what would make a comment or a blank line."""
    for cut in range(_LINE_CHARS, 0, -1):
        rest = text[cut : cut + 1]
        if text[cut - 1] != escape and rest not in ("#", "") and rest not in SPACES:
            return cut
    return _LINE_CHARS
