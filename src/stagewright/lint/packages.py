"""Advice on what the managers of a distribution's packages leave: old lists, and lists and caches in layers."""

from __future__ import annotations

from collections.abc import Iterator

from stagewright.lint.cachemounts import lacks_update, with_cache
from stagewright.lint.commands import Command
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.script import Script, script_of
from stagewright.lint.source import Source, Step
from stagewright.lint.tools import APT

APT_UPDATE_APART = LintRule(
    "apt-update-apart",
    "Update package lists in the step that installs",
    "A step of its own is cached: the lists grow old, and a later install asks for versions that are gone.",
)
LISTS_LEFT = LintRule(
    "package-lists-left",
    "Leave no package lists and caches in layers",
    "They are of no use to a running container, and go over the network with every pull.",
)
_APT = ("apt-get", "apt")
_RPM = ("dnf", "microdnf", "tdnf", "yum")


def apt_updates_apart(source: Source) -> Iterator[LintFinding]:
    """A RUN that only updates, before one that installs without an update."""
    for stage in source.stages:
        lonely: Step | None = None
        for step in source.steps(stage):
            apt = [command for command in step.commands if command.program in _APT]
            updates = any(command.says("update") for command in apt)
            installs = any(command.says("install") for command in apt)
            if updates and not installs:
                lonely = step
            elif installs and not updates and lonely is not None:
                message = "apt-get update has a step of its own, apart from the install"
                yield LintFinding(APT_UPDATE_APART, message, lonely.run.location, _joined(source, lonely, step))
                lonely = None


def _joined(source: Source, update: Step, install: Step) -> tuple[Edit, ...]:
    """Take the step that updates away, and update where it is installed."""
    if len(update.commands) != 1 or update.run.mounts or update.run.heredocs:
        return ()
    edits = [source.remove(update.run.location)]
    later = source.all_steps()
    for step in later[later.index(install) :]:
        # Each step with an install of its own will be run again some day without those before it.
        if not lacks_update(step) or (step is not install and update.stage not in source.chain(step.stage)):
            continue
        script = script_of(source, step)
        if script is None:
            return ()
        first = next(piece for piece in script.pieces if piece.command.says("install"))
        if first.before in ("||", "|", "&"):
            return ()
        edits.append(script.put_before(first, f"{update.commands[0].program} update"))
    return tuple(edits)


def lists_left(source: Source) -> Iterator[LintFinding]:
    """Lists of packages and downloads in the layers of the final image."""
    for stage in source.chain(source.final):
        for step in source.steps(stage):
            for message, edits in (*_apt_lists(source, step), *_rpm_caches(source, step), *_apk_index(source, step)):
                yield LintFinding(LISTS_LEFT, message, step.run.location, edits)


def _apt_lists(source: Source, step: Step) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    updates = any(command.program in _APT and command.says("update") for command in step.commands)
    if updates and not _removes(step, "/var/lib/apt/lists") and not _mounts(step, "/var/lib/apt"):
        yield "the lists of apt-get update stay in this layer", with_cache(source, step, APT, APT.targets)


def _rpm_caches(source: Source, step: Step) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    used = [command for command in step.commands if command.program in _RPM]
    installs = [command for command in used if command.says("install")]
    cleaned = any(command.says("clean") for command in used) or _mounts(step, "/var/cache")
    if installs and not cleaned and not any(_removes(step, f"/var/cache/{name}") for name in _RPM):
        edits = _cleaned_at_the_end(script_of(source, step), installs)
        yield f"the caches of {installs[-1].program} install stay in this layer", edits


def _cleaned_at_the_end(script: Script | None, installs: list[Command]) -> tuple[Edit, ...]:
    pieces = [piece for piece in script.pieces if piece.command in installs] if script else []
    if script is None or not pieces or pieces[-1].after not in ("", "&&", ";", "\n"):
        return ()
    joint = "\n" if script.is_block else " && "
    return (Edit(pieces[-1].end, pieces[-1].end, f"{joint}{installs[-1].program} clean all"),)


def _apk_index(source: Source, step: Step) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    apk = [command for command in step.commands if command.program == "apk"]
    fetching = [command for command in apk if command.says("add") or command.says("upgrade")]
    updates = any(command.says("update") for command in apk)
    kept = updates or any(not command.has("--no-cache") for command in fetching)
    if kept and not _removes(step, "/var/cache/apk") and not _mounts(step, "/var/cache/apk"):
        what = "apk update" if updates else "apk add" if fetching[0].says("add") else "apk upgrade"
        yield f"{what} leaves its index in this layer", _without_index(script_of(source, step)) if fetching else ()


def _without_index(script: Script | None) -> tuple[Edit, ...]:
    if script is None:
        return ()
    updates = script.without(
        lambda word, piece: False, lambda piece: piece.command.program == "apk" and piece.command.says("update")
    )
    if updates is None:
        return ()
    edits = [*updates]
    for piece in script.pieces:
        command = piece.command
        fetches = command.program == "apk" and (command.says("add") or command.says("upgrade"))
        if fetches and not command.has("--no-cache"):
            verb = next(word for word in piece.arguments if word.text == command.words[0])
            edits.append(Edit(verb.end, verb.end, " --no-cache"))
    return tuple(edits)


def _removes(step: Step, path: str) -> bool:
    """Whether the step removes what is there: that folder, what is in it, or a folder above it."""
    for command in step.commands:
        for word in command.words if command.program in ("rm", "find") else ():
            named = word.rstrip("*/")
            if f"{named}/".startswith(f"{path}/") or (named.count("/") > 1 and path.startswith(f"{named}/")):
                return True
    return False


def _mounts(step: Step, path: str) -> bool:
    return any(f"={path}" in mount.text for mount in step.run.mounts)
