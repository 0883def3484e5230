"""The Dockerfile of a recorded build: the lines of its instructions, and where a variable of a step comes from."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.history.steps import Step
from stagewright.patterns import pattern
from stagewright.records import dataclass

_VARIABLE = pattern(r"\$(?:\{(\w+)|(\w+))")
_PLAIN_VARIABLE = pattern(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Origin:
    """The instruction that sets something: its keyword, its first line and the value as it is written, None for an ARG
    without any."""

    keyword: str
    line: int
    value: str | None = None


class Recipe:
    """A Dockerfile's text, of which the parts that are asked for are looked at, and the arguments of its build."""

    __slots__ = ("__dict__", "_args", "text")

    def __init__(self, text: str, args: Mapping[str, str]) -> None:
        self.text = text
        self._args = args

    @cached_property
    def lines(self) -> list[str]:
        return self.text.replace("\r\n", "\n").split("\n")

    def written(self, step: Step) -> str:
        """A step's instruction as it is written; one that a base image brought stands nowhere in the file."""
        if step.lines is None or step.text.startswith("ONBUILD "):
            return step.text
        start, end = step.lines
        return "\n".join(line.rstrip() for line in self.lines[start - 1 : end]).strip()

    def variable(self, step: Step, name: str) -> Origin | None:
        """The last instruction above the step that sets a variable of it; None for one that stands nowhere."""
        for instruction in self._above(step):
            if isinstance(instruction, ast.Env):
                for pair in reversed(instruction.pairs):
                    if pair.name == name:
                        return Origin("ENV", instruction.location.start, pair.value)
            if isinstance(instruction, ast.Arg) and (found := _argument(instruction, name)) is not None:
                return found if found.value is not None else self._global_argument(name) or found
        return self._global_argument(name)

    def setting(self, step: Step, kind: type[ast.Instruction]) -> Origin | None:
        """The last instruction of a kind above the step; its value is what is written behind the keyword."""
        found = next((item for item in self._above(step) if isinstance(item, kind)), None)
        if found is None:
            return None
        start, end = found.location.start, found.location.end
        text = " ".join(self.lines[start - 1 : end])
        return Origin(kind.__name__.upper(), start, text.strip().partition(" ")[2].strip())

    @cached_property
    def stage_names(self) -> list[str]:
        """The names that stages are given."""
        return [stage.name for stage in (self._parsed.stages if self._parsed else ()) if stage.name]

    def stage_of(self, step: Step) -> int:
        """The number of the stage whose instruction the step is."""
        return bisect_right(self._stage_starts, step.lines[0] if step.lines else 0) - 1

    @cached_property
    def _stage_starts(self) -> list[int]:
        return [stage.location.start for stage in (self._parsed.stages if self._parsed else ())]

    def variables_in(self, step: Step) -> list[str]:
        """The variables that a step's instruction uses."""
        return variables_in(self.written(step))

    def _global_argument(self, name: str) -> Origin | None:
        found = (_argument(argument, name) for argument in (self._parsed.meta_args if self._parsed else ()))
        return next((origin for origin in found if origin is not None), None)

    def _base_name(self, stage: ast.Stage) -> str:
        """What a stage starts from, in lower case, with the arguments of the build in the place of their names."""

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            origin = self._global_argument(name)
            return self._args.get(name, (origin and origin.value) or "")

        return _PLAIN_VARIABLE.sub(value, stage.base_name).lower()

    def _above(self, step: Step) -> Iterator[ast.Instruction]:
        """The instructions above a step, of its stage and those that it is built on, the nearest first."""
        if self._parsed is None or step.lines is None:
            return
        stages = list(self._parsed.stages)
        index = next(
            (number for number in reversed(range(len(stages))) if stages[number].location.start <= step.lines[0]), None
        )
        while index is not None:
            stage = stages[index]
            for instruction in reversed(stage.instructions):
                if instruction.location.start < step.lines[0]:
                    yield instruction
            names = [other.name for other in stages[:index]]
            base = self._base_name(stage)
            index = names.index(base) if base in names else None

    @cached_property
    def _parsed(self) -> ast.Dockerfile | None:
        try:
            return parse(self.text.encode(errors="surrogateescape"))
        except DockerfileError:
            return None


def variables_in(text: str) -> list[str]:
    """The variables that a text uses, each once."""
    return list(dict.fromkeys(a or b for a, b in _VARIABLE.findall(text)))


def _argument(instruction: ast.Arg, name: str) -> Origin | None:
    defaults = [item.default for item in instruction.definitions if item.name == name]
    return Origin("ARG", instruction.location.start, defaults[-1]) if defaults else None
