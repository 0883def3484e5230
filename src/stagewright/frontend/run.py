"""RUN: the command line of a step, its mounts, and the vertex that they make."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from stagewright.dockerfile import ast
from stagewright.dockerfile.heredoc import parse_heredoc
from stagewright.dockerfile.mounts import MountType, RunMount, Sharing, parse_mount
from stagewright.dockerfile.shell import Lexer
from stagewright.errors import DockerfileError
from stagewright.frontend import entitlements
from stagewright.frontend.contexts import is_folder, part_of
from stagewright.frontend.options import Options
from stagewright.frontend.paths import absolute
from stagewright.frontend.state import StageState
from stagewright.graph.ops import ExecOp, FileOp, MkfileAction, Mount
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.records import replace

Source = Callable[[str], Vertex | None]
"""Answers the files of a stage or image by the name that an instruction uses; None for none (scratch)."""

_SCRIPTS = "/dev/pipes/"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def apply_run(
    state: StageState, run: ast.Run, lexer: Lexer, options: Options, source: Source, name_of: Callable[[str], str]
) -> None:
    """Add a RUN to the stage. `name_of` makes the display name from the instruction's text."""
    entitlements.check(run, options.entitlements)
    step = _Step(state, options, source)
    args = step.command_line(run)
    secret_names = step.add_mounts(run, lexer)
    shown = Lexer(escape=lexer.escape, raw_quotes=True, skip_unset=True, budget=lexer.budget)
    text = run.original
    if run.heredocs and len(run.heredocs) == 1 and parse_heredoc(run.command[0]) is not None:
        text += f" ({_summary(run.heredocs[0].content)})"
    try:
        text = shown.process_word(text, {**state.env, **dict.fromkeys(secret_names, "****")})
    except DockerfileError:
        # The shell has a wider language than the lexer; then the text is shown as it is written.
        pass
    state.vertex = step.vertex(args, run, name_of(text))
    history = _history(args, state)
    # Each step holds the whole environment, and its history the build arguments.
    lexer.budget.spend(len(history) + sum(len(name) + len(value) for name, value in state.env.items()))
    state.commit(f"RUN {history} # buildkit", layer=True)


class _Step:
    """Gathers a step's inputs and mounts."""

    def __init__(self, state: StageState, options: Options, source: Source) -> None:
        self._state = state
        self._options = options
        self._source = source
        self._inputs: list[Vertex] = []
        self._mounts: list[Mount] = []
        self._ssh_mounts = 0
        self._mounts.append(Mount("bind", "/", self._input(state.vertex)))

    def _input(self, vertex: Vertex | None) -> int | None:
        if vertex is None:
            return None
        # The root is an input of its own: a mount of the same stage does not stand for it.
        first = 0 if self._state.vertex is None else 1
        for index, known in enumerate(self._inputs[first:], start=first):
            if known.digest == vertex.digest:
                return index
        self._inputs.append(vertex)
        return len(self._inputs) - 1

    def command_line(self, run: ast.Run) -> tuple[str, ...]:
        if not run.heredocs:
            return self._state.shell_form(" ".join(run.command)) if run.shell_form else run.command
        if parse_heredoc(run.command[0]) is None:
            # The shell handles them itself.
            bodies = "".join(f"\n{document.content}{document.name}" for document in run.heredocs)
            return self._state.shell_form(run.command[0] + bodies)
        document = run.heredocs[0]
        text = document.text()
        if not text.startswith("#!"):
            return self._state.shell_form(text)
        script = MkfileAction(f"/{document.name}", text.encode(errors="surrogateescape"), mode=0o755)
        meta = Metadata("[internal] preparing inline document")
        vertex = Vertex(FileOp((script,), base=None), platform=str(self._state.platform), meta=meta)
        self._mounts.append(Mount("bind", _SCRIPTS, self._input(vertex), "/", readonly=True))
        return self._state.shell_form(posixpath.join(_SCRIPTS, document.name))

    def add_mounts(self, run: ast.Run, lexer: Lexer) -> list[str]:
        """Add the `--mount`s; answers the variables that hold secrets."""
        secret_names = []
        for spec in run.mounts:
            mount = parse_mount(spec.text, lambda word: lexer.process_word(word, self._state.env))
            if mount.type is MountType.SECRET:
                self._mounts.append(self._secret(mount))
                if mount.env is not None:
                    secret_names.append(mount.env)
            elif mount.type is MountType.SSH:
                self._mounts.append(self._ssh(mount))
            else:
                self._mounts.append(self._folder(mount, spec.from_name, run))
        return secret_names

    def _folder(self, mount: RunMount, from_name: str, run: ast.Run) -> Mount:
        target = absolute(mount.target, self._state.cwd)
        if target == "/":
            raise DockerfileError(f'invalid mount target "{mount.target or target}"')
        selector = absolute(mount.source)
        if mount.type is MountType.TMPFS:
            return Mount("tmpfs", target, size=mount.size_bytes or None)
        if mount.type is MountType.CACHE:
            origin = self._origin(from_name, selector, run) if from_name else None
            cache = Mount(
                "cache",
                target,
                self._input(origin),
                selector,
                readonly=mount.read_only,
                id=mount.id or posixpath.normpath(mount.target),
                sharing=(mount.sharing or Sharing.SHARED).value,
            )
            if selector == "/":
                cache = replace(cache, mode=mount.mode, uid=mount.uid or 0, gid=mount.gid or 0)
            return cache
        origin = self._origin(from_name, selector, run)
        return Mount("bind", target, self._input(origin), selector, readonly=mount.read_only)

    def _origin(self, from_name: str, selector: str, run: ast.Run) -> Vertex | None:
        """What to mount from; of a folder that is read in place the selected part, under its own path."""
        vertex = self._source(from_name) if from_name else self._options.context
        if vertex is None or not is_folder(vertex):
            return vertex
        return part_of(vertex, selector, replace(vertex.meta, location=run.location))

    def _secret(self, mount: RunMount) -> Mount:
        id = mount.source or mount.id or posixpath.basename(mount.target)
        target = absolute(mount.target, self._state.cwd) if mount.target else ""
        if mount.env is None and not target:
            target = f"/run/secrets/{posixpath.basename(id)}"
        return Mount(
            "secret",
            target,
            id=id,
            required=mount.required,
            env=mount.env,
            mode=mount.mode,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
        )

    def _ssh(self, mount: RunMount) -> Mount:
        if mount.source:
            raise DockerfileError("ssh does not support source")
        target = absolute(mount.target or f"/run/buildkit/ssh_agent.{self._ssh_mounts}", self._state.cwd)
        self._ssh_mounts += 1
        return Mount(
            "ssh",
            target,
            id=mount.id or "default",
            required=mount.required,
            mode=mount.mode,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
        )

    def vertex(self, args: tuple[str, ...], run: ast.Run, name: str) -> Vertex:
        state, options = self._state, self._options
        op = ExecOp(
            args=args,
            env=tuple(f"{key}={value}" for key, value in state.env.items()),
            cwd=state.cwd,
            mounts=tuple(self._mounts),
            user=state.config.user,
            hostname=options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
            extra_hosts=options.extra_hosts,
            ulimits=options.ulimits,
            shm_size=options.shm_size,
            security=run.security,  # type: ignore[arg-type]
            network=run.network if run.network != "default" else options.network,  # type: ignore[arg-type]
            proxy_env=_proxy_env(options),
        )
        meta = Metadata(
            name,
            location=run.location,
            stage=state.name or None,
            ignore_cache=state.ignore_cache,
        )
        return Vertex(op, tuple(self._inputs), platform=str(state.platform), meta=meta)


def _proxy_env(options: Options) -> tuple[str, ...]:
    """The proxy variables that a step gets from build arguments without having declared them, in both cases."""
    # Names in lower case sort last, and so win.
    values = {name.lower(): options.build_args[name] for name in sorted(options.build_args)}
    given = [(name, values[name]) for name in _PROXIES if values.get(name)]
    return tuple(f"{spelling}={value}" for name, value in given for spelling in (name.upper(), name))


def _history(args: tuple[str, ...], state: StageState) -> str:
    """The command line with the build arguments in front, as `|2 A=1 B=2 /bin/sh -c ...`."""
    shown = {name: state.env.get(name, value or "") for name, value in state.build_args}
    prefix = [f"|{len(shown)}", *(f"{name}={value}" for name, value in shown.items())] if shown else []
    return " ".join([*prefix, *args])


def _summary(text: str) -> str:
    lines = text.strip().replace("\r\n", "\n").split("\n")
    return lines[0] + ("..." if len(lines) > 1 else "")
