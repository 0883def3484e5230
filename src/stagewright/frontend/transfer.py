"""COPY, ADD and WORKDIR: the file ops that they make."""

from __future__ import annotations

from collections.abc import Callable

from stagewright.dockerfile import ast
from stagewright.dockerfile.giturl import check_commit, parse_git_ref
from stagewright.dockerfile.golang import quote
from stagewright.dockerfile.ignore import Matcher, patterns_from
from stagewright.dockerfile.shell import Budget, Lexer
from stagewright.dockerfile.wildcard import has_wildcards
from stagewright.errors import DockerfileError
from stagewright.frontend.options import Options
from stagewright.frontend.paths import absolute, destination
from stagewright.frontend.remote import filename_of, git_source, http_source, is_checksum, is_url
from stagewright.frontend.run import Source
from stagewright.frontend.state import StageState
from stagewright.graph.ops import CopyAction, FileOp, MergeOp, MkdirAction, MkfileAction
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.ops.chmod import apply_mode
from stagewright.records import replace
from stagewright.redaction import redact_text, redact_url

Expand = Callable[[str], str]
NameOf = Callable[[str], str]


def apply_transfer(
    state: StageState,
    instruction: ast.TransferInstruction,
    expand: Expand,
    options: Options,
    source: Source,
    name_of: NameOf,
    budget: Budget,
) -> None:
    """Add a COPY or ADD to the stage. `expand` replaces variables, `name_of` makes the display name.

    `budget` is that of the file's lexer.
    """
    sources = [expand(path) for path in instruction.sources]
    target = expand(instruction.destination)
    chown, chmod = expand(instruction.chown), expand(instruction.chmod)
    if chmod:
        apply_mode(chmod, 0, False)
    # What is malformed is said at its line, not when the copy runs.
    Matcher(patterns_from(instruction.exclude))
    checksum = _checksum(instruction, sources, expand)
    common = CopyAction(
        0,
        "",
        destination(target, state.cwd),
        owner=chown,
        mode=chmod,
        excludes=instruction.exclude,
        mtime=state.epoch,
    )
    name = name_of(redact_text(instruction.original))
    inputs: list[Vertex] = []
    actions = []
    origin = _origin(instruction, options, source)
    for path in sources:
        meta = _metadata(state, instruction, name, ignore_cache=False)
        if (remote := _remote(instruction, path, checksum, common, meta)) is not None:
            vertex, action = remote
            actions.append(replace(action, input=_index(inputs, vertex)))
            continue
        action = replace(common, input=_index(inputs, origin), unpack=_unpacks(instruction), optional=True)
        actions.append(_select(action, path, parents=isinstance(instruction, ast.Copy) and instruction.parents))
    for content in instruction.contents:
        inline = _index(inputs, _inline(content, state, budget))
        actions.append(replace(common, input=inline, source=content.path, wildcard=False))
    link = instruction.link and not chmod
    state.vertex = _stack(state, tuple(actions), inputs, _metadata(state, instruction, name), link=link)
    shown = [redact_url(path) for path in sources]
    state.commit(_history(instruction, shown, chown, chmod, target), layer=True)


def _checksum(instruction: ast.TransferInstruction, sources: list[str], expand: Expand) -> str:
    """The value of --checksum, "" without one. Raises DockerfileError where there is nothing that it could be of."""
    checksum = expand(instruction.checksum) if isinstance(instruction, ast.Add) else ""
    if checksum and len(sources) != 1:
        raise DockerfileError("checksum can't be specified for multiple sources")
    if checksum and not (is_url(sources[0]) or parse_git_ref(sources[0])):
        raise DockerfileError("checksum requires HTTP(S) or Git sources")
    return checksum


def _remote(
    instruction: ast.TransferInstruction, path: str, checksum: str, common: CopyAction, meta: Metadata
) -> tuple[Vertex, CopyAction] | None:
    """The vertex of a source that is not of this machine, and its copy; None for any other source."""
    ref = parse_git_ref(path)
    if ref is None and not is_url(path):
        return None
    kind = "URL" if ref is None else "git ref"
    if not isinstance(instruction, ast.Add):
        raise DockerfileError(f"source can't be a {kind} for COPY", hint="use ADD")
    if ref is None:
        filename = filename_of(path)
        if checksum and not is_checksum(checksum):
            raise DockerfileError(f"invalid checksum {checksum}", hint="write it as sha256: and 64 hex digits")
        vertex = http_source(path, meta, filename=filename, checksum=checksum)
        return vertex, replace(common, source=filename, wildcard=False, unpack=bool(instruction.unpack))
    keep = instruction.keep_git_dir
    if keep is not None and ref.keep_git_dir not in (None, keep):
        raise DockerfileError("inconsistent keep-git-dir configuration")
    if checksum and ref.checksum not in ("", checksum):
        raise DockerfileError(f"checksum mismatch {quote(checksum)} != {quote(ref.checksum)}")
    check_commit(checksum)
    vertex = git_source(ref, meta, keep_git_dir=bool(keep), checksum=checksum)
    return vertex, replace(common, source="/", wildcard=False, folder_itself=True)


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
    return options.context


def _inline(content: ast.SourceContent, state: StageState, budget: Budget) -> Vertex:
    text = content.text
    if content.expand:
        # Whatever the file's escape character is: BuildKit reads bodies with a backslash.
        text = Lexer(skip_quotes=True, budget=budget).process_word(text, state.env)
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
