"""What a Dockerfile says of itself without a build: its checks, what its target can be given, and its targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse_to_end
from stagewright.dockerfile.shell import Lexer
from stagewright.errors import (
    CanceledError,
    PrivilegeNeededError,
    SourceRange,
    SourceText,
    StagewrightError,
    StoreError,
)
from stagewright.frontend.checks import check_lines
from stagewright.frontend.convert import Conversion
from stagewright.frontend.options import Options, Resolver
from stagewright.frontend.rules import Finding, Findings, check_options
from stagewright.frontend.stages import StagePlan
from stagewright.graph.ops import ExecOp
from stagewright.graph.vertex import walk
from stagewright.records import dataclass, replace
from stagewright.reports import CheckReport, CheckWarning, Outline, OutlineArg, OutlineMount, Target, TargetList


def check(data: bytes, filename: str, options: Options, resolve: Resolver) -> CheckReport:
    """Run the build checks over the target, or over all stages where none is named.

    What keeps the Dockerfile from being built is part of the report; only what lies in the machine is raised.
    """
    found: list[Finding] = []
    error = None
    try:
        dockerfile, problem = parse_to_end(data, filename)
        if problem is not None:
            wanted = check_options(dockerfile.directives.check, options.build_args)
            check_lines(dockerfile, Findings(wanted, found.append))
            raise problem
        Conversion(dockerfile, replace(options, all_stages=not options.target), resolve, found.append).convert()
    except (CanceledError, PrivilegeNeededError, StoreError):
        raise
    except StagewrightError as reason:
        error = reason
    source = SourceText(filename, data.decode("utf-8", "surrogateescape"))
    return CheckReport(source, tuple(map(_warning, found)), error)


def _warning(finding: Finding) -> CheckWarning:
    rule = finding.rule
    return CheckWarning(rule.name, rule.description, rule.url, finding.message, finding.location)


def targets(dockerfile: ast.Dockerfile) -> TargetList:
    """The stages of a Dockerfile; the last is what is built by default."""
    last = dockerfile.stages[-1]
    found = [
        Target(stage.name, stage is last, stage.description, stage.base_name, stage.platform, stage.location)
        for stage in dockerfile.stages
    ]
    return TargetList(dockerfile.source, tuple(found))


@dataclass(frozen=True, slots=True)
class _Argument:
    """An ARG as it counts in some stage, and the names that its default refers to."""

    shown: OutlineArg
    needs: frozenset[str] = frozenset()


def outline(dockerfile: ast.Dockerfile, options: Options, resolve: Resolver) -> Outline:
    """The build arguments, secrets and SSH agents that the target and all it needs take.

    An ARG before the first FROM counts where a stage declares it or a FROM uses it. Raises as `convert`.
    """
    conversion = Conversion(dockerfile, options, resolve)
    conversion.convert()
    plans = list(dict.fromkeys(_in_order(conversion.target)))
    lexer = Lexer(escape=dockerfile.directives.escape)
    shared = _shared_arguments(dockerfile, conversion.global_args, options.build_args, lexer)
    args: dict[str, OutlineArg] = {}
    for plan in plans:
        for argument in _arguments_of(plan, conversion, shared, lexer):
            args.setdefault(argument.name, argument)
    mounts = _mounts_of(plans, conversion)
    stage = dockerfile.stages[conversion.target.index]
    return Outline(
        dockerfile.source,
        stage.name,
        stage.description,
        tuple(sorted(args.values(), key=lambda arg: arg.location.start)),
        tuple(mounts["secret"]),
        tuple(mounts["ssh"]),
    )


def _in_order(target: StagePlan) -> Iterator[StagePlan]:
    """A stage before those that it is built on and copies from, as what it says goes before what they say."""
    stack = [target]
    seen: set[int] = set()
    while stack:
        plan = stack.pop()
        if id(plan) in seen:
            continue
        seen.add(id(plan))
        yield plan
        stack.extend(reversed(plan.needs))


def _shared_arguments(
    dockerfile: ast.Dockerfile, values: Mapping[str, str], build_args: Mapping[str, str], lexer: Lexer
) -> dict[str, _Argument]:
    """The ARGs before the first FROM by their names."""
    shared = {}
    for arg in dockerfile.meta_args:
        for definition in arg.definitions:
            shown = OutlineArg(definition.name, definition.description, values.get(definition.name, ""), arg.location)
            needs: frozenset[str] = frozenset()
            if definition.default is not None and definition.name not in build_args:
                needs = lexer.expand(definition.default, values).used
            shared[definition.name] = _Argument(shown, needs)
    return shared


def _arguments_of(
    plan: StagePlan, conversion: Conversion, shared: Mapping[str, _Argument], lexer: Lexer
) -> list[OutlineArg]:
    """What one stage takes: what its FROM uses, and what it declares, with all that those refer to."""
    if plan.index < 0:
        return []
    known = dict(shared)
    used: list[str] = []
    stage = conversion.dockerfile.stages[plan.index]
    for word in (stage.base_name, stage.platform):
        used += sorted(lexer.expand(word, conversion.global_args).used)
    values = dict(conversion.state(plan).build_args)
    for instruction in plan.instructions:
        for definition in instruction.definitions if isinstance(instruction, ast.Arg) else ():
            name = definition.name
            used.append(name)
            given = name in conversion.build_args or definition.default is not None
            if given or name not in conversion.global_args:
                shown = OutlineArg(name, definition.description, values.get(name) or "", instruction.location)
                known[name] = _Argument(shown)
    return [known[name].shown for name in _with_needs(used, known) if name in known]


def _with_needs(names: list[str], known: Mapping[str, _Argument]) -> list[str]:
    found: dict[str, None] = {}
    waiting = list(reversed(names))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += known[name].needs if name in known else ()
    return list(found)


def _mounts_of(plans: list[StagePlan], conversion: Conversion) -> dict[str, list[OutlineMount]]:
    """The secrets and agents of the stages' steps; of two with one ID that of the stage nearest to the target."""
    found: dict[str, dict[str, OutlineMount]] = {"secret": {}, "ssh": {}}
    for plan in plans:
        vertex = conversion.state(plan).vertex
        for step in walk([vertex]) if vertex is not None else ():
            if isinstance(step.op, ExecOp) and step.meta.stage == (plan.label or None):
                for mount in step.op.mounts:
                    if mount.kind in found and step.meta.location is not None:
                        shown = OutlineMount(mount.id, mount.required, step.meta.location)
                        found[mount.kind].setdefault(mount.id, shown)
    return {kind: sorted(mounts.values(), key=_line) for kind, mounts in found.items()}


def _line(mount: OutlineMount) -> int:
    location: SourceRange = mount.location
    return location.start
