"""The Dockerfile of a recorded build: the lines of its instructions, and where a variable of a step comes from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.history.steps import Step
from stagewright.patterns import pattern
from stagewright.records import dataclass

_VARIABLE = pattern(r"\$(?:\{(\w+)|(\w+))")


@dataclass(frozen=True, slots=True)
class Origin:
    """The instruction that sets something: its keyword, its first line and its text."""

    keyword: str
    line: int
    text: str


class Recipe:
    """A Dockerfile's text, of which the parts that are asked for are looked at."""

    __slots__ = ("__dict__", "text")

    def __init__(self, text: str) -> None:
        self.text = text

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
        """The last instruction above the step that sets a variable of it; None for one of a base image."""
        for instruction in self._above(step):
            if isinstance(instruction, ast.Env) and any(pair.name == name for pair in instruction.pairs):
                return self._origin("ENV", instruction)
            if isinstance(instruction, ast.Arg) and any(item.name == name for item in instruction.definitions):
                plain = any(item.name == name and item.default is None for item in instruction.definitions)
                return (self._global_argument(name) if plain else None) or self._origin("ARG", instruction)
        return self._global_argument(name)

    def setting(self, step: Step, kind: type[ast.Instruction]) -> Origin | None:
        """The last instruction of a kind above the step."""
        found = next((item for item in self._above(step) if isinstance(item, kind)), None)
        return None if found is None else self._origin(kind.__name__.upper(), found)

    def variables_in(self, step: Step) -> list[str]:
        """The variables that a step's instruction uses."""
        return list(dict.fromkeys(a or b for a, b in _VARIABLE.findall(self.written(step))))

    def _global_argument(self, name: str) -> Origin | None:
        for argument in self._parsed.meta_args if self._parsed else ():
            if any(item.name == name for item in argument.definitions):
                return self._origin("ARG", argument)
        return None

    def _origin(self, keyword: str, instruction: ast.Instruction) -> Origin:
        location = instruction.location
        return Origin(keyword, location.start, "\n".join(self.lines[location.start - 1 : location.end]).strip())

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
            index = names.index(stage.base_name.lower()) if stage.base_name.lower() in names else None

    @cached_property
    def _parsed(self) -> ast.Dockerfile | None:
        try:
            return parse(self.text.encode(errors="surrogateescape"))
        except DockerfileError:
            return None
