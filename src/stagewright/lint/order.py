"""Advice on the order of steps: dependencies are installed before what changes with every commit is copied."""

from __future__ import annotations

from collections.abc import Iterator

from stagewright.dockerfile.ast import Copy, Run
from stagewright.lint.commands import Command, commands_of
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.source import Source
from stagewright.lint.tools import HARMLESS
from stagewright.patterns import pattern

INSTALL_BELOW_SOURCES = LintRule(
    "install-below-sources",
    "Install dependencies before the sources are copied",
    "Every change of any file runs the step again, and downloads all dependencies anew.",
)

_EVERYTHING = (".", "./", "/", "*", "./*")
_LOCAL_REQUIREMENT = pattern(r"(?m)^\s*(?:(?:-e|--editable)[ =]*)?(?:\.|file:|[\w.-]+\s*@\s*file:)")
_OTHER_REQUIREMENTS = pattern(r"(?m)^\s*(?:-r|-c|--requirement|--constraint)[ =]")
_LOCAL_PYTHON = pattern(r"tool\.uv\.workspace|\bpath\s*=|\bworkspace\s*=")
_LOCAL_GEM = pattern(r"\bgemspec\b|\bpath[: ]|\bfile:|eval_gemfile")
_LOCAL_SCRIPTS = pattern(r'"(?:preinstall|install|postinstall|prepare|workspaces)"\s*:')
_LOCAL_MODULES = pattern(r"(?m)^\s*(?:replace\s+)?\S+(?:\s+v\S+)?\s+=>\s+\.")
_ALSO_READ = {"package.json": (".npmrc", ".yarnrc"), "pyproject.toml": (".python-version",)}
_INSTALL_PROJECT = pattern(r"\b(uv[ \t]+sync|poetry[ \t]+install)\b")


def installs_below_sources(source: Source) -> Iterator[LintFinding]:
    """`COPY . .` with an install behind it that reads a few files alone."""
    for stage in source.stages:
        whole: Copy | None = None
        installed: set[str] = set()
        for instruction in stage.instructions:
            if isinstance(instruction, Copy) and not instruction.from_name:
                if any(path in _EVERYTHING for path in instruction.sources):
                    whole = whole or instruction
            elif isinstance(instruction, Run):
                builds = False
                for command in commands_of(instruction):
                    files = _manifests(source, command)
                    if not files:
                        # What is installed behind something else may need what that made.
                        builds = builds or command.program not in (*HARMLESS, "corepack")
                        continue
                    if builds:
                        continue
                    if whole is None:
                        installed.add(command.program)
                    elif command.program not in installed and not _binds(instruction):
                        installed.add(command.program)
                        shown = " ".join([command.program, *command.words[:2]])
                        message = f"{shown} stands below the COPY of all files, and reads {', '.join(files)} alone"
                        edits = _moved(source, whole, instruction, command, files)
                        yield LintFinding(INSTALL_BELOW_SOURCES, message, instruction.location, edits)


def _binds(run: Run) -> bool:
    return any(
        ("type=cache" not in mount.text and "type=" in mount.text) or "bind" in mount.text for mount in run.mounts
    )


def _manifests(source: Source, command: Command) -> list[str]:
    """The files of the context that an install reads; none where it may read more, or is no such install."""
    match command.program:
        case "npm" if command.words in (("ci",), ("install",), ("i",)):
            files = ["package.json", "package-lock.json"]
        case "yarn" if command.words in ((), ("install",)):
            files = ["package.json", "yarn.lock"]
        case "pnpm" if command.words in (("install",), ("i",)):
            files = ["package.json", "pnpm-lock.yaml"]
        case "pip" | "pip3" if command.says("install"):
            return _requirements(source, command)
        case "uv" if command.words == ("sync",):
            files = ["pyproject.toml", "uv.lock"]
        case "poetry" if command.words == ("install",):
            files = ["pyproject.toml", "poetry.lock"]
        case "go" if command.words == ("mod", "download"):
            files = ["go.mod", "go.sum"]
            if _LOCAL_MODULES.search(source.read("go.mod") or ""):
                return []
        case "bundle" if command.says("install"):
            files = ["Gemfile", "Gemfile.lock"]
        case _:
            return []
    if _reads_more(source, files[0]) or source.has(files[0]) is False:
        return []
    also = [name for name in _ALSO_READ.get(files[0], ()) if source.has(name)]
    return [*(name for name in files if source.has(name) is not False), *also]


def _reads_more(source: Source, manifest: str) -> bool:
    """Whether an install needs other files of the project than those that are known by name."""
    text = source.read(manifest) or ""
    match manifest:
        case "package.json":
            others = ("pnpm-workspace.yaml", "lerna.json", "patches", ".pnpmfile.cjs", ".yarnrc.yml", ".yarn")
            return _LOCAL_SCRIPTS.search(text) is not None or any(map(source.has, others)) or _is_monorepo(source)
        case "Gemfile":
            return _LOCAL_GEM.search(text) is not None
        case "go.mod":
            return bool(source.has("go.work"))
        case _:
            return _LOCAL_PYTHON.search(text) is not None


def _is_monorepo(source: Source) -> bool:
    """Whether some step picks a package of several."""
    return any(
        command.program in ("turbo", "nx", "lerna")
        or (
            command.program in ("npm", "pnpm", "yarn")
            and (command.has("-r", "--recursive", "--filter", "-F", "-w", "--workspace", "--workspaces"))
        )
        or (command.program in ("pnpm", "yarn") and command.words[:1] in (("deploy",), ("workspace",), ("workspaces",)))
        for step in source.all_steps()
        for command in step.commands
    )


def _requirements(source: Source, command: Command) -> list[str]:
    files, words = [], list(command.arguments)
    for at, word in enumerate(words[:-1]):
        if word in ("-r", "--requirement"):
            files.append(words[at + 1].removeprefix("./"))
    named = [word for word in command.words[1:] if word not in files and f"./{word}" not in files]
    if not files or any(word.startswith((".", "/")) or "$" in word for word in [*named, *files]):
        return []
    for name in files:
        text = source.read(name) or ""
        if _LOCAL_REQUIREMENT.search(text) or _OTHER_REQUIREMENTS.search(text) or source.has(name) is False:
            return []
    return files


def _moved(source: Source, whole: Copy, run: Run, command: Command, files: list[str]) -> tuple[Edit, ...]:
    """Copy the few files, install, and only then copy all."""
    others = [other for other in commands_of(run) if other.program not in (command.program, "corepack", "rm", "set")]
    folders = {name.rpartition("/")[0] for name in files}
    if others or run.heredocs or len(folders) > 1 or not whole.destination.endswith((".", "/")):
        return ()
    if whole.chown or whole.chmod or _stands_between(source, whole, run):
        return ()
    if any(name.startswith("-") for name in files):
        # COPY would take it for a flag.
        return ()
    folder = folders.pop()
    destination = f"./{folder}/" if folder else whole.destination if whole.destination.endswith("/") else "./"
    copy = f"COPY {' '.join(files)} {destination}"
    text = source.lines(run.location).rstrip("\n")
    if _INSTALL_PROJECT.search(text):
        # The project itself is installed where it was, from what is there by then.
        flag = "--no-install-project" if command.program == "uv" else "--no-root"
        early = _INSTALL_PROJECT.sub(rf"\1 {flag}", text, count=1)
        return (source.insert_before(whole.location, f"{copy}\n{early}"),)
    return (source.insert_before(whole.location, f"{copy}\n{text}"), source.remove(run.location))


def _stands_between(source: Source, whole: Copy, run: Run) -> bool:
    """Whether something else may matter to the install: any step between the two."""
    for stage in source.stages:
        # Equal instructions stand in other stages, too.
        places = {id(instruction): place for place, instruction in enumerate(stage.instructions)}
        if id(whole) in places and id(run) in places:
            return places[id(run)] > places[id(whole)] + 1
    return True
