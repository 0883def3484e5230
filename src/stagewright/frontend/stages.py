"""Which stages there are, what each is built on and copies from, and which of them the target needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stagewright.dockerfile.ast import Copy, Dockerfile, Instruction, Run, Stage
from stagewright.dockerfile.shell import Lexer
from stagewright.dockerfile.suggest import suggest, with_suggestion
from stagewright.errors import DockerfileError, SourceRange
from stagewright.frontend.options import Options
from stagewright.image.platform import Platform, parse_platform
from stagewright.records import dataclass, field

SCRATCH = "scratch"


@dataclass(eq=False, slots=True)
class StagePlan:
    """A stage of the Dockerfile, or an image that something is copied from (`index` -1).

    `base` is the stage that it is built on; without one `image` names an image, or is `scratch`. `instructions` are
    the stage's own, behind those that ONBUILD triggers of its base brought. `sources` are what its instructions copy
    or mount from, by the name that they use; `problems` is what keeps it from being built, should it be needed.
    """

    index: int
    name: str
    label: str
    image: str
    platform: Platform | None
    location: SourceRange | None
    base: StagePlan | None = None
    instructions: list[Instruction] = field(default_factory=list)
    triggers: int = 0
    sources: dict[str, StagePlan] = field(default_factory=dict)
    problems: list[DockerfileError] = field(default_factory=list)
    ignore_cache: bool = False

    @property
    def is_scratch(self) -> bool:
        return self.base is None and self.image == SCRATCH


class StageGraph:
    """All stages of a Dockerfile with their dependencies. Raises DockerfileError, located, for names that mislead."""

    def __init__(self, dockerfile: Dockerfile, lexer: Lexer, global_args: Mapping[str, str], options: Options) -> None:
        self._stages: list[StagePlan] = []
        self._by_name: dict[str, StagePlan] = {}
        self._images: dict[str, StagePlan] = {}
        for index, stage in enumerate(dockerfile.stages):
            self._add(index, stage, lexer, global_args, options)
        self.target = self._find_target(options.target)
        # As in BuildKit, one stage alone goes without a label, unless it copies from an image.
        for plan in self._stages:
            self._link(plan, plan.instructions)
        if len(self._stages) == 1 and not self._images:
            self._stages[0].label = ""

    def _add(self, index: int, stage: Stage, lexer: Lexer, global_args: Mapping[str, str], options: Options) -> None:
        location = stage.location
        image = _expand(lexer, stage.base_name, global_args, location)
        if not image:
            raise DockerfileError(f"base name ({stage.base_name}) should not be blank", location=location)
        platform = None
        if stage.platform:
            text = _expand(lexer, stage.platform, global_args, location)
            if not text:
                raise DockerfileError(f"empty platform value from expression {stage.platform}", location=location)
            platform = parse_platform(text)
        plan = StagePlan(
            index=index,
            name=stage.name,
            label=stage.name or f"stage-{index}",
            image=image,
            platform=platform,
            location=location,
            base=self._by_name.get(image.lower()),
            instructions=list(stage.instructions),
            ignore_cache=options.no_cache or stage.name.lower() in [name.lower() for name in options.no_cache_filter],
        )
        self._stages.append(plan)
        if stage.name:
            self._by_name[stage.name.lower()] = plan

    def _find_target(self, name: str | None) -> StagePlan:
        if name is None:
            return self._stages[-1]
        plan = self._by_name.get(name.lower())
        if plan is None:
            names = [stage.name for stage in self._stages if stage.name]
            message = with_suggestion(f'target stage "{name}" could not be found', name, names, case_sensitive=False)
            raise DockerfileError(message, hint=f"the stages are: {', '.join(names)}" if names else None)
        return plan

    def add_triggers(self, plan: StagePlan, instructions: list[Instruction]) -> None:
        """Put the instructions of ONBUILD triggers before the stage's own."""
        plan.instructions[:0] = instructions
        plan.triggers += len(instructions)
        self._link(plan, instructions)

    def _link(self, plan: StagePlan, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Copy) and instruction.from_name:
                plan.sources[instruction.from_name] = self._source(plan, instruction.from_name, instruction.location)
            elif isinstance(instruction, Run):
                for mount in instruction.mounts:
                    if mount.from_name:
                        plan.sources[mount.from_name] = self._source(plan, mount.from_name, instruction.location)

    def _source(self, plan: StagePlan, name: str, location: SourceRange) -> StagePlan:
        if "$" in name:
            raise DockerfileError(
                "variable expansion is not supported for --from",
                location=location,
                hint="define a new stage with FROM using ARG from global scope as a workaround",
            )
        if name.isascii() and name.isdigit():
            if int(name) >= len(self._stages):
                raise DockerfileError(f"invalid stage index {name}", location=location, hint=self._indexes())
            source = self._stages[int(name)]
        else:
            found = self._by_name.get(name.lower())
            if found is None:
                return self._image(name, location)
            source = found
        if source is plan:
            raise DockerfileError(f'stage "{plan.label}" cannot copy from itself', location=location)
        if source.index > plan.index:
            plan.problems.append(
                DockerfileError(
                    f'cannot copy from stage "{name}", it needs to be defined before current stage "{plan.label}"',
                    location=location,
                )
            )
        return source

    def _indexes(self) -> str:
        last = len(self._stages) - 1
        return "there is one stage, index 0" if last == 0 else f"the stages have the indexes 0 to {last}"

    def _image(self, name: str, location: SourceRange) -> StagePlan:
        if name not in self._images:
            self._images[name] = StagePlan(-1, "", "", name, None, location)
        return self._images[name]

    def similar_stage(self, name: str) -> str | None:
        """The stage whose name an image's name was perhaps meant to be."""
        return suggest(name, self._by_name, case_sensitive=False)

    def needed(self) -> list[StagePlan]:
        """The target and all that it is built on or copies from, each behind what it needs.

        Raises DockerfileError where one of them cannot be built.
        """
        order: list[StagePlan] = []
        seen: set[int] = set()
        stack = [(self.target, False)]
        while stack:
            plan, expanded = stack.pop()
            if expanded:
                order.append(plan)
                continue
            if id(plan) in seen:
                continue
            if plan.problems:
                raise plan.problems[0]
            seen.add(id(plan))
            stack.append((plan, True))
            wanted = [*([plan.base] if plan.base else []), *plan.sources.values()]
            stack.extend((source, False) for source in reversed(wanted) if id(source) not in seen)
        return order


def _expand(lexer: Lexer, word: str, env: Mapping[str, str], location: SourceRange) -> str:
    try:
        return lexer.process_word(word, env)
    except DockerfileError as error:
        error.location = error.location or location
        raise
