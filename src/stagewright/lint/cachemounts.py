"""Advice on cache mounts: what a package manager downloads is kept beside the image, for the next build."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from stagewright.dockerfile.ast import Cmd, Copy, Entrypoint, Run
from stagewright.lint.commands import Command, Piece, Word
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.script import Script, script_of
from stagewright.lint.source import Source, Step
from stagewright.lint.tools import HARMLESS, TOOLS, Tool
from stagewright.patterns import pattern

NO_CACHE_MOUNT = LintRule(
    "no-cache-mount",
    "Install packages with a cache mount",
    "Without one, each change of a dependency downloads them all again, and what was downloaded stays in the layer.",
)

_ROOT = ("", "root", "0", "root:root", "0:0")
# Images whose steps run as root, with /root for a home: the official ones, but for a few, and some others.
_ROOT_IMAGES = pattern(
    r"(?:(?:docker\.io/)?(?:library/)?(?!elasticsearch|kibana|logstash|solr|sonarqube|jetty|varnish|haproxy|memcached)"
    r"|public\.ecr\.aws/(?:docker/library|lambda)/|mcr\.microsoft\.com/(?:devcontainers|dotnet)/(?:[^/:@]+/)*"
    r"|ghcr\.io/astral-sh/(?=uv\b)|lukemathwalker/(?=cargo-chef\b)|nvidia/(?=cuda\b))(?P<name>[^/:@$]+)(?:[:@].*)?"
)
_DISTRIBUTIONS = ("alpine", "amazonlinux", "base", "buildpack-deps", "cuda", "debian", "fedora", "ubuntu")
# In a file of more, which no person wrote, each rewrite would touch them all.
_MOST_STEPS = 200
_HOME = pattern(r"(?:~|\$HOME|\$\{HOME\})(?=/|$)")
_MOUNT = pattern(r"--mount=\S+")
_NO_CLEAN = "rm -f /etc/apt/apt.conf.d/docker-clean"
_KEEP = """echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' > /etc/apt/apt.conf.d/keep-cache"""


def installs_without_cache(source: Source) -> Iterator[LintFinding]:
    """Installations by root whose caches nobody mounts."""
    for step in source.all_steps():
        if source.user_before(step.stage, step.run) not in _ROOT or step.run.network == "none":
            continue  # Whose home folder that is, the Dockerfile does not say; or nothing is downloaded.
        for tool in TOOLS:
            used = [command for command in step.commands if fetches(command, tool)]
            if not used or _mounts_some_cache(step, tool):
                continue
            targets = _targets(source, step, tool)
            if targets is None or (tool.is_store and _is_kept(source, step, tool, targets)):
                continue
            where = f" for {' and '.join(targets)}" if targets else ""
            message = f"{shown(used[0])} runs without a cache mount{where}"
            yield LintFinding(NO_CACHE_MOUNT, message, step.run.location, with_cache(source, step, tool, targets))


def shown(command: Command) -> str:
    """A command as messages name it."""
    return " ".join([command.program, *command.arguments[:3]])


def fetches(command: Command, tool: Tool) -> bool:
    """Whether it is one that downloads packages."""
    if command.program not in tool.programs or command.has("--help", "--version", "--no-index", "--offline"):
        return False
    if command.arguments in (("-v",), ("-version",)) or (tool.name == "maven" and command.has("-o")):
        return False
    words = command.words
    return any(words[: len(first)] == first if first else _is_plain(command) for first in tool.fetches)


def _is_plain(command: Command) -> bool:
    """Whether a command that installs without being told to is given nothing else to do."""
    return not command.words if command.program == "yarn" else bool(command.words)


# --- where caches are -------------------------------------------------------------------------------------------------


def _targets(source: Source, step: Step, tool: Tool) -> tuple[str, ...] | None:
    """The folders to mount: () where nothing tells which they are, None where the Dockerfile has its own way."""
    variables = source.variables_before(step.stage, step.run)
    if any(name in variables for name in tool.switches):
        return None
    image = _ROOT_IMAGES.fullmatch(source.image(step.stage))
    if tool.name != "apt" and (image is None or "HOME" in variables):
        return ()
    targets = tool.targets
    if tool.images and (image is None or image["name"] not in tool.images):
        if image is None or image["name"] not in _DISTRIBUTIONS:
            return ()
        targets = tool.home_targets
    for name, places in tool.moved:
        if name in variables:
            value = variables[name].strip("\"'")
            if "$" in value or not value.startswith("/"):
                return None
            targets = tuple(place.replace("{}", value.rstrip("/")) for place in places)
    return targets


def _is_kept(source: Source, step: Step, tool: Tool, targets: Sequence[str]) -> bool:
    """Whether what was downloaded is meant to be in an image: something runs the tool there, or copies its store."""
    above = [stage for stage in source.stages if step.stage in source.chain(stage)]
    for stage in above:
        for item in stage.instructions:
            if isinstance(item, Cmd | Entrypoint):
                words = [posixpath.basename(word) for word in " ".join(item.command).split()]
                if any(word in tool.programs or word in tool.runners for word in words):
                    return True
    names = {stage.name for stage in above if stage.name} | {str(source.stages.index(stage)) for stage in above}
    return any(
        isinstance(item, Copy)
        and item.from_name.lower() in names
        and any(_meet(path, target) for path in item.sources for target in (targets or tool.targets))
        for stage in source.stages
        for item in stage.instructions
    )


def _meet(path: str, target: str) -> bool:
    path = posixpath.normpath(posixpath.join("/", path))
    return f"{path}/".startswith(f"{target}/") or f"{target}/".startswith(f"{path}/".replace("//", "/"))


def _mounts_some_cache(step: Step, tool: Tool) -> bool:
    """Whether a cache is mounted that is this tool's, or may be at another place."""
    texts = [mount.text for mount in step.run.mounts if "type=cache" in mount.text]
    words = (tool.name, "$", ".cache", "store", *(posixpath.basename(target) for target in tool.targets), *tool.targets)
    return any(word in text for text in texts for word in words)


# --- the rewrite --------------------------------------------------------------------------------------------------


def with_cache(source: Source, step: Step, tool: Tool, targets: Sequence[str] | None) -> tuple[Edit, ...]:
    """Mount the caches, and let nothing of the step empty them or go without; () where that takes thought."""
    if not targets or len(source.all_steps()) > _MOST_STEPS:
        return ()
    script = script_of(source, step)
    if script is None:
        return ()
    if tool.name == "yarn" and "yarn lockfile v1" not in (source.read("yarn.lock") or ""):
        return ()  # Later versions keep their cache elsewhere.
    if _is_used_otherwise(source, step, tool, targets):
        return ()
    cleaned = _cleaned(script, tool, targets)
    if cleaned is None:
        return ()
    flags = [f"--mount=type=cache,target={target}{tool.options}" for target in targets]
    edits = [*source.add_flags(step.run, flags), *cleaned]
    if tool.name == "apt":
        more = _for_apt(source, step, script)
        if more is None:
            return ()
        edits += more
    if tool.is_store:
        for other in _later(source, step):
            may_use = any(command.program not in HARMLESS for command in other.commands)
            if may_use and not _mounts_some_cache(other, tool):
                edits += source.add_flags(other.run, flags)
    return tuple(edits)


def _is_used_otherwise(source: Source, step: Step, tool: Tool, targets: Sequence[str]) -> bool:
    """Whether some instruction names the folder: what is there already would be hidden."""
    if tool.name == "apt":
        return False
    folder = re.escape(targets[0]).replace("/root", "(?:/root|~|\\$HOME|\\$\\{HOME\\})")
    mentioned = pattern(rf"(?<![\w.-]){folder}(?![\w.-])")
    for stage in source.chain(step.stage):
        for item in stage.instructions:
            if item is step.run:
                return False
            if isinstance(item, Run | Copy) and mentioned.search(_MOUNT.sub("", source.lines(item.location))):
                return True
    return False


def _cleaned(script: Script, tool: Tool, targets: Sequence[str]) -> tuple[Edit, ...] | None:
    """Take away what would empty the caches, or switch them off; None where that cannot be told."""
    cleared = [*targets, *tool.cleared]

    def is_cleaning(piece: Piece) -> bool:
        command = piece.command
        return command.program in tool.programs and any(command.says(*words) for words in tool.cleanings)

    def is_unwanted(word: Word, piece: Piece) -> bool:
        if piece.command.program in tool.programs:
            return word.text in tool.disabled
        path = _HOME.sub("/root", word.text) + "/"
        return piece.command.program == "rm" and any(path.startswith((f"{place}/", f"{place}*")) for place in cleared)

    for piece in script.pieces:
        for word in piece.arguments if piece.command.program in ("rm", "find", "mv") else ():
            path = _HOME.sub("/root", word.text).rstrip("*/")
            above = path and any(target.startswith((f"{path}/", f"{path}.")) for target in targets)
            if (above and not is_unwanted(word, piece)) or (piece.command.program != "rm" and path in targets):
                return None  # What a mount is on cannot be removed.
    return script.without(is_unwanted, is_cleaning)


def _for_apt(source: Source, step: Step, script: Script) -> list[Edit] | None:
    """What apt needs besides: images of Debian and Ubuntu empty its cache, and lists are in no layer any more."""
    first: list[str] = []
    before = "\n".join(source.lines(run.location) for run in _runs_until(source, step))
    if "docker-clean" not in before:
        first.append(_NO_CLEAN)
    if "Keep-Downloaded-Packages" not in before and any(command.program == "apt" for command in step.commands):
        first.append(_KEEP)
    joint = "\n" if script.is_block else " && \\\n    "
    edits = [script.begin_with(joint.join(first))] if first else []
    for other in (step, *_later(source, step)):
        if not lacks_update(other):
            continue
        other_script = script if other is step else script_of(source, other)
        if other_script is None:
            return None
        installs = next(piece for piece in other_script.pieces if piece.command.says("install"))
        if installs.before in ("||", "|", "&"):
            return None
        if other is step and installs.start == script.start:
            edits = [script.begin_with(joint.join([*first, "apt-get update"]))]
        else:
            edits.append(other_script.put_before(installs, "apt-get update"))
    return edits


def lacks_update(step: Step) -> bool:
    """Whether it installs with lists that another step has fetched."""
    apt = [command for command in step.commands if command.program in ("apt-get", "apt")]
    installs = any(command.says("install") for command in apt)
    return installs and not any(command.says("update") for command in apt)


def _runs_until(source: Source, step: Step) -> Iterator[Run]:
    for stage in source.chain(step.stage):
        for item in stage.instructions:
            if isinstance(item, Run):
                yield item
            if item is step.run:
                return


def _later(source: Source, step: Step) -> Iterator[Step]:
    """The steps that find in their layers what this one leaves."""
    for stage in source.stages:
        if step.stage not in source.chain(stage):
            continue
        is_later = stage is not step.stage
        for other in source.steps(stage):
            if is_later:
                yield other
            is_later = is_later or other.run is step.run
