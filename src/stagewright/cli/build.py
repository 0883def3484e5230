"""`stagewright build`: the flags of `docker buildx build`, handed to the library."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stagewright.cli.flags import CommandParser
from stagewright.cli.limits import add_step_limits, step_limits
from stagewright.cli.values import (
    csv_fields,
    one_of,
    parse_bool,
    parse_build_args,
    parse_contexts,
    parse_count,
    parse_host,
    parse_pairs,
    parse_size,
    parse_ulimit,
)
from stagewright.errors import StagewrightError, StoreError, UsageError

if TYPE_CHECKING:
    from stagewright.api import BuildResult, Output
    from stagewright.cli.calls import Call
    from stagewright.progress.display import Display

# Flags of buildx, and those of the builder before it that buildx still takes.
REFUSED = frozenset(
    {
        "attest",
        "builder",
        "debug-json",
        "detach",
        "invoke",
        "on",
        "policy",
        "print",
        "security-opt",
        "server-config",
        "squash",
    }
)
# The arguments of `api.build` that `api.call` has, too.
_ASKED_OF_A_DOCKERFILE = (
    "context", "file", "dockerfile", "target", "build_args", "build_contexts", "pull", "platform", "offline", "root",
    "config",
)  # fmt: skip


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "build", "Build an image from a Dockerfile.", arguments="PATH | URL | -", least=1, most=1, refused=REFUSED
    )
    add_flags(parser)
    parser.common()
    return parser


def add_flags(parser: CommandParser) -> None:
    """Adds all flags of a build."""
    _add_inputs(parser)
    _add_steps(parser)
    _add_results(parser)
    _add_leftovers(parser)
    parser.single(
        "--call",
        metavar="METHOD",
        type=_parse_call,
        help="do not build, but check, outline or targets[,format=json][,ignorestatus=true]",
    )
    parser.add_argument(
        "--check", nargs="?", const="true", dest="call", type=_parse_check, help="run the build checks (--call=check)"
    )
    parser.repeatable("--platform", metavar="OS/ARCH", help="what to build for")
    parser.single("--progress", metavar="MODE", help="auto, tty, plain, rawjson, quiet or none")
    parser.switch("-q", "--quiet", help="show no progress, and print the image's ID")
    parser.single("--jobs", metavar="N", type=parse_count, help="how many steps may run at once")
    parser.switch("--offline", help="take what is known of images and ask no registry")
    parser.single("--oci-runtime", metavar="PATH", help="run steps with this OCI runtime (runc, crun, ...)")
    parser.add_argument(
        "--host-ca", nargs="?", const=True, metavar="FILE", help="let steps trust the host's CA bundle, or this one"
    )


def _add_inputs(parser: CommandParser) -> None:
    parser.single("-f", "--file", metavar="FILE", help="the Dockerfile (default PATH/Dockerfile), a URL, or - (stdin)")
    parser.single("--target", metavar="STAGE", help="the stage to build (default the last)")
    parser.repeatable("--build-arg", metavar="NAME[=VALUE]", help="set a build argument")
    parser.repeatable(
        "--build-context",
        metavar="NAME=VALUE",
        help="let a folder, docker-image://NAME, oci-layout://PATH[:TAG][@DIGEST], target:STAGE or URL stand for the"
        " stage or image NAME",
    )
    parser.repeatable("--secret", metavar="SPEC", help="give steps a secret: id=NAME,src=FILE or id=NAME,env=VARIABLE")
    parser.single(
        "--secret-leak",
        default="fail",
        metavar="MODE",
        type=one_of("fail", "warn", "off"),
        help="what to do where a secret's value is in the image or in what a step left: fail, warn or off",
    )
    parser.repeatable("--ssh", metavar="SPEC", help="give steps an SSH agent: default, NAME=SOCKET or NAME=KEY[,KEY]")
    parser.switch("--pull", help="ask the registry for every image anew")
    parser.switch("--no-cache", help="run every step")
    parser.repeatable("--no-cache-filter", metavar="STAGE[,STAGE]", help="run every step of these stages")


def _add_leftovers(parser: CommandParser) -> None:
    """What Docker's first builder had to be told: here no container is left and no context sent, whatever they say."""
    for name in ("--rm", "--force-rm", "--compress"):
        parser.switch(name, help=argparse.SUPPRESS)
    parser.single("--isolation", metavar="default", type=one_of("default"), help=argparse.SUPPRESS)


def _add_steps(parser: CommandParser) -> None:
    parser.single("--network", default="default", metavar="MODE", help="network of RUN: default, host or none")
    parser.repeatable("--allow", metavar="ENTITLEMENT", help="let RUN ask for network.host or security.insecure")
    parser.repeatable("--add-host", metavar="NAME:ADDRESS", help="add a line to the hosts file of RUN")
    parser.single("--shm-size", type=parse_size, metavar="SIZE", help="size of /dev/shm in RUN")
    parser.repeatable("--ulimit", metavar="NAME=SOFT[:HARD]", type=parse_ulimit, help="set a limit for RUN")
    add_step_limits(parser)


def _add_results(parser: CommandParser) -> None:
    parser.repeatable("-t", "--tag", metavar="NAME[:TAG]", help="name the image")
    parser.repeatable("-o", "--output", metavar="SPEC", help="what to make: type=TYPE,dest=PATH, a directory, or -")
    parser.switch("--push", help="push the image (short for --output=type=registry)")
    parser.switch("--load", help="load the image into Docker (short for --output=type=docker)")
    parser.repeatable(
        "--cache-from",
        metavar="SPEC",
        help="import a cache: type=registry,ref=NAME (an image, too), type=local,src=FOLDER, type=s3 or type=gha",
    )
    parser.repeatable(
        "--cache-to",
        metavar="SPEC",
        help="export the cache: type=registry,ref=NAME, type=local,dest=FOLDER, type=inline, type=s3 or type=gha;"
        " mode=max for all stages, mounts=true or mount=ID for cache mounts; what fails is a warning, but an error with"
        " ignore-error=false",
    )
    parser.repeatable("--label", metavar="NAME=VALUE", help="set a label of the image")
    parser.repeatable("--annotation", metavar="NAME=VALUE", help="set an annotation of the manifest")
    parser.single("--iidfile", metavar="FILE", help="write the image's ID to a file")
    parser.single("--metadata-file", metavar="FILE", help="write what came out as JSON to a file")
    parser.single("--provenance", metavar="false", help="only false: no provenance is made")
    parser.single("--sbom", metavar="false", help="only false: no SBOM is made")


def run(options: argparse.Namespace) -> int:
    """Builds; prints the image's ID where quiet, and writes the files that were asked for."""
    from stagewright.progress.display import open_display

    mode = _progress_mode(options)
    request = read_request(options, os.environ)
    if options.call is not None and options.call.method != "build":
        return _call(options, request, mode)
    if request["secrets"]:
        from stagewright.sandbox.coredumps import forgo_core_dumps

        forgo_core_dumps()
    if options.iidfile:
        _remove_stale(options.iidfile)
    display = open_display(mode, sys.stderr, expand_warnings=options.debug)
    try:
        result: BuildResult = _run("build", request, display)
    except StagewrightError as error:
        from stagewright.cli.failures import report

        return report(error, debug=options.debug, doing="failed to build", with_log=mode != "rawjson")
    image_id = result.config_digest or result.digest or ""
    if options.iidfile:
        _write_file(options.iidfile, image_id)
    if options.metadata_file:
        import json

        _write_file(options.metadata_file, json.dumps(result.metadata(), indent=2, sort_keys=True))
    if mode == "quiet" and image_id:
        print(image_id)
    return 0


def _parse_call(text: str) -> Call:
    from stagewright.cli.calls import parse_call

    return parse_call(text)


def _parse_check(text: str) -> Call:
    from stagewright.cli.calls import parse_check

    return parse_check(text)


def _call(options: argparse.Namespace, request: dict[str, Any], mode: str | None) -> int:
    """Asks something of the Dockerfile; prints the answer."""
    from stagewright.cli import calls
    from stagewright.image.gojson import dumps
    from stagewright.progress.display import open_display

    call: Call = options.call
    display = open_display(mode, sys.stderr, expand_warnings=options.debug)
    asked = {name: request[name] for name in _ASKED_OF_A_DOCKERFILE}
    try:
        report = _run("call", {"method": call.method, **asked}, display)
    except StagewrightError as error:
        from stagewright.cli.failures import report as fail

        return fail(error, debug=options.debug, doing="failed to build", with_log=False)
    if call.method == "check":
        answer = calls.answer_check(report, _dockerfile_shown(request))
    else:
        answer = calls.answer_outline(report) if call.method == "outline" else calls.answer_targets(report)
    data = dumps(answer.data, indent=True).decode()
    sys.stdout.write(f"{data}\n" if call.as_json else answer.text)
    sys.stderr.write(answer.complaint)
    if options.metadata_file:
        _write_file(options.metadata_file, dumps(answer.metadata(), indent=True).decode())
    return 0 if call.ignore_status and not answer.complaint else answer.status


def _dockerfile_shown(request: Mapping[str, Any]) -> str:
    """What messages call the Dockerfile."""
    if request["dockerfile"] is not None:
        return "stdin"
    folder = "" if request["context"] == "-" else request["context"]
    return request["file"] or os.path.normpath(os.path.join(folder, "Dockerfile"))


def _run(name: str, request: dict[str, Any], display: Display) -> Any:
    """Calls a function of the library, showing its events and giving it the signals."""
    from stagewright import api
    from stagewright.cli.signals import cancel_on_signals

    with cancel_on_signals(display.abandon) as cancel:
        try:
            result = getattr(api, name)(**request, on_event=display, cancel=cancel)
        except BaseException as error:
            display.close(error)
            raise
        display.close(None)
        return result


def _progress_mode(options: argparse.Namespace) -> str | None:
    mode: str | None = options.progress
    if not options.quiet:
        return mode
    if mode not in (None, "auto", "quiet"):
        raise UsageError(f"--quiet and --progress={mode} exclude each other")
    return "quiet"


def read_request(options: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, Any]:
    """The keyword arguments of `api.build`."""
    from stagewright.cli.specs import parse_cache, parse_secret, parse_ssh

    _check_attestations(options)
    if options.no_cache and options.no_cache_filter:
        raise UsageError("--no-cache and --no-cache-filter exclude each other")
    context = options.arguments[0]
    if context == "-" and options.file == "-":
        raise UsageError("standard input cannot be both the build context and the Dockerfile")
    return {
        "context": context,
        "file": None if options.file == "-" else options.file,
        "dockerfile": sys.stdin.buffer.read() if options.file == "-" else None,
        "tags": options.tag,
        "target": options.target,
        "build_args": parse_build_args(options.build_arg, environ),
        "build_contexts": parse_contexts(options.build_context),
        "secrets": [parse_secret(text, environ) for text in options.secret],
        "ssh": [parse_ssh(text) for text in options.ssh],
        "outputs": _outputs(options.output, options.iidfile),
        "push": options.push,
        "load": options.load,
        "cache_from": [parse_cache(text, "--cache-from") for text in options.cache_from if text],
        "cache_to": [parse_cache(text, "--cache-to") for text in options.cache_to if text],
        "no_cache": options.no_cache,
        "no_cache_filter": _split(options.no_cache_filter),
        "pull": options.pull,
        "labels": parse_pairs(options.label, "--label"),
        "annotations": _annotations(options.annotation),
        "network": options.network,
        "add_hosts": [parse_host(text) for text in _split(options.add_host)],
        "shm_size": options.shm_size,
        "ulimits": options.ulimit,
        "allow": options.allow,
        "limits": step_limits(options),
        "platform": _platform(options.platform, environ),
        "jobs": options.jobs,
        "offline": options.offline,
        "oci_runtime": options.oci_runtime,
        "host_ca": _host_ca(options.host_ca),
        "secret_leak": options.secret_leak,
        "root": options.root,
        "config": options.config,
    }


def _check_attestations(options: argparse.Namespace) -> None:
    for name in ("provenance", "sbom"):
        value = getattr(options, name)
        if value is not None and value not in ("0", "f", "F", "false", "FALSE", "False"):
            raise UsageError(f"the flag --{name}={value} is not supported yet", hint=f"--{name}=false is")


def _annotations(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(f"--annotation: {text!r} is no name=value pair")
    return parse_pairs(texts, "--annotation")


def _outputs(texts: list[str], iidfile: str | None) -> list[Output] | None:
    from stagewright.cli.specs import parse_output

    outputs = [parse_output(text) for text in texts if text]
    for output in outputs:
        if output.dest == "-" and sys.stdout.isatty():
            raise UsageError(
                f"output type={output.type} would write an archive to the terminal", hint="give it a dest=FILE"
            )
        if iidfile and output.type in ("local", "tar"):
            raise UsageError(f"--iidfile needs an image, but output type={output.type} makes none")
    return outputs or None


def _split(texts: list[str]) -> list[str]:
    return [field for text in texts for field in csv_fields(text) if field]


def _platform(texts: list[str], environ: Mapping[str, str]) -> str | None:
    platforms = _split(texts or [environ.get("DOCKER_DEFAULT_PLATFORM", "")])
    if len(platforms) > 1:
        raise UsageError(f"building for several platforms is not supported yet: {', '.join(platforms)}")
    if platforms == ["local"]:
        from stagewright.image.platform import host_platform

        return str(host_platform())
    return platforms[0] if platforms else None


def _host_ca(value: str | bool | None) -> str | bool | None:
    if not isinstance(value, str):
        return value
    try:
        return parse_bool(value)
    except UsageError:
        return value


def _remove_stale(path: str) -> None:
    """Removes the ID of an earlier build, so that nobody takes it for this one's if this one fails."""
    try:
        os.remove(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot replace {path}: {error.strerror}") from error


def _write_file(path: str, text: str) -> None:
    from stagewright.exporters.destination import whole_file

    with whole_file(path) as file:
        file.write(text.encode())
