"""The build checks that look at the whole file: names, casing, and what FROM says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stagewright.dockerfile import ast
from stagewright.dockerfile.golang import quote
from stagewright.dockerfile.shell import Lexer
from stagewright.dockerfile.suggest import suggest
from stagewright.errors import DockerfileError, SourceRange, UsageError
from stagewright.frontend import rules
from stagewright.frontend.rules import Findings
from stagewright.image.platform import Platform, parse_platform

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_RESERVED_NAMES = ("context", "scratch")


def check_file(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    """What can be seen without any value."""
    check_lines(dockerfile, findings)
    _check_names(dockerfile, findings)
    _check_casing(dockerfile, findings)


def check_lines(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    """What each line shows by itself, also where a later one cannot be read."""
    for location in dockerfile.blank_continuations:
        findings.add(rules.NO_EMPTY_CONTINUATION, "Empty continuation line", location)
    for meta in dockerfile.meta_args:
        _check_arg_description(meta, findings)
    for stage in dockerfile.stages:
        _check_stage_line(stage, findings)
        for instruction in stage.instructions:
            if isinstance(instruction, ast.Maintainer):
                message = "Maintainer instruction is deprecated in favor of using label"
                findings.add(rules.MAINTAINER_DEPRECATED, message, instruction.location, instruction.comments)
            elif isinstance(instruction, ast.Arg):
                _check_arg_description(instruction, findings)


def check_default_bases(
    dockerfile: ast.Dockerfile, lexer: Lexer, default_args: Mapping[str, str], findings: Findings
) -> None:
    """Whether FROM lines name images with the ARGs before them as they are without any build argument."""
    from stagewright.registry.reference import Reference

    for stage in dockerfile.stages:
        try:
            Reference.parse(lexer.process_word(stage.base_name, default_args))
        except DockerfileError:
            # BuildKit looks no further, and fails of that itself unless a build argument helps.
            return
        except UsageError:
            message = f"Default value for ARG {stage.base_name} results in empty or invalid base image name"
            findings.add(rules.INVALID_DEFAULT_ARG_IN_FROM, message, stage.location, stage.comments)


def check_bases(dockerfile: ast.Dockerfile, lexer: Lexer, args: Mapping[str, str], findings: Findings) -> None:
    """What FROM lines make of the ARGs before them."""
    declared = {definition.name for meta in dockerfile.meta_args for definition in meta.definitions}
    for stage in dockerfile.stages:
        for word in (stage.base_name, stage.platform):
            _check_undefined(stage, word, lexer, args, declared, findings)
        if stage.platform:
            _check_platform(stage, lexer, args, findings)


def misspelt_arguments(dockerfile: ast.Dockerfile, build_args: Iterable[str]) -> list[str]:
    """What to say of build arguments that no ARG takes, where one has nearly that name."""
    args = [*dockerfile.meta_args, *(item for stage in dockerfile.stages for item in stage.instructions)]
    declared = {one.name for arg in args if isinstance(arg, ast.Arg) for one in arg.definitions}
    said = []
    for name in build_args:
        best = suggest(name, declared)
        if best is not None and name.lower() not in _PROXIES:
            said.append(f"no ARG takes the build argument {name} (did you mean {best}?)")
    return said


def check_platform(name: str, expected: Platform, actual: Platform, location: SourceRange, findings: Findings) -> None:
    """Whether the image `name` is for what it was asked for."""
    if (expected.os, expected.architecture) != (actual.os, actual.architecture):
        message = (
            f"Base image {name} was pulled with platform {quote(str(actual.normalized()))}, expected"
            f" {quote(str(expected.normalized()))} for current build"
        )
        findings.add(rules.INVALID_BASE_IMAGE_PLATFORM, message, location)


def _check_arg_description(arg: ast.Arg, findings: Findings) -> None:
    names = [definition.name for definition in arg.definitions]
    _check_description("ARG", names, arg.comments, arg.location, findings)


def _check_description(
    keyword: str, names: Sequence[str], comments: tuple[str, ...], location: SourceRange, findings: Findings
) -> None:
    if comments and comments[-1].split(" ")[0] not in names:
        example = names[0] if len(names) == 1 else "<arg_key>"
        message = f"Comment for {keyword} should follow the format: `# {example} <description>`"
        findings.add(rules.INVALID_DEFINITION_DESCRIPTION, message, location, comments)


def _check_stage_line(stage: ast.Stage, findings: Findings) -> None:
    if not stage.name:
        return
    if stage.name_as_written != stage.name:
        message = f"Stage name '{stage.name_as_written}' should be lowercase"
        findings.add(rules.STAGE_NAME_CASING, message, stage.location, stage.comments)
    keyword, as_keyword = stage.keyword, stage.as_keyword
    # A FROM of mixed case is a matter of another check.
    if keyword in (keyword.lower(), keyword.upper()):
        expected = as_keyword.lower() if keyword == keyword.lower() else as_keyword.upper()
        if as_keyword != expected:
            message = f"'{as_keyword}' and '{keyword}' keywords' casing do not match"
            findings.add(rules.FROM_AS_CASING, message, stage.location, stage.comments)
    _check_description("FROM", [stage.name], stage.comments, stage.location, findings)


def _check_names(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        if stage.name in _RESERVED_NAMES:
            message = f"Stage name should not use the same name as reserved stage {quote(stage.name)}"
            findings.add(rules.RESERVED_STAGE_NAME, message, stage.location, stage.comments)
        if stage.name in seen:
            message = f"Duplicate stage name {quote(stage.name)}, stage names should be unique"
            findings.add(rules.DUPLICATE_STAGE_NAME, message, stage.location, stage.comments)
        if stage.name:
            seen.add(stage.name)


def _check_casing(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    lines: list[ast.Stage | ast.Instruction] = []
    for stage in dockerfile.stages:
        lines += [stage, *stage.instructions]
    lower = sum(line.keyword == line.keyword.lower() for line in lines)
    upper = sum(line.keyword == line.keyword.upper() for line in lines)
    wanted = "lowercase" if lower > upper else "uppercase"
    for line in lines:
        if line.keyword != (line.keyword.lower() if lower > upper else line.keyword.upper()):
            message = f"Command '{line.keyword}' should match the case of the command majority ({wanted})"
            findings.add(rules.CONSISTENT_INSTRUCTION_CASING, message, line.location, line.comments)


def _check_undefined(
    stage: ast.Stage,
    word: str,
    lexer: Lexer,
    args: Mapping[str, str],
    declared: set[str],
    findings: Findings,
) -> None:
    try:
        unset = lexer.expand(word, args).unset
    except DockerfileError:
        return
    known = declared | set(args)
    for name in sorted(unset - known):
        message = f"FROM argument '{name}' is not declared"
        if best := suggest(name, known):
            message += f" (did you mean {best}?)"
        findings.add(rules.UNDEFINED_ARG_IN_FROM, message, stage.location, stage.comments)


def _check_platform(stage: ast.Stage, lexer: Lexer, args: Mapping[str, str], findings: Findings) -> None:
    try:
        expansion = lexer.expand(stage.platform, args)
        platform = parse_platform(expansion.text)
    except (DockerfileError, UsageError):
        return
    if expansion.used == {"TARGETPLATFORM"} and not expansion.unset:
        if expansion.text == args["TARGETPLATFORM"]:
            message = (
                f"Setting platform to predefined {stage.platform} in FROM is redundant as this is the default behavior"
            )
            findings.add(rules.REDUNDANT_TARGET_PLATFORM, message, stage.location, stage.comments)
        return
    is_constant = not expansion.used and not expansion.unset
    # A stage that is named for its platform means it.
    if is_constant and platform.os not in stage.name and platform.architecture not in stage.name:
        message = f"FROM --platform flag should not use constant value {quote(expansion.text)}"
        findings.add(rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED, message, stage.location, stage.comments)
