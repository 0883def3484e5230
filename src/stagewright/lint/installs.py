"""Advice on package installations: cache mounts, what is left in layers, and development dependencies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stagewright.dockerfile.ast import Cmd, Entrypoint
from stagewright.lint.commands import Command
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.source import Source, Step
from stagewright.records import dataclass

NO_CACHE_MOUNT = LintRule(
    "no-cache-mount",
    "Install packages with a cache mount",
    "Without one, each change of a dependency downloads them all again, and what was downloaded stays in the layer.",
)
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
DEVELOPMENT_DEPENDENCIES = LintRule(
    "development-dependencies",
    "Leave development dependencies out of the final stage",
    "Test and build tools make the image larger and give an attacker more to work with.",
)


@dataclass(frozen=True, slots=True)
class _Tool:
    """A package manager: the first words of the commands that fetch, and the cache mounts for root's caches.

    `disabled` are flags that switch its cache off, `folders` are variables that move it.
    """

    programs: tuple[str, ...]
    fetches: tuple[tuple[str, ...], ...]
    targets: tuple[str, ...]
    options: str = ""
    disabled: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


_TOOLS = {
    "apt": _Tool(
        ("apt-get", "apt"),
        (("install",), ("upgrade",), ("dist-upgrade",)),
        ("/var/cache/apt", "/var/lib/apt"),
        options=",sharing=locked",
    ),
    "pip": _Tool(
        ("pip", "pip3"),
        (("install",), ("wheel",), ("download",)),
        ("/root/.cache/pip",),
        disabled=("--no-cache-dir",),
        folders=("PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "XDG_CACHE_HOME"),
    ),
    "uv": _Tool(
        ("uv",),
        (("sync",), ("pip", "install"), ("pip", "sync"), ("tool", "install")),
        ("/root/.cache/uv",),
        disabled=("--no-cache", "-n"),
        folders=("UV_CACHE_DIR", "UV_NO_CACHE", "XDG_CACHE_HOME"),
    ),
    "npm": _Tool(
        ("npm",),
        (("ci",), ("install",), ("i",)),
        ("/root/.npm",),
        folders=("npm_config_cache", "NPM_CONFIG_CACHE"),
    ),
    "pnpm": _Tool(
        ("pnpm",),
        (("install",), ("i",), ("fetch",)),
        ("/root/.local/share/pnpm/store",),
        folders=("PNPM_HOME", "XDG_DATA_HOME", "npm_config_store_dir"),
    ),
    "yarn": _Tool(
        ("yarn",),
        (("install",), ()),
        ("/usr/local/share/.cache/yarn",),
        folders=("YARN_CACHE_FOLDER",),
    ),
    "go": _Tool(
        ("go",),
        (("mod", "download"), ("build",), ("install",), ("get",)),
        ("/go/pkg/mod", "/root/.cache/go-build"),
        folders=("GOMODCACHE", "GOCACHE", "GOPATH"),
    ),
    "cargo": _Tool(
        ("cargo",),
        (("build",), ("fetch",), ("install",), ("chef", "cook")),
        ("/usr/local/cargo/registry", "/usr/local/cargo/git"),
        folders=("CARGO_HOME",),
    ),
    "maven": _Tool(("mvn", "mvnw"), ((),), ("/root/.m2",), folders=("MAVEN_CONFIG", "MAVEN_OPTS")),
    "gradle": _Tool(("gradle", "gradlew"), ((),), ("/root/.gradle",), folders=("GRADLE_USER_HOME",)),
}
_ROOT = ("", "root", "0", "root:root", "0:0")
_LISTS = r"(?:[ \t]*\\\n)?[ \t]*(?:&&|;)[ \t]*(?:\\\n[ \t]*)?rm[ \t]+-(?:rf|fr|r)[ \t]+/var/lib/apt/lists(?:/\*?)?"


def installs_without_cache(source: Source) -> Iterator[LintFinding]:
    """Installations by root whose caches nobody mounts."""
    for step in source.all_steps():
        if source.user_before(step.stage, step.run) not in _ROOT:
            continue  # Whose home folder that is, the Dockerfile does not say.
        variables = source.variables_before(step.stage, step.run)
        for name, tool in _TOOLS.items():
            used = [command for command in step.commands if _fetches(command, tool)]
            if not used or any(folder in variables for folder in tool.folders):
                continue
            missing = [target for target in tool.targets if not _is_mounted(step, target)]
            if len(missing) < len(tool.targets) or _mounts_some_cache(step, name):
                continue
            message = f"{_shown(used[0])} runs without a cache mount for {' and '.join(missing)}"
            yield LintFinding(NO_CACHE_MOUNT, message, step.run.location, _with_cache(source, step, name, missing))


def _with_cache(source: Source, step: Step, name: str, targets: Sequence[str]) -> tuple[Edit, ...]:
    if name == "yarn" and "yarn lockfile v1" not in (source.read("yarn.lock") or ""):
        return ()  # Later versions keep their cache elsewhere.
    if name == "go" and not source.image(step.stage).startswith(("golang", "docker.io/library/golang")):
        targets = [target.replace("/go/", "/root/go/", 1) for target in targets]
    if name == "cargo" and not source.image(step.stage).startswith(("rust", "docker.io/library/rust")):
        targets = [target.replace("/usr/local/cargo", "/root/.cargo") for target in targets]
    tool = _TOOLS[name]
    edits = source.add_flags(step.run, [f"--mount=type=cache,target={target}{tool.options}" for target in targets])
    if name == "apt":
        edits += source.substitute(step.run.location, _LISTS, "")
    for flag in tool.disabled:
        edits += source.substitute(step.run.location, rf"[ \t]+{flag}(?=\s|$)", "")
    return edits


def _fetches(command: Command, tool: _Tool) -> bool:
    if command.program not in tool.programs or command.has(
        "--help", "--version", "-v", "-version", "--no-index", "--offline"
    ):
        return False
    if command.program == "npm" and command.says("install") and command.has("-g", "--global"):
        return True
    words = command.words
    return any(words[: len(first)] == first if first else _plain(command, words) for first in tool.fetches)


def _plain(command: Command, words: tuple[str, ...]) -> bool:
    """Whether a command that installs without being told to is given nothing else to do."""
    if command.program == "yarn":
        return not words
    return bool(words)


def _is_mounted(step: Step, target: str) -> bool:
    texts = [mount.text for mount in step.run.mounts]
    return any(f"={target}" in text or f"={target}/" in text for text in texts)


def _mounts_some_cache(step: Step, name: str) -> bool:
    """Whether a cache is mounted that may be this tool's at another place."""
    texts = [mount.text for mount in step.run.mounts if "type=cache" in mount.text]
    return any(name in text or "$" in text or ".cache" in text or "store" in text for text in texts)


def _shown(command: Command) -> str:
    return " ".join([command.program, *command.arguments[:3]])


# --- apt ----------------------------------------------------------------------------------------------------------


def apt_updates_apart(source: Source) -> Iterator[LintFinding]:
    """A RUN that only updates, before one that installs without an update."""
    for stage in source.stages:
        lonely: Step | None = None
        for step in source.steps(stage):
            apt = [command for command in step.commands if command.program in ("apt-get", "apt")]
            updates = any(command.says("update") for command in apt)
            installs = any(command.says("install") for command in apt)
            if updates and not installs:
                lonely = step
            elif installs and not updates and lonely is not None:
                message = "apt-get update has a step of its own, apart from the install"
                yield LintFinding(APT_UPDATE_APART, message, lonely.run.location, _joined(source, lonely, step))
                lonely = None


def _joined(source: Source, update: Step, install: Step) -> tuple[Edit, ...]:
    if len(update.commands) != 1 or update.run.mounts or update.run.heredocs or install.run.heredocs:
        return ()
    program = update.commands[0].program
    first = source.substitute(
        install.run.location, r"(?<![\w-])(apt(?:-get)?(?:[ \t]+-\S+)*[ \t]+install)", rf"{program} update && \1", 1
    )
    return (source.remove(update.run.location), *first) if first else ()


def lists_left(source: Source) -> Iterator[LintFinding]:
    """Lists of packages and downloads in the layers of the final image."""
    for stage in source.chain(source.final):
        for step in source.steps(stage):
            for message, edits in (*_apt_lists(source, step), *_rpm_caches(step), *_apk_index(source, step)):
                yield LintFinding(LISTS_LEFT, message, step.run.location, edits)


def _apt_lists(source: Source, step: Step) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    updates = any(command.program in ("apt-get", "apt") and command.says("update") for command in step.commands)
    if updates and not _removes(step, "/var/lib/apt") and not _is_mounted(step, "/var/lib/apt"):
        edits = _with_cache(source, step, "apt", _TOOLS["apt"].targets)
        yield "the lists of apt-get update stay in this layer", edits


def _rpm_caches(step: Step) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    for manager in ("dnf", "yum", "microdnf"):
        used = [command for command in step.commands if command.program == manager]
        kept = any(command.says("install") for command in used) and not any(command.says("clean") for command in used)
        if kept and not _removes(step, "/var/cache") and not _is_mounted(step, "/var/cache"):
            yield f"the caches of {manager} install stay in this layer", ()


def _apk_index(source: Source, step: Step) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    adds = [command for command in step.commands if command.program == "apk" and command.says("add")]
    kept = any(not command.has("--no-cache") for command in adds)
    if kept and not _removes(step, "/var/cache/apk") and not step.run.mounts:
        edits = source.substitute(step.run.location, r"\bapk[ \t]+add\b(?![^\n&;|]*--no-cache)", "apk add --no-cache")
        yield "apk add leaves its index in this layer", edits


def _removes(step: Step, path: str) -> bool:
    return any(word.startswith(path) for command in step.commands if command.program == "rm" for word in command.words)


# --- development dependencies ---------------------------------------------------------------------------------------

_OMIT = {
    "npm": (("--omit", "--production", "--only"), "--omit=dev", r"\b(npm[ \t]+(?:ci|install|i))(?=\s|$)"),
    "pnpm": (("--prod", "-P", "--production"), "--prod", r"\b(pnpm[ \t]+(?:install|i))(?=\s|$)"),
    "yarn": (("--production", "--prod"), "--production", r"\b(yarn(?:[ \t]+install)?)(?=\s|$)"),
    "uv": (("--no-dev", "--no-default-groups", "--only-group"), "--no-dev", r"\b(uv[ \t]+sync)(?=\s|$)"),
    "poetry": (("--only", "--without", "--no-dev"), "--only main", r"\b(poetry[ \t]+install)(?=\s|$)"),
    "composer": (("--no-dev",), "--no-dev", r"\b(composer[ \t]+install)(?=\s|$)"),
}
_INSTALLS = {
    "npm": (("ci",), ("install",), ("i",)),
    "pnpm": (("install",), ("i",)),
    "yarn": (("install",), ()),
    "uv": (("sync",),),
    "poetry": (("install",),),
    "composer": (("install",),),
}
_DEVELOPMENT_STAGES = ("dev", "test", "ci", "lint", "debug", "local", "storybook", "e2e")
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
            if _PRODUCTION_VARIABLES.get(name, "") in variables or command.has(*_OMIT[name][0]):
                continue
            flag, expression = _OMIT[name][1:]
            used_later = any(_builds(other) for later in steps[number:] for other in later.commands)
            edits = () if used_later else source.substitute(step.run.location, expression, rf"\1 {flag}")
            how = (
                f"; build in a stage of its own, and install with {flag} here"
                if used_later
                else f"; {flag} leaves them out"
            )
            message = f"{_shown(command)} brings development dependencies into the final image{how}"
            yield LintFinding(DEVELOPMENT_DEPENDENCIES, message, step.run.location, edits)


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
    development = ("dev", "start:dev", "develop", "nodemon", "test", "watch", "serve", "vitest", "pytest", "jest")
    return any(word in development for word in words)
