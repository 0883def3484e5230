"""The conversion of a Dockerfile into a graph: stages in their order, each instruction applied to its stage's state."""

from __future__ import annotations

from collections.abc import Mapping

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse_trigger
from stagewright.dockerfile.shell import Lexer
from stagewright.errors import DockerfileError, StagewrightError
from stagewright.frontend import metadata
from stagewright.frontend.options import BaseImage, ImageRequest, Options, Plan, Resolver
from stagewright.frontend.run import apply_run
from stagewright.frontend.stages import StageGraph, StagePlan
from stagewright.frontend.state import DEFAULT_PATH, StageState, empty_image, image_vertex, split_env
from stagewright.frontend.transfer import absolute, apply_transfer, apply_workdir
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.image.platform import Platform, host_platform
from stagewright.records import replace

_LAYER_INSTRUCTIONS = (ast.Run, ast.Copy, ast.Add, ast.Workdir)


def convert(dockerfile: ast.Dockerfile, options: Options, resolve: Resolver) -> Plan:
    """The graph and the image config of the target stage.

    `resolve` is called with all images that a step of the way needs, at once. Raises DockerfileError with its lines
    for what is wrong or cannot be run, and whatever `resolve` raises.
    """
    return _Conversion(dockerfile, options, resolve).convert()


def global_arguments(dockerfile: ast.Dockerfile, options: Options, lexer: Lexer) -> dict[str, str]:
    """What FROM lines may use: the platforms, and the ARGs before the first FROM."""
    values = {
        **_platform_args("BUILD", host_platform()),
        **_platform_args("TARGET", options.platform),
        "TARGETSTAGE": options.target or dockerfile.stages[-1].name or "default",
    }
    args = {name: options.build_args.get(name, value) for name, value in values.items()}
    for instruction in dockerfile.meta_args:
        for definition in instruction.definitions:
            if definition.name in options.build_args:
                args[definition.name] = options.build_args[definition.name]
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


class _Conversion:
    def __init__(self, dockerfile: ast.Dockerfile, options: Options, resolve: Resolver) -> None:
        self._dockerfile = dockerfile
        self._resolve = resolve
        self._lexer = Lexer(escape=dockerfile.directives.escape)
        self._global_args = global_arguments(dockerfile, options, self._lexer)
        self._options = replace(options, epoch=_epoch(options, self._global_args))
        self._graph = StageGraph(dockerfile, self._lexer, self._global_args, options)
        self._images: dict[tuple[str, str], BaseImage] = {}
        self._states: dict[int, StageState] = {}
        self._triggered: set[int] = set()

    def convert(self) -> Plan:
        needed = self._resolve_stages()
        # In the order of the file, as BuildKit names them; what a stage needs always stands before it.
        for plan in sorted(needed, key=lambda plan: plan.index):
            self._states[id(plan)] = self._build_stage(plan)
        state = self._states[id(self._graph.target)]
        state.configure(labels={**state.config.labels, **self._options.labels})
        return Plan(state.vertex, state.image, self._options.epoch)

    # --- images and triggers --------------------------------------------------------------------------------------

    def _resolve_stages(self) -> list[StagePlan]:
        """All stages that the target needs, their images resolved. Triggers of a base may need further images."""
        while True:
            needed = self._graph.needed()
            self._resolve_images(needed)
            if not self._add_triggers(needed):
                return needed

    def _resolve_images(self, needed: list[StagePlan]) -> None:
        requests: dict[tuple[str, str], ImageRequest] = {}
        for plan in needed:
            if plan.base is None and not plan.is_scratch:
                key = (plan.image, str(self._platform(plan)))
                if key not in self._images:
                    similar = self._graph.similar_stage(plan.image)
                    hint = f"did you mean the stage {similar}?" if similar else None
                    requests.setdefault(key, ImageRequest(plan.image, self._platform(plan), plan.location, hint))
        if requests:
            self._images.update(zip(requests, self._resolve(list(requests.values())), strict=True))

    def _add_triggers(self, needed: list[StagePlan]) -> bool:
        """Whether triggers brought new sources."""
        changed = False
        for plan in needed:
            if plan.index < 0 or id(plan) in self._triggered:
                continue
            self._triggered.add(id(plan))
            expressions: list[str] = []
            if plan.base is not None:
                own = plan.base.instructions
                expressions = [item.text for item in own if isinstance(item, ast.Onbuild)]
            elif not plan.is_scratch:
                expressions = list(self._image(plan).config.config.on_build)
            if expressions:
                assert plan.location is not None
                triggers = [parse_trigger(expression, plan.location) for expression in expressions]
                self._graph.add_triggers(plan, triggers)
                changed = changed or bool(plan.sources)
        return changed

    def _platform(self, plan: StagePlan) -> Platform:
        return plan.platform or self._options.platform

    def _image(self, plan: StagePlan) -> BaseImage:
        return self._images[plan.image, str(self._platform(plan))]

    # --- stages ---------------------------------------------------------------------------------------------------

    def _build_stage(self, plan: StagePlan) -> StageState:
        state = self._start(plan)
        if plan.index < 0:
            return state
        for number, instruction in enumerate(plan.instructions):
            try:
                self._apply(state, plan, instruction, trigger=number < plan.triggers)
            except DockerfileError as error:
                raise _located(error, instruction) from None
        return state

    def _start(self, plan: StagePlan) -> StageState:
        layers = sum(isinstance(instruction, _LAYER_INSTRUCTIONS) for instruction in plan.instructions)
        platform = self._platform(plan)
        if plan.base is not None:
            base = self._states[id(plan.base)]
            image = replace(base.image, config=replace(base.config, on_build=()))
            state = replace(base, name=plan.label, image=image, env=dict(base.env), build_args=list(base.build_args))
            state.cmd_set, state.steps, state.steps_total = False, 0, layers
        elif plan.is_scratch:
            state = StageState(platform, plan.label, empty_image(platform), steps_total=layers)
            state.env = dict(split_env(state.config.env))
        else:
            state = self._start_from_image(plan, platform, layers)
        state.ignore_cache, state.epoch = plan.ignore_cache, self._options.epoch
        return state

    def _start_from_image(self, plan: StagePlan, platform: Platform, layers: int) -> StageState:
        base = self._image(plan)
        config = replace(base.config.config, on_build=())
        state = StageState(platform, plan.label, replace(base.config, config=config, created=None))
        state.steps_total = layers + 1 if plan.index >= 0 else 0
        meta = Metadata(state.step_name(f"FROM {base.pinned}"), location=plan.location, stage=plan.label or None)
        if base.config.diff_ids:
            state.vertex = image_vertex(base.pinned, platform, meta)
        env = split_env(config.env)
        if "PATH" not in env:
            state.configure(env=(*config.env, f"PATH={DEFAULT_PATH}"))
        state.env = dict(split_env(state.config.env))
        if config.working_dir:
            state.cwd = absolute("/", config.working_dir).rstrip("/") or "/"
            state.configure(working_dir=state.cwd)
        return state

    def _apply(self, state: StageState, plan: StagePlan, instruction: ast.Instruction, *, trigger: bool) -> None:
        def expand(word: str) -> str:
            return self._lexer.process_word(word, state.env)

        def source(name: str) -> Vertex | None:
            return self._states[id(plan.sources[name])].vertex

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
                apply_run(state, instruction, self._lexer, self._options, source, name_of)
            case ast.Copy() | ast.Add():
                apply_transfer(state, instruction, expand, self._options, source, name_expanded)
            case ast.Workdir():
                apply_workdir(state, instruction, expand, name_expanded)
            case ast.Arg():
                metadata.apply_arg(state, instruction, self._lexer, self._options.build_args, self._global_args)
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


def _epoch(options: Options, global_args: Mapping[str, str]) -> int | None:
    text = options.build_args.get("SOURCE_DATE_EPOCH", global_args.get("SOURCE_DATE_EPOCH", ""))
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise StagewrightError(f"invalid SOURCE_DATE_EPOCH: {text}", hint="give seconds since 1970") from None
