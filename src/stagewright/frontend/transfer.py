"""COPY, ADD and WORKDIR: the file ops that they make."""

from __future__ import annotations

import re
from collections.abc import Callable

from stagewright.dockerfile import ast
from stagewright.dockerfile.ignore import Matcher, patterns_from
from stagewright.dockerfile.shell import Lexer
from stagewright.dockerfile.wildcard import has_wildcards
from stagewright.errors import DockerfileError
from stagewright.frontend.options import Options
from stagewright.frontend.paths import absolute, destination
from stagewright.frontend.run import Source
from stagewright.frontend.state import StageState
from stagewright.graph.ops import CopyAction, FileOp, MergeOp, MkdirAction, MkfileAction, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.ops.chmod import apply_mode
from stagewright.patterns import pattern
from stagewright.records import replace

Expand = Callable[[str], str]
NameOf = Callable[[str], str]

_HTTP = ("http://", "https://")
_GIT_SCHEME = pattern(r"(?:git|ssh)://", re.IGNORECASE)
_GIT_HTTP = pattern(r"https?://[^?#]*\.git(?:[?#].*)?", re.IGNORECASE | re.DOTALL)
_GIT_SCP = pattern(r"[a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:.*", re.DOTALL)


def apply_transfer(
    state: StageState,
    instruction: ast.TransferInstruction,
    expand: Expand,
    options: Options,
    source: Source,
    name_of: NameOf,
) -> None:
    """Add a COPY or ADD to the stage. `expand` replaces variables, `name_of` makes the display name."""
    sources = [expand(path) for path in instruction.sources]
    target = expand(instruction.destination)
    chown, chmod = expand(instruction.chown), expand(instruction.chmod)
    if chmod:
        apply_mode(chmod, 0, False)
    # What is malformed is said at its line, not when the copy runs.
    Matcher(patterns_from(instruction.exclude))
    _check_sources(instruction, sources)
    common = CopyAction(
        0,
        "",
        destination(target, state.cwd),
        owner=chown,
        mode=chmod,
        excludes=instruction.exclude,
        mtime=state.epoch,
    )
    inputs: list[Vertex] = []
    actions = []
    origin = _origin(instruction, options, source)
    for path in sources:
        action = replace(common, input=_index(inputs, origin), unpack=_unpacks(instruction), optional=True)
        actions.append(_select(action, path, parents=isinstance(instruction, ast.Copy) and instruction.parents))
    for content in instruction.contents:
        inline = _index(inputs, _inline(content, state))
        actions.append(replace(common, input=inline, source=content.path, wildcard=False))
    name = name_of(instruction.original)
    link = instruction.link and not chmod
    state.vertex = _stack(state, tuple(actions), inputs, _metadata(state, instruction, name), link=link)
    state.commit(_history(instruction, sources, chown, chmod, target), layer=True)


def _check_sources(instruction: ast.TransferInstruction, sources: list[str]) -> None:
    """Refuse what only the network could give."""
    kinds = [kind for path in sources if (kind := _remote_kind(path))]
    if isinstance(instruction, ast.Add):
        if instruction.checksum:
            if len(instruction.sources) != 1:
                raise DockerfileError("checksum can't be specified for multiple sources")
            if not kinds:
                raise DockerfileError("checksum requires HTTP(S) or Git sources")
        if kinds:
            raise DockerfileError(f"ADD of a {kinds[0]} is not supported yet", hint="fetch it in a RUN step")
    elif kinds:
        raise DockerfileError(f"source can't be a {kinds[0]} for COPY", hint="use ADD")


def _remote_kind(path: str) -> str | None:
    """What a source is that is no file of the context: a URL, or a git repository by BuildKit's rules."""
    if _GIT_SCHEME.match(path) or _GIT_HTTP.fullmatch(path) or _GIT_SCP.fullmatch(path):
        return "git ref"
    return "URL" if path.startswith(_HTTP) else None


def _unpacks(instruction: ast.TransferInstruction) -> bool:
    if not isinstance(instruction, ast.Add):
        return False
    return instruction.unpack is not False


def _select(action: CopyAction, path: str, *, parents: bool) -> CopyAction:
    """The action for one source. With `parents` the folders behind the pivot `/./`, or all of them, are kept."""
    if not parents:
        return replace(action, source=path)
    folder, pivot, pattern = path.partition("/./")
    if not pivot:
        folder, pattern = "/", path
    pattern = absolute(pattern).lstrip("/")
    Matcher(patterns_from((pattern,)))
    required = not has_wildcards(folder) and not has_wildcards(pattern)
    return replace(
        action,
        source=folder,
        includes=(pattern,) if pattern else (),
        required=(absolute(pattern, folder),) if required else (),
    )


def _origin(instruction: ast.TransferInstruction, options: Options, source: Source) -> Vertex:
    if isinstance(instruction, ast.Copy) and instruction.from_name:
        vertex = source(instruction.from_name)
        # A copy from nothing finds nothing, and says so when it looks.
        return vertex or Vertex(FileOp((), base=None), meta=Metadata("scratch"))
    return Vertex(SourceOp(f"local://{options.context_name}"), meta=Metadata("[internal] load build context"))


def _inline(content: ast.SourceContent, state: StageState) -> Vertex:
    text = content.text
    if content.expand:
        # Whatever the file's escape character is: BuildKit reads bodies with a backslash.
        text = Lexer(skip_quotes=True).process_word(text, state.env)
    action = MkfileAction(absolute(content.path), text.encode(errors="surrogateescape"))
    meta = Metadata("[internal] preparing inline document")
    return Vertex(FileOp((action,), base=None), platform=str(state.platform), meta=meta)


def _index(inputs: list[Vertex], vertex: Vertex) -> int:
    for index, known in enumerate(inputs):
        if known.digest == vertex.digest:
            return index
    inputs.append(vertex)
    return len(inputs) - 1


def _metadata(state: StageState, instruction: ast.Instruction, name: str, *, ignore_cache: bool = True) -> Metadata:
    return Metadata(
        name,
        location=instruction.location,
        stage=state.name or None,
        ignore_cache=ignore_cache and state.ignore_cache,
    )


def _stack(
    state: StageState, actions: tuple[CopyAction, ...], inputs: list[Vertex], meta: Metadata, *, link: bool
) -> Vertex:
    """The copies on top of the stage's files so far; with `link` as a layer that does not know what is below."""
    platform = str(state.platform)
    if state.vertex is None or link:
        layer = Vertex(FileOp(actions, base=None), tuple(inputs), platform, meta)
        if state.vertex is None:
            return layer
        prefix, _, text = meta.name.partition("] ")
        linked = replace(meta, name=f"{prefix}] LINK {text}")
        return Vertex(MergeOp(), (state.vertex, layer), platform, linked)
    shifted = tuple(replace(action, input=action.input + 1) for action in actions)
    return Vertex(FileOp(shifted, base=0), (state.vertex, *inputs), platform, meta)


def _history(instruction: ast.TransferInstruction, sources: list[str], chown: str, chmod: str, target: str) -> str:
    parts = ["ADD" if isinstance(instruction, ast.Add) else "COPY"]
    if isinstance(instruction, ast.Copy) and instruction.parents:
        parts.append("--parents")
    if chown:
        parts.append(f"--chown={chown}")
    if chmod:
        parts.append(f"--chmod={chmod}")
    parts += sources
    parts += [f"<<{content.path}" for content in instruction.contents]
    return " ".join([*parts, target, "# buildkit"])


def apply_workdir(state: StageState, workdir: ast.Workdir, expand: Expand, name_of: NameOf) -> None:
    """WORKDIR: where the next instructions work, made if it is missing."""
    state.change_folder(expand(workdir.text))
    path = absolute(state.cwd)
    layer = state.cwd != "/"
    if layer:
        action = MkdirAction(path, owner=state.config.user, mtime=state.epoch)
        base = None if state.vertex is None else 0
        inputs = () if state.vertex is None else (state.vertex,)
        # As in BuildKit, --no-cache does not reach it.
        meta = _metadata(state, workdir, name_of(workdir.original), ignore_cache=False)
        state.vertex = Vertex(FileOp((action,), base=base), inputs, str(state.platform), meta)
    state.commit(f"WORKDIR {state.cwd}", layer=layer)
