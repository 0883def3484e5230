"""Advice on development dependencies: they have no place in a final image."""

from __future__ import annotations

from collections.abc import Iterator

from stagewright.dockerfile.ast import Cmd, Entrypoint
from stagewright.lint.cachemounts import shown
from stagewright.lint.commands import Command
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.script import script_of
from stagewright.lint.source import Source, Step

DEVELOPMENT_DEPENDENCIES = LintRule(
    "development-dependencies",
    "Leave development dependencies out of the final stage",
    "Test and build tools make the image larger and give an attacker more to work with.",
)
_OMIT = {
    "npm": ("--omit", "--production", "--only"),
    "pnpm": ("--prod", "-P", "--production"),
    "yarn": ("--production", "--prod"),
    "uv": ("--no-dev", "--no-default-groups", "--only-group"),
    "poetry": ("--only", "--without", "--no-dev"),
    "composer": ("--no-dev",),
}
# How each is told, where that is not the first of these.
_FLAGS = {"npm": "--omit=dev", "poetry": "--only main"}
_INSTALLS = {
    "npm": (("ci",), ("install",), ("i",)),
    "pnpm": (("install",), ("i",)),
    "yarn": (("install",), ()),
    "uv": (("sync",),),
    "poetry": (("install",),),
    "composer": (("install",),),
}
_DEVELOPMENT_STAGES = ("dev", "test", "ci", "lint", "debug", "local", "storybook", "e2e")
_DEVELOPMENT_COMMANDS = frozenset(
    {"dev", "start:dev", "develop", "nodemon", "test", "watch", "serve", "vitest", "vite", "pytest", "jest", "ts-node"}
    | {"tsx", "ng", "ts-node-dev", "webpack-dev-server", "--reload", "runserver", "build", "dist", "lint"}
)
_PRODUCTION_VARIABLES = {
    "npm": "NODE_ENV",
    "pnpm": "NODE_ENV",
    "yarn": "NODE_ENV",
    "uv": "UV_NO_DEV",
    "composer": "COMPOSER_NO_DEV",
}


def development_dependencies(source: Source) -> Iterator[LintFinding]:
    """Installs of all dependencies in the layers of a final image that is not for development."""
    chain = source.chain(source.final)
    if any(word in source.final.name for word in _DEVELOPMENT_STAGES) or _runs_for_development(source):
        return
    steps = [step for stage in chain for step in source.steps(stage)]
    if any(command.words[:1] in (("prune",), ("workspaces",)) for step in steps for command in step.commands):
        return
    for number, step in enumerate(steps):
        variables = source.variables_before(step.stage, step.run)
        for command in step.commands:
            name = command.program
            if name not in _INSTALLS or not _installs_all(command):
                continue
            if _PRODUCTION_VARIABLES.get(name, "") in variables or command.has(*_OMIT[name]):
                continue
            flag = _FLAGS.get(name, _OMIT[name][0])
            used_later = any(_builds(other) for later in steps[number:] for other in later.commands)
            used_later = used_later or _is_built_on(source, step)
            edits = () if used_later else _with_flag(source, step, command, flag)
            how = (
                f"; build in a stage of its own, and install with {flag} here"
                if used_later
                else f"; {flag} leaves them out"
            )
            message = f"{shown(command)} brings development dependencies into the final image{how}"
            yield LintFinding(DEVELOPMENT_DEPENDENCIES, message, step.run.location, edits)


def _is_built_on(source: Source, step: Step) -> bool:
    """Whether another stage that is no part of the final image starts with what the step installs."""
    final = source.chain(source.final)
    return any(stage not in final and step.stage in source.chain(stage) for stage in source.stages)


def _with_flag(source: Source, step: Step, command: Command, flag: str) -> tuple[Edit, ...]:
    script = script_of(source, step)
    for piece in script.pieces if script is not None else ():
        if piece.command == command:
            at = next((word.end for word in piece.arguments if word.text in command.words), piece.end)
            return (Edit(at, at, f" {flag}"),)
    return ()


def _installs_all(command: Command) -> bool:
    words = command.words
    if command.has("-g", "--global"):
        return False
    # With a package named, that one alone is meant.
    return any(words == first for first in _INSTALLS[command.program])


def _builds(command: Command) -> bool:
    """Whether it is likely to need development dependencies."""
    if command.program in ("npm", "pnpm", "yarn"):
        return command.words[:1] not in ((), ("ci",), ("install",), ("i",), ("cache",), ("config",), ("set",))
    return command.program in ("npx", "tsc", "vite", "webpack", "turbo", "nx", "ng", "next", "pytest", "phpunit")


def _runs_for_development(source: Source) -> bool:
    words = [
        word
        for stage in source.chain(source.final)
        for item in stage.instructions
        if isinstance(item, Cmd | Entrypoint)
        for word in " ".join(item.command).split()
    ]
    return any(word.rpartition("/")[2] in _DEVELOPMENT_COMMANDS for word in words)
