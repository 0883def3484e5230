"""Instructions that change a stage's environment or the image's config, and no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stagewright.dockerfile import ast
from stagewright.dockerfile.golang import parse_int
from stagewright.dockerfile.shell import Lexer
from stagewright.dockerfile.suggest import with_suggestion
from stagewright.errors import DockerfileError
from stagewright.frontend.format import healthcheck, plain_list, quoted_list
from stagewright.frontend.ports import parse_ports
from stagewright.frontend.state import StageState
from stagewright.image.config import HealthCheck
from stagewright.records import replace

Expand = Callable[[str], str]

# What these say is for the builder alone.
_NOT_SEEN = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_SIGNALS = frozenset(
    {
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
        *(f"RTMIN+{number}" for number in range(1, 16)),
        *(f"RTMAX-{number}" for number in range(1, 15)),
    }
)  # fmt: skip


def apply_arg(
    state: StageState, arg: ast.Arg, lexer: Lexer, build_args: Mapping[str, str], global_args: Mapping[str, str]
) -> None:
    """ARG: a build argument counts before the default, and without one the ARG of that name before the first FROM."""
    shown = []
    for definition in arg.definitions:
        name = definition.name
        value: str | None
        if name in build_args:
            value = build_args[name]
        elif definition.default is not None:
            value = lexer.process_word(definition.default, state.env)
        else:
            value = global_args.get(name)
        if value is not None and name not in _NOT_SEEN:
            state.see(name, value)
        state.build_args.append((name, value))
        shown.append(name if value is None else f"{name}={value}")
    state.commit(f"ARG {' '.join(shown)}", layer=False)


def apply_env(state: StageState, env: ast.Env, expand: Expand) -> None:
    # All pairs see the environment from before the instruction.
    pairs = [(expand(pair.name), expand(pair.value)) for pair in env.pairs]
    for name, value in pairs:
        state.set_env(name, value)
    state.commit("ENV " + " ".join(f"{name}={value}" for name, value in pairs), layer=False)


def apply_label(state: StageState, label: ast.Label, expand: Expand) -> None:
    pairs = [(expand(pair.name), expand(pair.value)) for pair in label.pairs]
    state.configure(labels={**state.config.labels, **dict(pairs)})
    state.commit("LABEL " + " ".join(f"{name}={value}" for name, value in pairs), layer=False)


def apply_cmd(state: StageState, cmd: ast.Cmd) -> None:
    args = _command(state, cmd)
    state.configure(cmd=args, args_escaped=True)
    state.cmd_set = True
    state.commit(f"CMD {quoted_list(args)}", layer=False)


def apply_entrypoint(state: StageState, entrypoint: ast.Entrypoint) -> None:
    """ENTRYPOINT: a CMD that was inherited does not fit the new one, so it is cleared."""
    args = _command(state, entrypoint)
    state.configure(entrypoint=args)
    if not state.cmd_set:
        state.configure(cmd=())
    state.commit(f"ENTRYPOINT {quoted_list(args)}", layer=False)


def _command(state: StageState, instruction: ast.CommandInstruction) -> tuple[str, ...]:
    if instruction.shell_form:
        return state.shell_form(" ".join(instruction.command))
    return instruction.command


def apply_user(state: StageState, user: ast.User, expand: Expand) -> None:
    name = expand(user.text)
    state.configure(user=name)
    state.commit(f"USER {name}", layer=False)


def apply_expose(state: StageState, expose: ast.Expose, lexer: Lexer) -> None:
    words = [word for port in expose.words for word in lexer.process_words(port, state.env)]
    ports = parse_ports(words)
    state.configure(exposed_ports=state.config.exposed_ports | set(ports))
    state.commit(f"EXPOSE {plain_list(ports)}", layer=False)


def apply_volume(state: StageState, volume: ast.Volume, expand: Expand) -> None:
    paths = [expand(path) for path in volume.words]
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    state.configure(volumes=state.config.volumes | set(paths))
    state.commit(f"VOLUME {plain_list(paths)}", layer=False)


def apply_stopsignal(state: StageState, stop: ast.StopSignal, expand: Expand) -> None:
    signal = expand(stop.text)
    _check_signal(signal)
    state.configure(stop_signal=signal)
    state.commit(f"STOPSIGNAL {signal}", layer=False)


def _check_signal(text: str) -> None:
    """As Docker reads signals: a number, or a Linux name with or without SIG."""
    try:
        valid = parse_int(text, 64) != 0
    except ValueError:
        valid = text.upper().removeprefix("SIG") in _SIGNALS
    if not valid:
        names = [f"SIG{name}" for name in _SIGNALS if len(name) > 2]
        raise DockerfileError(with_suggestion(f"invalid signal: {text}", text, names, case_sensitive=False))


def apply_healthcheck(state: StageState, instruction: ast.Healthcheck) -> None:
    check = HealthCheck(
        test=instruction.test,
        interval_ns=instruction.interval_ns,
        timeout_ns=instruction.timeout_ns,
        start_period_ns=instruction.start_period_ns,
        start_interval_ns=instruction.start_interval_ns,
        retries=instruction.retries,
    )
    state.configure(healthcheck=check)
    state.commit(f"HEALTHCHECK {healthcheck(check)}", layer=False)


def apply_shell(state: StageState, shell: ast.Shell) -> None:
    state.configure(shell=shell.words)
    state.commit(f"SHELL {plain_list(shell.words)}", layer=False)


def apply_maintainer(state: StageState, maintainer: ast.Maintainer) -> None:
    state.image = replace(state.image, author=maintainer.text)
    state.commit(f"MAINTAINER {maintainer.text}", layer=False)


def apply_onbuild(state: StageState, onbuild: ast.Onbuild) -> None:
    state.configure(on_build=(*state.config.on_build, onbuild.text))
