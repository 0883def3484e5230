"""COPY, ADD and WORKDIR: the file ops that they make."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from stagewright.dockerfile import ast
from stagewright.dockerfile.shell import Lexer
from stagewright.errors import DockerfileError
from stagewright.frontend.options import Options
from stagewright.frontend.run import Source
from stagewright.frontend.state import StageState
from stagewright.graph.ops import CopyAction, FileOp, MergeOp, MkdirAction, MkfileAction, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.ops.chmod import apply_mode

Expand = Callable[[str], str]


def apply_transfer(
    state: StageState,
    instruction: ast.TransferInstruction,
    expand: Expand,
    options: Options,
    source: Source,
    name_of: Callable[[str], str],
) -> None:
    """Add a COPY or ADD to the stage. `expand` replaces variables, `name_of` makes the display name."""
    _check(instruction)
    is_add = isinstance(instruction, ast.Add)
    sources = [expand(path) for path in instruction.sources]
    destination = expand(instruction.destination)
    chown, chmod = expand(instruction.chown), expand(instruction.chmod)
    if chmod:
        apply_mode(chmod, 0, False)
    if len(sources) + len(instruction.contents) > 1 and not destination.endswith("/"):
        keyword = "ADD" if is_add else "COPY"
        raise DockerfileError(
            f"When using {keyword} with more than one source file, the destination must be a directory and end with a /"
        )
    dest = absolute(state.cwd, destination)
    inputs: list[Vertex] = []
    actions: list[CopyAction] = []
    origin = _origin(instruction, options, source)
    for path in sources:
        _check_local(path, is_add)
        unpack = is_add if not isinstance(instruction, ast.Add) or instruction.unpack is None else instruction.unpack
        actions.append(
            CopyAction(_index(inputs, origin), path, dest, owner=chown, mode=chmod, unpack=unpack, optional=True)
        )
    for content in instruction.contents:
        inline = _inline(content, state)
        actions.append(CopyAction(_index(inputs, inline), content.path, dest, owner=chown, mode=chmod, wildcard=False))
    meta = Metadata(
        name_of(instruction.original),
        location=instruction.location,
        stage=state.name or None,
        ignore_cache=state.ignore_cache,
        command=instruction.original,
    )
    state.vertex = _stack(state, actions, inputs, meta, link=instruction.link and not chmod)
    state.commit(_history(instruction, sources, chown, chmod, destination), layer=True)


def _check(instruction: ast.TransferInstruction) -> None:
    if instruction.exclude:
        raise DockerfileError("the flag --exclude is not supported yet")
    if isinstance(instruction, ast.Copy) and instruction.parents:
        raise DockerfileError("the flag --parents is not supported yet")
    if isinstance(instruction, ast.Add) and instruction.checksum:
        raise DockerfileError("the flag --checksum is not supported yet")


def _check_local(path: str, is_add: bool) -> None:
    if path.startswith(("http://", "https://", "git://", "git@", "ssh://")):
        if not is_add:
            raise DockerfileError("source can't be a URL for COPY")
        raise DockerfileError("ADD of a URL or a git repository is not supported yet")


def _origin(instruction: ast.TransferInstruction, options: Options, source: Source) -> Vertex:
    if isinstance(instruction, ast.Copy) and instruction.from_name:
        vertex = source(instruction.from_name)
        # A copy from nothing finds nothing, and says so when it looks.
        return vertex or Vertex(FileOp((), base=None), meta=Metadata("scratch"))
    return Vertex(SourceOp(f"local://{options.context_name}"), meta=Metadata("[internal] load build context"))


def _inline(content: ast.SourceContent, state: StageState) -> Vertex:
    text = content.text
    if content.expand:
        text = Lexer(skip_quotes=True).process_word(text, state.env)
    path = posixpath.normpath("/" + content.path)
    action = MkfileAction(path, text.encode(errors="surrogateescape"))
    meta = Metadata("[internal] preparing inline document")
    return Vertex(FileOp((action,), base=None), platform=str(state.platform), meta=meta)


def _index(inputs: list[Vertex], vertex: Vertex) -> int:
    for index, known in enumerate(inputs):
        if known.digest == vertex.digest:
            return index
    inputs.append(vertex)
    return len(inputs) - 1


def _stack(state: StageState, actions: list[CopyAction], inputs: list[Vertex], meta: Metadata, *, link: bool) -> Vertex:
    """The copies on top of the stage's files so far; with `link` as a layer that does not know what is below."""
    from stagewright.records import replace

    platform = str(state.platform)
    if state.vertex is None or link:
        layer = Vertex(FileOp(tuple(actions), base=None), tuple(inputs), platform, meta)
        if state.vertex is None:
            return layer
        return Vertex(MergeOp(), (state.vertex, layer), platform, replace(meta, name=f"{meta.name} (link)"))
    shifted = tuple(replace(action, input=action.input + 1) for action in actions)
    return Vertex(FileOp(shifted, base=0), (state.vertex, *inputs), platform, meta)


def _history(instruction: ast.TransferInstruction, sources: list[str], chown: str, chmod: str, destination: str) -> str:
    parts = ["ADD" if isinstance(instruction, ast.Add) else "COPY"]
    if chown:
        parts.append(f"--chown={chown}")
    if chmod:
        parts.append(f"--chmod={chmod}")
    parts += sources
    parts += [f"<<{content.path}" for content in instruction.contents]
    return " ".join([*parts, destination, "# buildkit"])


def absolute(cwd: str, path: str) -> str:
    """A destination as an absolute path; a slash at the end, or a path that means a folder, keeps one."""
    joined = posixpath.join("/", cwd, path)
    folder = path in ("", ".") or path.endswith(("/", "/."))
    clean = posixpath.normpath(joined)
    # POSIX lets two slashes at the beginning mean something else; a root file system does not.
    clean = "/" + clean.lstrip("/")
    return clean + "/" if folder and clean != "/" else clean


def apply_workdir(state: StageState, workdir: ast.Workdir, expand: Expand, name_of: Callable[[str], str]) -> None:
    """WORKDIR: where the next instructions work, made if it is missing."""
    state.change_folder(expand(workdir.text))
    if state.cwd != "/":
        action = MkdirAction(absolute("/", state.cwd).rstrip("/") or "/", owner=state.config.user)
        base = None if state.vertex is None else 0
        inputs = () if state.vertex is None else (state.vertex,)
        meta = Metadata(
            name_of(workdir.original), location=workdir.location, stage=state.name or None, command=workdir.original
        )
        state.vertex = Vertex(FileOp((action,), base=base), inputs, str(state.platform), meta)
    state.commit(f"WORKDIR {state.cwd}", layer=state.cwd != "/")
