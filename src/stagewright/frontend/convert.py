"""The conversion of a Dockerfile into a graph: stages in their order, each instruction applied to its stage's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stagewright.dockerfile import ast
from stagewright.dockerfile.golang import parse_int
from stagewright.dockerfile.instructions import parse_trigger
from stagewright.dockerfile.shell import Lexer
from stagewright.errors import DockerfileError, StagewrightError
from stagewright.frontend import metadata
from stagewright.frontend.checks import check_bases, check_default_bases, check_file, check_platform
from stagewright.frontend.contexts import as_files
from stagewright.frontend.options import BaseImage, ImageRequest, Options, Plan, Resolver
from stagewright.frontend.rules import Finding, Findings, check_options
from stagewright.frontend.run import apply_run
from stagewright.frontend.stagechecks import StageChecks, ignored_by
from stagewright.frontend.stages import StageGraph, StagePlan
from stagewright.frontend.state import DEFAULT_PATH, StageState, empty_image, image_vertex
from stagewright.frontend.transfer import apply_transfer, apply_workdir
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.image.config import ImageConfig
from stagewright.image.platform import Platform, host_platform
from stagewright.records import replace

_LAYER_INSTRUCTIONS = (ast.Run, ast.Copy, ast.Add, ast.Workdir)
_EPOCH = "SOURCE_DATE_EPOCH"
# The end of the year 9999: there are no later dates in JSON.
_LAST_SECOND = 253402300799


def convert(
    dockerfile: ast.Dockerfile, options: Options, resolve: Resolver, report: Callable[[Finding], None] | None = None
) -> Plan:
    """The graph and the image config of the target stage.

    `resolve` is called with all images that a step of the way needs, at once; `report` with each thing that a build
    check finds. Raises DockerfileError with its lines for what is wrong or cannot be run, and for findings where the
    Dockerfile wants that (`# check=error=true`); also whatever `resolve` raises.
    """
    return Conversion(dockerfile, options, resolve, report).convert()


def global_arguments(
    dockerfile: ast.Dockerfile, platform: Platform, target: str | None, build_args: Mapping[str, str], lexer: Lexer
) -> dict[str, str]:
    """What FROM lines may use: the platforms, and the ARGs before the first FROM. Raises DockerfileError."""
    values = {
        **_platform_args("BUILD", host_platform()),
        **_platform_args("TARGET", platform),
        "TARGETSTAGE": target or dockerfile.stages[-1].name or "default",
    }
    args = {name: build_args.get(name, value) for name, value in values.items()}
    for instruction in dockerfile.meta_args:
        for definition in instruction.definitions:
            if definition.name in build_args:
                args[definition.name] = build_args[definition.name]
            elif definition.default is not None:
                try:
                    args[definition.name] = lexer.process_word(definition.default, args)
                except DockerfileError as error:
                    raise _located(error, instruction) from None
    return args


def _platform_args(prefix: str, platform: Platform) -> dict[str, str]:
    return {
        f"{prefix}PLATFORM": str(platform),
        f"{prefix}OS": platform.os,
        f"{prefix}OSVERSION": platform.os_version,
        f"{prefix}ARCH": platform.architecture,
        f"{prefix}VARIANT": platform.variant,
    }


def _located(error: DockerfileError, instruction: ast.Instruction) -> DockerfileError:
    error.location = error.location or instruction.location
    return error


class Conversion:
    """One conversion, for those who ask for more than its plan. Arguments and errors are those of `convert`."""

    def __init__(
        self,
        dockerfile: ast.Dockerfile,
        options: Options,
        resolve: Resolver,
        report: Callable[[Finding], None] | None = None,
    ) -> None:
        self.dockerfile = dockerfile
        self._resolve = resolve
        self._lexer = Lexer(escape=dockerfile.directives.escape)
        build_args = dict(options.build_args)
        self.global_args = global_arguments(dockerfile, options.platform, options.target, build_args, self._lexer)
        self._epoch = _epoch(build_args, self.global_args)
        if self._epoch is None:
            # An empty one is as good as none.
            build_args.pop(_EPOCH, None)
            self.global_args.pop(_EPOCH, None)
        self._options = replace(options, build_args=build_args)
        options_of_checks = check_options(dockerfile.directives.check, build_args)
        self._findings = Findings(options_of_checks, report or (lambda finding: None))
        self._checks: dict[int, StageChecks] = {}
        self._check_file()
        self._graph = StageGraph(dockerfile, self._lexer, self.global_args, options)
        self._images: dict[tuple[str, str, str], BaseImage] = {}
        self._states: dict[int, StageState] = {}
        self._triggered: set[int] = set()

    @property
    def build_args(self) -> Mapping[str, str]:
        """The build arguments that count."""
        return self._options.build_args

    @property
    def target(self) -> StagePlan:
        """The stage that is built."""
        return self._graph.target

    def state(self, plan: StagePlan) -> StageState:
        """What a needed stage came to, once all was converted."""
        return self._states[id(plan)]

    def convert(self) -> Plan:
        """The plan of the target."""
        needed = self._resolve_stages()
        # In the order of the file, as BuildKit names them; what a stage needs always stands before it.
        for plan in sorted(needed, key=lambda plan: plan.index):
            self._states[id(plan)] = self._build_stage(plan)
        state = self._states[id(self._graph.target)]
        state.configure(labels={**state.config.labels, **self._options.labels})
        image = replace(state.image, platform=self._image_platform(state.image.platform))
        self._findings.finish()
        return Plan(as_files(state.vertex), image, self._epoch, state.history_lines)

    def _image_platform(self, own: Platform) -> Platform:
        """The platform in the image's config: that of its base, unless the user asked for one."""
        wanted = self._options.platform
        if not self._options.platform_requested:
            return own.normalized()
        same = (wanted.os, wanted.architecture) == (own.os, own.architecture)
        variant = wanted.variant or (own.variant if same else "")
        os_version = wanted.os_version or (own.os_version if same else "")
        features = wanted.os_features or own.os_features
        return Platform(wanted.os, wanted.architecture, variant, os_version, features).normalized()

    # --- checks ---------------------------------------------------------------------------------------------------

    def _check_file(self) -> None:
        options = self._options
        check_file(self.dockerfile, self._findings)
        try:
            defaults = global_arguments(self.dockerfile, options.platform, options.target, {}, self._lexer)
        except DockerfileError:
            # The defaults are wrong, but build arguments replace them.
            pass
        else:
            check_default_bases(self.dockerfile, self._lexer, defaults, self._findings)
        check_bases(self.dockerfile, self._lexer, self.global_args, self._findings)

    def _stage_checks(self, plan: StagePlan) -> StageChecks:
        base = self._checks.get(id(plan.base))
        self._checks[id(plan)] = StageChecks(
            self._findings,
            self._lexer,
            self._options.build_args,
            ignored_by(self._options.ignore_patterns),
            workdir_set=base is not None and base.workdir_set,
        )
        return self._checks[id(plan)]

    # --- images and triggers --------------------------------------------------------------------------------------

    def _resolve_stages(self) -> list[StagePlan]:
        """All stages that the target needs, their images resolved. Triggers of a base may need further images."""
        while True:
            needed = self._graph.needed()
            self._resolve_images(needed)
            if not self._add_triggers(needed):
                self._check_platforms(needed)
                return needed

    def _check_platforms(self, plans: list[StagePlan]) -> None:
        """Look whether the images are for the platforms that they were asked for."""
        for plan in plans:
            if plan.is_image and plan.context is None and plan.location is not None:
                image = self._image(plan).config
                if image.diff_ids:
                    check_platform(plan.image, self._platform(plan), image.platform, plan.location, self._findings)

    def _resolve_images(self, needed: list[StagePlan]) -> None:
        requests: dict[tuple[str, str, str], ImageRequest] = {}
        for plan in needed:
            if plan.is_image:
                key = self._image_key(plan)
                # The hint looks at all stages, so it is for the first of those that begin with the same image.
                if key not in self._images and key not in requests:
                    hint = self._graph.hint(plan) if plan.context is None else None
                    requests[key] = ImageRequest(plan.image, self._platform(plan), plan.location, hint, plan.context)
        if requests:
            self._images.update(zip(requests, self._resolve(list(requests.values())), strict=True))

    def _add_triggers(self, needed: list[StagePlan]) -> bool:
        """Whether triggers brought new sources."""
        changed = False
        for plan in needed:
            if plan.index < 0 or plan.replaced or id(plan) in self._triggered:
                continue
            self._triggered.add(id(plan))
            expressions: list[str] = []
            if plan.base is not None:
                own = plan.base.instructions
                expressions = [item.text for item in own if isinstance(item, ast.Onbuild)]
            elif plan.is_image:
                expressions = list(self._image(plan).config.config.on_build)
            if expressions:
                assert plan.location is not None
                triggers = [parse_trigger(expression, plan.location) for expression in expressions]
                changed = self._graph.add_triggers(plan, triggers) or changed
        return changed

    def _platform(self, plan: StagePlan) -> Platform:
        return plan.platform or self._options.platform

    def _image(self, plan: StagePlan) -> BaseImage:
        return self._images[self._image_key(plan)]

    def _image_key(self, plan: StagePlan) -> tuple[str, str, str]:
        name = plan.image if plan.context is None else plan.context.value
        return name, str(self._platform(plan)), plan.context.name if plan.context is not None else ""

    # --- stages ---------------------------------------------------------------------------------------------------

    def _build_stage(self, plan: StagePlan) -> StageState:
        state = self._start(plan)
        if plan.index < 0:
            return state
        checks = self._stage_checks(plan)
        for number, instruction in enumerate(plan.instructions):
            checks.check(state, instruction)
            try:
                self._apply(state, plan, instruction, trigger=number < plan.triggers)
            except DockerfileError as error:
                raise _located(error, instruction) from None
            state.placed_at(instruction.location)
        return state

    def _start(self, plan: StagePlan) -> StageState:
        own = plan.instructions[plan.triggers :]
        # Triggers count whatever they are; BuildKit does so too.
        steps = plan.triggers + sum(isinstance(instruction, _LAYER_INSTRUCTIONS) for instruction in own)
        if plan.base is not None:
            base = self._states[id(plan.base)]
            image = replace(base.image, config=replace(base.config, on_build=()))
            state = replace(base, name=plan.label, image=image, env=dict(base.env), build_args=list(base.build_args))
            state.cmd_set, state.steps, state.steps_total = False, 0, steps
        elif plan.is_image:
            state = self._start_from_image(plan, self._platform(plan), steps)
        else:
            state = self._start_from_nothing(plan, steps)
        if not plan.replaced and plan.index >= 0:
            state.vertex = as_files(state.vertex)
            if not any(item.startswith("PATH=") for item in state.config.env):
                state.configure(env=(*state.config.env, f"PATH={DEFAULT_PATH}"))
        state.see_image_env()
        state.ignore_cache, state.epoch = plan.ignore_cache, self._epoch
        return state

    def _start_from_nothing(self, plan: StagePlan, steps: int) -> StageState:
        """A stage without the config of any image, and perhaps with the files of a named context."""
        platform = self._options.platform
        image = ImageConfig(platform=platform) if plan.replaced else empty_image(platform)
        state = StageState(platform, plan.label, image, steps_total=steps)
        if plan.context is not None and not plan.is_scratch:
            state.vertex = plan.context.vertex()
            state.steps_total += plan.index >= 0
        return state

    def _start_from_image(self, plan: StagePlan, platform: Platform, steps: int) -> StageState:
        base = self._image(plan)
        config = replace(base.config.config, on_build=())
        state = StageState(platform, plan.label, replace(base.config, config=config, created=None))
        state.placed_at(None)
        state.steps_total = steps + 1 if plan.index >= 0 else 0
        if base.config.diff_ids:
            name = state.step_name(f"FROM {base.pinned}") if plan.context is None else plan.context.image_title
            meta = Metadata(name, location=plan.location, stage=plan.label or None)
            state.vertex = image_vertex(base.pinned, platform, meta)
        if config.working_dir:
            state.change_folder(config.working_dir)
        return state

    def _apply(self, state: StageState, plan: StagePlan, instruction: ast.Instruction, *, trigger: bool) -> None:
        def expand(word: str) -> str:
            return self._lexer.process_word(word, state.env)

        def copied(name: str) -> Vertex | None:
            return self._states[id(plan.copied[name])].vertex

        def mounted(name: str) -> Vertex | None:
            return self._states[id(plan.mounted[name])].vertex

        def name_of(text: str) -> str:
            keyword, _, rest = text.partition(" ")
            return state.step_name(f"{keyword.upper()} {rest}", trigger=trigger)

        def name_expanded(text: str) -> str:
            try:
                return name_of(expand(text))
            except DockerfileError:
                return name_of(text)

        match instruction:
            case ast.Run():
                apply_run(state, instruction, self._lexer, self._options, mounted, name_of)
            case ast.Copy() | ast.Add():
                budget = self._lexer.budget
                apply_transfer(state, instruction, expand, self._options, copied, name_expanded, budget)
            case ast.Workdir():
                apply_workdir(state, instruction, expand, name_expanded)
            case ast.Arg():
                metadata.apply_arg(state, instruction, self._lexer, self._options.build_args, self.global_args)
            case ast.Env():
                metadata.apply_env(state, instruction, expand)
            case ast.Label():
                metadata.apply_label(state, instruction, expand)
            case ast.Cmd():
                metadata.apply_cmd(state, instruction)
            case ast.Entrypoint():
                metadata.apply_entrypoint(state, instruction)
            case ast.User():
                metadata.apply_user(state, instruction, expand)
            case ast.Expose():
                metadata.apply_expose(state, instruction, self._lexer)
            case ast.Volume():
                metadata.apply_volume(state, instruction, expand)
            case ast.StopSignal():
                metadata.apply_stopsignal(state, instruction, expand)
            case ast.Healthcheck():
                metadata.apply_healthcheck(state, instruction)
            case ast.Shell():
                metadata.apply_shell(state, instruction)
            case ast.Maintainer():
                metadata.apply_maintainer(state, instruction)
            case ast.Onbuild():
                metadata.apply_onbuild(state, instruction)


def _epoch(build_args: Mapping[str, str], global_args: Mapping[str, str]) -> int | None:
    text = build_args.get(_EPOCH, global_args.get(_EPOCH, ""))
    if not text:
        return None
    try:
        seconds = parse_int(text, 64)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= _LAST_SECOND:
        raise StagewrightError(f"invalid {_EPOCH}: {text}", hint="give seconds since 1970")
    return seconds
