"""From instructions as text to typed ones, each checked as BuildKit checks it; `parse` reads a whole Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypedDict

from stagewright.dockerfile import ast, golang
from stagewright.dockerfile.arguments import KeyValue
from stagewright.dockerfile.flags import Flags, Kind, parse_flags
from stagewright.dockerfile.golang import SPACES, quote
from stagewright.dockerfile.heredoc import Heredoc, parse_heredoc
from stagewright.dockerfile.mounts import parse_device, parse_mount_spec
from stagewright.dockerfile.parser import Node, parse_file
from stagewright.dockerfile.suggest import with_suggestion
from stagewright.errors import DockerfileError, SourceRange
from stagewright.patterns import pattern
from stagewright.records import replace

if TYPE_CHECKING:
    # Making such a class takes longer than reading a Dockerfile does.
    class _Common(TypedDict):
        keyword: str
        original: str
        location: SourceRange
        comments: tuple[str, ...]
        heredocs: tuple[Heredoc, ...]

    class _Transfer(_Common):
        sources: tuple[str, ...]
        contents: tuple[ast.SourceContent, ...]
        destination: str
        chown: str
        chmod: str
        link: bool
        exclude: tuple[str, ...]


_STAGE_NAME = pattern(r"[a-z][a-z0-9\-_.]*")
_ONBUILD = pattern(r"[\t\n\f\r ]*ONBUILD[\t\n\f\r ]*", re.IGNORECASE)
_MILLISECOND_NS = 1_000_000
# Far beyond what any store can hold as layers.
_MOST_INSTRUCTIONS = 50_000

_TRANSFER_FLAGS = {
    "chown": Kind.STRING,
    "chmod": Kind.STRING,
    "link": Kind.BOOL,
    "exclude": Kind.STRINGS,
}
_COPY_FLAGS = {**_TRANSFER_FLAGS, "from": Kind.STRING, "parents": Kind.BOOL}
_ADD_FLAGS = {**_TRANSFER_FLAGS, "checksum": Kind.STRING, "keep-git-dir": Kind.BOOL, "unpack": Kind.BOOL}
_RUN_FLAGS = {"mount": Kind.STRINGS, "device": Kind.STRINGS, "network": Kind.STRING, "security": Kind.STRING}
_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")
_HEALTHCHECK_FLAGS = dict.fromkeys(("interval", "timeout", "start-period", "start-interval", "retries"), Kind.STRING)


def parse(data: bytes, filename: str = "Dockerfile") -> ast.Dockerfile:
    """Reads a Dockerfile: UTF-8 text (other bytes survive as lone surrogates), named `filename` in messages.

    Raises DockerfileError with a location, and nothing else, whatever the bytes are. The language is that of
    docker/dockerfile:1, whatever `syntax` directive the file has.
    """
    dockerfile, problem = parse_to_end(data, filename)
    if problem is not None:
        raise problem
    return dockerfile


def parse_to_end(data: bytes, filename: str) -> tuple[ast.Dockerfile, DockerfileError | None]:
    """As `parse`, but of a file with an instruction that means nothing, what stands before it, and its error."""
    parsed = parse_file(data, filename)
    if len(parsed.nodes) > _MOST_INSTRUCTIONS:
        location = parsed.nodes[_MOST_INSTRUCTIONS].location
        raise DockerfileError(f"the Dockerfile has more than {_MOST_INSTRUCTIONS} instructions", location=location)
    meta_args: list[ast.Arg] = []
    stages: list[ast.Stage] = []
    instructions: list[ast.Instruction] = []
    problem = None
    for node in parsed.nodes:
        try:
            if node.keyword.lower() == "from":
                _close(stages, instructions)
                stages.append(_stage(node))
                continue
            instruction = _instruction(node)
        except DockerfileError as error:
            message = f"dockerfile parse error on line {node.location.start}: {error.message}"
            problem = DockerfileError(message, location=node.location)
            break
        if stages:
            instructions.append(instruction)
        elif isinstance(instruction, ast.Arg):
            meta_args.append(instruction)
        else:
            problem = DockerfileError("no build stage in current context", location=node.location)
            break
    if not stages and problem is None:
        problem = DockerfileError("dockerfile contains no stages to build", location=parsed.nodes[-1].location)
    _close(stages, instructions)
    dockerfile = ast.Dockerfile(
        source=parsed.source,
        directives=parsed.directives,
        meta_args=tuple(meta_args),
        stages=tuple(stages),
        blank_continuations=tuple(node.blank_continuation for node in parsed.nodes if node.blank_continuation),
    )
    return dockerfile, problem


def parse_trigger(expression: str, location: SourceRange) -> ast.Instruction:
    """The instruction that an image's ONBUILD holds, placed at `location` (of the FROM that sets it off).

    Raises DockerfileError, also if it is not exactly one instruction.
    """
    try:
        nodes = parse_file(expression.encode("utf-8", "surrogateescape"), "ONBUILD").nodes
        if len(nodes) != 1:
            _fail("onbuild trigger should be a single expression")
        if nodes[0].keyword.lower() == "from":
            _fail("FROM isn't allowed as an ONBUILD trigger")
        return replace(_instruction(nodes[0]), location=location)
    except DockerfileError as error:
        error.location = location
        raise


def _close(stages: list[ast.Stage], instructions: list[ast.Instruction]) -> None:
    """Gives the last stage the instructions that were gathered for it."""
    if instructions:
        stages[-1] = replace(stages[-1], instructions=tuple(instructions))
        instructions.clear()


def _fail(message: str) -> NoReturn:
    raise DockerfileError(message)


def _common(node: Node) -> _Common:
    return {
        "keyword": node.keyword,
        "original": node.original.strip(SPACES),
        "location": node.location,
        "comments": node.comments,
        "heredocs": node.heredocs,
    }


def _instruction(node: Node) -> ast.Instruction:
    convert = _CONVERTERS.get(node.keyword.lower())
    if convert is None:
        names = [name.upper() for name in (*_CONVERTERS, "from")]
        _fail(with_suggestion(f"unknown instruction: {node.keyword}", node.keyword, names, case_sensitive=False))
    return convert(node)


def _stage(node: Node) -> ast.Stage:
    values = node.arguments.values
    name = as_keyword = written = ""
    if len(values) == 3 and values[1].lower() == "as":
        _, as_keyword, written = values
        name = written.lower()
        if not _STAGE_NAME.fullmatch(name):
            _fail(f"invalid name for build stage: {quote(written)}, name can't start with a number or contain symbols")
    elif len(values) != 1:
        _fail("FROM requires either one or three arguments")
    flags = parse_flags(node.flags, {"platform": Kind.STRING})
    return ast.Stage(
        base_name=values[0],
        name=name,
        platform=flags.string("platform"),
        description=_description(node.comments, name),
        keyword=node.keyword,
        as_keyword=as_keyword,
        name_as_written=written,
        original=node.original.strip(SPACES),
        location=node.location,
        comments=node.comments,
    )


def _description(comments: tuple[str, ...], name: str) -> str:
    """What the first comment that begins with the name says about it."""
    prefix = f"{name} "
    return next((text[len(prefix) :] for text in comments if name and text.startswith(prefix)), "")


def _arg(node: Node) -> ast.Arg:
    # Flags are not looked at here, nor for STOPSIGNAL and HEALTHCHECK NONE: BuildKit ignores them.
    if not node.arguments.values:
        _fail("ARG requires at least one argument")
    definitions = []
    for word in node.arguments.values:
        name, separator, default = word.partition("=")
        if not name:
            _fail("ARG names can not be blank")
        definitions.append(ast.ArgDefinition(name, default if separator else None, _description(node.comments, name)))
    return ast.Arg(**_common(node), definitions=tuple(definitions))


def _pairs(node: Node) -> tuple[KeyValue, ...]:
    name = node.keyword.upper()
    parse_flags(node.flags, {})
    if not node.arguments.pairs:
        _fail(f"{name} requires at least one argument")
    if not all(pair.name for pair in node.arguments.pairs):
        _fail(f"{name} names can not be blank")
    return node.arguments.pairs


def _env(node: Node) -> ast.Env:
    return ast.Env(pairs=_pairs(node), **_common(node))


def _label(node: Node) -> ast.Label:
    return ast.Label(pairs=_pairs(node), **_common(node))


def _run(node: Node) -> ast.Run:
    flags = parse_flags(node.flags, _RUN_FLAGS)
    devices = tuple(parse_device(text) for text in flags.strings("device"))
    mounts = tuple(parse_mount_spec(text) for text in flags.strings("mount"))
    network = flags.string("network", "default")
    if network not in _NETWORKS:
        _fail(with_suggestion(f"invalid network mode {quote(network)}", network, _NETWORKS))
    security = flags.string("security", "sandbox")
    if security not in _SECURITIES:
        _fail(with_suggestion(f"security {quote(security)} is not valid", security, _SECURITIES))
    return ast.Run(
        **_common(node),
        command=node.arguments.values,
        shell_form=not node.arguments.json,
        mounts=mounts,
        devices=devices,
        network=network,
        security=security,
    )


def _cmd(node: Node) -> ast.Cmd:
    parse_flags(node.flags, {})
    return ast.Cmd(**_common(node), command=node.arguments.values, shell_form=not node.arguments.json)


def _entrypoint(node: Node) -> ast.Entrypoint:
    parse_flags(node.flags, {})
    return ast.Entrypoint(**_common(node), command=node.arguments.values, shell_form=not node.arguments.json)


def _transfer(node: Node, known: Mapping[str, Kind]) -> tuple[_Transfer, Flags]:
    """What COPY and ADD share, and all the flags."""
    name = node.keyword.upper()
    if len(node.arguments.values) < 2:
        _fail(f"{name} requires at least two arguments, but only one was provided. Destination could not be determined")
    flags = parse_flags(node.flags, known)
    *words, destination = node.arguments.values
    if _heredoc_word(destination) is not None:
        _fail(f"{name} cannot accept a heredoc as a destination")
    bodies = {heredoc.name: heredoc.content for heredoc in node.heredocs}
    sources, contents = [], []
    for word in words:
        heredoc = _heredoc_word(word)
        if heredoc is None:
            sources.append(word)
        else:
            text = replace(heredoc, content=bodies.get(heredoc.name, "")).text()
            contents.append(ast.SourceContent(heredoc.name, text, heredoc.expand))
    shared: _Transfer = {
        **_common(node),
        "sources": tuple(sources),
        "contents": tuple(contents),
        "destination": destination,
        "chown": flags.string("chown"),
        "chmod": flags.string("chmod"),
        "link": flags.boolean("link") or False,
        "exclude": flags.strings("exclude"),
    }
    return shared, flags


def _heredoc_word(word: str) -> Heredoc | None:
    try:
        return parse_heredoc(word)
    except DockerfileError:
        # A word whose quotes do not end is a path here; expanding it will say what is wrong with it.
        return None


def _copy(node: Node) -> ast.Copy:
    shared, flags = _transfer(node, _COPY_FLAGS)
    return ast.Copy(**shared, from_name=flags.string("from"), parents=flags.boolean("parents") or False)


def _add(node: Node) -> ast.Add:
    shared, flags = _transfer(node, _ADD_FLAGS)
    return ast.Add(
        **shared,
        checksum=flags.string("checksum"),
        keep_git_dir=flags.boolean("keep-git-dir"),
        unpack=flags.boolean("unpack"),
    )


def _only_argument(node: Node, *, flags: bool = True) -> str:
    if len(node.arguments.values) != 1:
        _fail(f"{node.keyword.upper()} requires exactly one argument")
    if flags:
        parse_flags(node.flags, {})
    return node.arguments.values[0]


def _workdir(node: Node) -> ast.Workdir:
    return ast.Workdir(text=_only_argument(node), **_common(node))


def _user(node: Node) -> ast.User:
    return ast.User(text=_only_argument(node), **_common(node))


def _maintainer(node: Node) -> ast.Maintainer:
    return ast.Maintainer(text=_only_argument(node), **_common(node))


def _stopsignal(node: Node) -> ast.StopSignal:
    return ast.StopSignal(text=_only_argument(node, flags=False), **_common(node))


def _expose(node: Node) -> ast.Expose:
    if not node.arguments.values:
        _fail("EXPOSE requires at least one argument")
    parse_flags(node.flags, {})
    return ast.Expose(words=tuple(sorted(node.arguments.values)), **_common(node))


def _volume(node: Node) -> ast.Volume:
    if not node.arguments.values:
        _fail("VOLUME requires at least one argument")
    parse_flags(node.flags, {})
    paths = tuple(path.strip(SPACES) for path in node.arguments.values)
    if not all(paths):
        _fail("VOLUME specified can not be an empty string")
    return ast.Volume(words=paths, **_common(node))


def _shell(node: Node) -> ast.Shell:
    parse_flags(node.flags, {})
    if not node.arguments.values:
        _fail("SHELL requires at least one argument")
    if not node.arguments.json:
        _fail("SHELL requires the arguments to be in JSON form")
    return ast.Shell(words=node.arguments.values, **_common(node))


def _healthcheck(node: Node) -> ast.Healthcheck:
    if not node.arguments.values:
        _fail("HEALTHCHECK requires at least one argument")
    kind, command = node.arguments.values[0].upper(), node.arguments.values[1:]
    if kind == "NONE":
        if command:
            _fail("HEALTHCHECK NONE takes no arguments")
        return ast.Healthcheck(test=(kind,), **_common(node))
    flags = parse_flags(node.flags, _HEALTHCHECK_FLAGS)
    if kind != "CMD":
        _fail(f"Unknown type {quote(kind)} in HEALTHCHECK (try CMD)")
    if not command:
        _fail("Missing command after HEALTHCHECK CMD")
    return ast.Healthcheck(
        **_common(node),
        test=("CMD" if node.arguments.json else "CMD-SHELL", *command),
        interval_ns=_interval_ns(flags, "interval"),
        timeout_ns=_interval_ns(flags, "timeout"),
        start_period_ns=_interval_ns(flags, "start-period"),
        start_interval_ns=_interval_ns(flags, "start-interval"),
        retries=_retries(flags.string("retries")),
    )


def _interval_ns(flags: Flags, name: str) -> int:
    text = flags.string(name)
    if not text:
        return 0
    try:
        interval_ns = golang.parse_duration(text)
    except ValueError as error:
        _fail(str(error))
    if interval_ns and interval_ns < _MILLISECOND_NS:
        _fail(f"Interval {quote(name)} cannot be less than 1ms")
    return interval_ns


def _retries(text: str) -> int:
    if not text:
        return 0
    try:
        retries = golang.parse_int(text)
    except ValueError as error:
        _fail(str(error))
    if retries < 0:
        _fail(f"--retries cannot be negative ({retries})")
    return retries


def _onbuild(node: Node) -> ast.Onbuild:
    if node.child is None:
        _fail("ONBUILD requires at least one argument")
    parse_flags(node.flags, {})
    trigger = node.child.keyword.upper()
    if trigger == "ONBUILD":
        _fail("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        _fail(f"{trigger} isn't allowed as an ONBUILD trigger")
    expression = _ONBUILD.sub("", node.original.strip(SPACES), count=1)
    expression += "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs)
    return ast.Onbuild(text=expression, **_common(node))


_CONVERTERS: Mapping[str, Callable[[Node], ast.Instruction]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stopsignal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
