"""The linter's view of a Dockerfile: its stages with what they stand on, and offsets into its text for edits."""

from __future__ import annotations

import os

from stagewright.dockerfile.ast import Arg, Dockerfile, Env, Instruction, Run, Stage, User
from stagewright.dockerfile.ignore import Matcher, patterns_from
from stagewright.errors import DockerfileError, SourceRange
from stagewright.lint.commands import Command, commands_of
from stagewright.lint.findings import Edit
from stagewright.patterns import pattern
from stagewright.records import dataclass

_RUN_KEYWORD = pattern(r"[ \t]*RUN(?=[ \t])", 0x2)
_MAX_CONTEXT_FILE = 4 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """A RUN with its commands, and the stage that it stands in."""

    stage: Stage
    run: Run
    commands: tuple[Command, ...]


class Source:
    """One Dockerfile. `context` is the folder of the build context, to look into it; None where it is not known."""

    def __init__(self, dockerfile: Dockerfile, context: str | None) -> None:
        self.dockerfile = dockerfile
        self.text = dockerfile.source.text
        self.stages = dockerfile.stages
        self.final = dockerfile.stages[-1]
        self._context = context
        self._ignored: Matcher | None = None
        self._steps: dict[int, list[Step]] = {}
        self._by_name: dict[str, Stage] = {}
        self._bases: dict[int, Stage | None] = {}
        for stage in self.stages:
            self._bases[id(stage)] = self._by_name.get(stage.base_name.lower())
            if stage.name:
                self._by_name[stage.name] = stage
        self._lines = [0]
        for line in self.text.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)

    # --- stages ---------------------------------------------------------------------------------------------------

    def base(self, stage: Stage) -> Stage | None:
        """The stage that this one is built on; None for an image."""
        return self._bases[id(stage)]

    def chain(self, stage: Stage) -> list[Stage]:
        """The stages whose layers an image of this stage has, the lowest first."""
        chain = [stage]
        while (below := self.base(chain[0])) is not None:
            chain.insert(0, below)
        return chain

    def image(self, stage: Stage) -> str:
        """The image that the stage's chain begins with, as written."""
        return self.chain(stage)[0].base_name

    def steps(self, stage: Stage) -> list[Step]:
        """The RUN instructions of one stage."""
        if id(stage) not in self._steps:
            runs = (item for item in stage.instructions if isinstance(item, Run))
            self._steps[id(stage)] = [Step(stage, run, tuple(commands_of(run))) for run in runs]
        return self._steps[id(stage)]

    def all_steps(self) -> list[Step]:
        """The RUN instructions of all stages."""
        return [step for stage in self.stages for step in self.steps(stage)]

    def user_before(self, stage: Stage, instruction: Instruction) -> str:
        """The USER in force at an instruction; "" where the Dockerfile sets none."""
        user = ""
        for part in self.chain(stage):
            for item in part.instructions:
                if item is instruction:
                    return user
                if isinstance(item, User):
                    user = item.text
        return user

    def variables_before(self, stage: Stage, instruction: Instruction) -> dict[str, str]:
        """The ENV and the ARG with defaults in force at an instruction, with values as written."""
        found: dict[str, str] = {}
        for part in self.chain(stage):
            for item in part.instructions:
                if item is instruction:
                    return found
                if isinstance(item, Env):
                    found.update({pair.name: pair.value for pair in item.pairs})
                elif isinstance(item, Arg):
                    found.update({one.name: one.default for one in item.definitions if one.default is not None})
        return found

    # --- the build context ----------------------------------------------------------------------------------------

    def read(self, name: str) -> str | None:
        """The text of a file of the build context; None where there is none or no context is known."""
        if self._context is None:
            return None
        path = os.path.join(self._context, name)
        if not os.path.isfile(path) or os.path.getsize(path) > _MAX_CONTEXT_FILE:
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def has(self, name: str) -> bool | None:
        """Whether the build context has a file or folder that COPY finds; None where no context is known."""
        if self._context is None:
            return None
        if self._ignored is None:
            text = self.read(".dockerignore") or ""
            try:
                self._ignored = Matcher(patterns_from(text.splitlines()))
            except DockerfileError:
                self._ignored = Matcher(())
        return os.path.lexists(os.path.join(self._context, name)) and not self._ignored.matches(name)

    # --- edits ----------------------------------------------------------------------------------------------------

    def span(self, location: SourceRange) -> tuple[int, int]:
        """The offsets of whole lines, the last line's end included."""
        return self._lines[location.start - 1], min(self._lines[location.end], len(self.text))

    def lines(self, location: SourceRange) -> str:
        """The text of these lines."""
        start, end = self.span(location)
        return self.text[start:end]

    def substitute(self, location: SourceRange, expression: str, replacement: str, count: int = 0) -> tuple[Edit, ...]:
        """Edits for the matches of a regular expression in these lines; `replacement` may name groups."""
        start, _ = self.span(location)
        edits = []
        for match in pattern(expression).finditer(self.lines(location)):
            edits.append(Edit(start + match.start(), start + match.end(), match.expand(replacement)))
            if count and len(edits) == count:
                break
        return tuple(edits)

    def add_flags(self, run: Run, flags: list[str]) -> tuple[Edit, ...]:
        """Put flags behind the word RUN, each on a line of its own."""
        start, _ = self.span(run.location)
        match = _RUN_KEYWORD.match(self.lines(run.location))
        if match is None:
            return ()
        escape = self.dockerfile.directives.escape
        at = start + match.end()
        return (Edit(at, at, "".join(f" {flag} {escape}\n   " for flag in flags)),)

    def insert_before(self, location: SourceRange, text: str) -> Edit:
        """A new line before these."""
        start, _ = self.span(location)
        return Edit(start, start, f"{text}\n")

    def remove(self, location: SourceRange) -> Edit:
        """Take whole lines away."""
        return Edit(*self.span(location), "")
