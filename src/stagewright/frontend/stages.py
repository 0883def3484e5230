"""Which stages there are, what each is built on and copies from, and which of them the target needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stagewright.dockerfile.ast import Copy, Dockerfile, Instruction, Run, Stage
from stagewright.dockerfile.golang import parse_int
from stagewright.dockerfile.shell import Lexer
from stagewright.dockerfile.suggest import suggest, with_suggestion
from stagewright.errors import DockerfileError, SourceRange, StagewrightError
from stagewright.frontend.contexts import NamedContext
from stagewright.frontend.options import Options
from stagewright.image.platform import Platform, parse_platform
from stagewright.records import dataclass, field

SCRATCH = "scratch"
_COMMON_IMAGES = ("alpine", "busybox", "centos", "debian", "fedora", "golang", "ubuntu")


@dataclass(eq=False, slots=True)
class StagePlan:
    """A stage of the Dockerfile, or an image that something is copied from (`index` -1).

    `base` is the stage that it is built on; without one `image` names an image, or is `scratch`. `instructions` are
    the stage's own, behind those that ONBUILD triggers of its base brought (`triggers` of them). `copied` and `mounted`
    are what COPY and RUN take files from, by the name that they use: an index means something to COPY alone.
    `problems` is what keeps the stage from being built, should it be needed.
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
    copied: dict[str, StagePlan] = field(default_factory=dict)
    mounted: dict[str, StagePlan] = field(default_factory=dict)
    problems: list[DockerfileError] = field(default_factory=list)
    ignore_cache: bool = False
    context: NamedContext | None = None
    replaced: bool = False

    @property
    def is_scratch(self) -> bool:
        return self.base is None and self.image == SCRATCH

    @property
    def is_image(self) -> bool:
        """Whether it starts from the files and the config of an image."""
        if self.base is not None or self.image == SCRATCH:
            return False
        return self.context is None or self.context.kind in ("image", "layout")

    @property
    def needs(self) -> list[StagePlan]:
        """What has to be built before it."""
        return [*([self.base] if self.base else []), *self.copied.values(), *self.mounted.values()]


class StageGraph:
    """All stages of a Dockerfile with their dependencies. Raises DockerfileError, located, for names that mislead."""

    def __init__(self, dockerfile: Dockerfile, lexer: Lexer, global_args: Mapping[str, str], options: Options) -> None:
        self._lexer = lexer
        self._global_args = global_args
        self._contexts = options.contexts
        self._default_platform = options.platform
        self._all_stages = options.all_stages
        self._stages: list[StagePlan] = []
        self._by_name: dict[str, StagePlan] = {}
        self._images: dict[str, StagePlan] = {}
        for index, stage in enumerate(dockerfile.stages):
            self._add(index, stage, options)
        self.target = self._find_target(options.target)
        for plan in self._stages:
            self._link(plan, plan.instructions)
        if len(self._stages) == 1 and not self._has_sources(self._stages[0]):
            self._stages[0].label = ""

    def _has_sources(self, plan: StagePlan) -> bool:
        """Whether it takes files from elsewhere; to BuildKit, that is what any mount does."""
        return bool(self._images) or any(isinstance(item, Run) and item.mounts for item in plan.instructions)

    def _add(self, index: int, stage: Stage, options: Options) -> None:
        image = self._expand(stage.base_name, stage.location)
        if not image:
            raise DockerfileError(f"base name ({stage.base_name}) should not be blank", location=stage.location)
        plan = StagePlan(
            index=index,
            name=stage.name,
            label=stage.name or f"stage-{index}",
            image=image,
            platform=self._platform(stage) if stage.platform else None,
            location=stage.location,
            # Names are in lower case, and here BuildKit does not look past that.
            base=self._by_name.get(image),
            instructions=list(stage.instructions),
            ignore_cache=options.no_cache or stage.name in [name.lower() for name in options.no_cache_filter],
        )
        context = self._contexts.find(stage.name, plan.platform or self._default_platform) if stage.name else None
        if context is not None:
            plan.base, plan.instructions, plan.replaced = None, [], True
            self._stand_in(plan, context)
        elif plan.base is None:
            self._stand_in(plan, self._contexts.find_image(image, plan.platform or self._default_platform))
        self._stages.append(plan)
        if stage.name:
            self._by_name[stage.name] = plan

    def _stand_in(self, plan: StagePlan, context: NamedContext | None) -> None:
        """Put a named context in the place of what the plan starts from."""
        plan.context = context
        if context is None:
            return
        if context.kind == "image":
            plan.image = context.value
        elif context.kind == "stage":
            plan.base = self._stage_of(context, plan.location)
        else:
            # What the name would have meant without the context.
            plan.image = ""

    def _stage_of(self, context: NamedContext, location: SourceRange | None) -> StagePlan:
        stage = self._by_name.get(context.value.lower())
        if stage is None:
            message = f'named context "{context.name}": target stage "{context.value}" could not be found'
            message = with_suggestion(message, context.value, list(self._by_name), case_sensitive=False)
            raise DockerfileError(message, location=location, hint="it has to be defined before it is used")
        return stage

    def _platform(self, stage: Stage) -> Platform:
        text = self._expand(stage.platform, stage.location)
        if not text:
            message = f"empty platform value from expression {stage.platform}"
            for name in sorted(self._lexer.expand(stage.platform, self._global_args).unset):
                message = with_suggestion(message, name, self._global_args)
            raise DockerfileError(message, location=stage.location)
        try:
            return parse_platform(text)
        except StagewrightError as error:
            message = f"failed to parse platform {stage.platform}: {error.message}"
            raise DockerfileError(message, location=stage.location, hint=error.hint) from None

    def _expand(self, word: str, location: SourceRange) -> str:
        try:
            return self._lexer.process_word(word, self._global_args)
        except DockerfileError as error:
            error.location = error.location or location
            raise

    def _find_target(self, name: str | None) -> StagePlan:
        if not name:
            return self._stages[-1]
        plan = self._by_name.get(name.lower())
        if plan is None:
            names = [stage.name for stage in self._stages if stage.name]
            message = with_suggestion(f'target stage "{name}" could not be found', name, names, case_sensitive=False)
            raise DockerfileError(message, hint=f"the stages are: {', '.join(names)}" if names else None)
        return plan

    # --- sources --------------------------------------------------------------------------------------------------

    def add_triggers(self, plan: StagePlan, instructions: list[Instruction]) -> bool:
        """Put the instructions of ONBUILD triggers before the stage's own; whether they bring sources."""
        plan.instructions[:0] = instructions
        plan.triggers += len(instructions)
        known = len(plan.needs)
        self._link(plan, instructions)
        return len(plan.needs) > known

    def _link(self, plan: StagePlan, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            location = instruction.location
            if isinstance(instruction, Copy) and instruction.from_name:
                name = instruction.from_name
                plan.copied[name] = self._checked(plan, self._copy_source(name, location), name, location, "copy")
            elif isinstance(instruction, Run):
                for mount in instruction.mounts:
                    if name := mount.from_name:
                        source = self._by_name.get(name.lower()) or self._image(name, location)
                        plan.mounted[name] = self._checked(plan, source, name, location, "mount")

    def _copy_source(self, name: str, location: SourceRange) -> StagePlan:
        try:
            literal = self._lexer.process_word(name, {}) == name
        except DockerfileError:
            literal = False
        if not literal:
            raise DockerfileError(
                "variable expansion is not supported for --from",
                location=location,
                hint="define a new stage with FROM using ARG from global scope as a workaround",
            )
        try:
            index = parse_int(name, 64)
        except ValueError:
            return self._by_name.get(name.lower()) or self._image(name, location)
        if not 0 <= index < len(self._stages):
            last = len(self._stages) - 1
            hint = "there is one stage, index 0" if last == 0 else f"the stages have the indexes 0 to {last}"
            raise DockerfileError(f"invalid stage index {index}", location=location, hint=hint)
        return self._stages[index]

    def _checked(self, plan: StagePlan, source: StagePlan, name: str, location: SourceRange, verb: str) -> StagePlan:
        if source is plan:
            raise DockerfileError(f'stage "{plan.label}" cannot {verb} from itself', location=location)
        if source.index > plan.index:
            message = f'cannot {verb} from stage "{name}", it needs to be defined before current stage "{plan.label}"'
            plan.problems.append(DockerfileError(message, location=location))
        return source

    def _image(self, name: str, location: SourceRange) -> StagePlan:
        if name not in self._images:
            context = self._contexts.find_image(name, self._default_platform)
            if context is not None and context.kind == "stage":
                return self._stage_of(context, location)
            plan = StagePlan(-1, "", "", name, None, location)
            self._stand_in(plan, context)
            self._images[name] = plan
        return self._images[name]

    def hint(self, plan: StagePlan) -> str | None:
        """What to tell the user should there be no such image: what the name was perhaps meant to be."""
        name = plan.image
        if plan.index < 0 and name.isdigit():
            return "a mount takes a stage by its name, not by its index"
        stages = [other.name for other in self._by_name.values() if plan.index < 0 or other.index < plan.index]
        if name.lower() in stages:
            return f"did you mean the stage {name.lower()}?"
        images = [*_COMMON_IMAGES, *(f"{image}:latest" for image in _COMMON_IMAGES)]
        best = suggest(name, [*stages, *images], case_sensitive=False)
        if best is None:
            return None
        return f"did you mean the stage {best}?" if best in stages else f"did you mean {best}?"

    def needed(self) -> list[StagePlan]:
        """The target, or all stages, and all that they are built on or copy from, each behind what it needs.

        Raises DockerfileError where one of them cannot be built.
        """
        order: list[StagePlan] = []
        seen: set[int] = set()
        stack = [(plan, False) for plan in (reversed(self._stages) if self._all_stages else [self.target])]
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
            stack.extend((source, False) for source in reversed(plan.needs) if id(source) not in seen)
        return order
