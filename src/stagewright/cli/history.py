"""`stagewright history`: the builds that the store remembers."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from stagewright.cli.flags import CommandParser, suggest
from stagewright.cli.output import format_age, print_json, print_json_lines, print_table
from stagewright.cli.values import one_of
from stagewright.errors import UsageError
from stagewright.progress.text import format_bytes

ACTIONS = ("ls", "inspect", "logs", "rm", "export")


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "history",
        "Show the builds that the store remembers: ls, inspect [BUILD], logs [BUILD], rm BUILD... and export [BUILD];"
        " without a number, of the newest build that has ended.",
        arguments="ls | inspect | logs | rm | export [BUILD]",
        least=1,
        most=None,
    )
    parser.single(
        "--format",
        metavar="FORMAT",
        type=one_of("table", "json"),
        default="table",
        help="of ls, inspect and logs: table, or json",
    )
    parser.switch("-a", "--all", help="rm: all builds")
    parser.single("-o", "--output", metavar="FILE", help="export: the file to write (default: standard output)")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Does what the first argument says."""
    action, *arguments = options.arguments
    if action not in ACTIONS:
        hint = suggest(action, ACTIONS) or f"one of {', '.join(ACTIONS)}"
        raise UsageError(f"unknown command history {action}", hint=hint)
    numbers = [parse_number(text) for text in arguments]
    if action == "rm":
        return _remove(options, numbers)
    if len(numbers) > (action != "ls"):
        raise UsageError(f"history {action} takes {'no arguments' if action == 'ls' else 'one build'}")
    number = numbers[0] if numbers else None
    if action == "ls":
        return _list(options)
    return {"inspect": _inspect, "logs": _logs, "export": _export}[action](options, number)


def parse_number(text: str) -> int:
    """The number of a build. Raises UsageError."""
    if not text.isdecimal():
        raise UsageError(f"{text!r} is no number of a build", hint="see: stagewright history ls")
    return int(text)


def _list(options: argparse.Namespace) -> int:
    from stagewright.api import History

    builds = History(options.root).builds()
    if options.format == "json":
        print_json_lines(builds)
        return 0
    now = time.time()
    rows = [
        (
            str(build["number"]),
            build["status"],
            format_age(build["created"], now),
            f"{build['seconds']:.1f}s" if build["seconds"] else "",
            f"{build['ran']}/{build['steps']}" if build["steps"] else "",
            build["inputs"]["context"],
            build["inputs"]["target"] or "",
            ", ".join(build["inputs"]["tags"]),
        )
        for build in builds
    ]
    print_table(("BUILD", "STATUS", "STARTED", "DURATION", "RAN", "CONTEXT", "TARGET", "TAGS"), rows)
    return 0


def _inspect(options: argparse.Namespace, number: int | None) -> int:
    from stagewright.api import History

    build = History(options.root).inspect(number)
    if options.format == "json":
        print_json(build)
        return 0
    for name in ("number", "status", "error", "created", "seconds", "version"):
        if build[name]:
            print(f"{name + ':':<16}{_shown(name, build[name])}")
    for name, value in {**build["inputs"], **build["outcome"]}.items():
        if value:
            print(f"{name.replace('_', ' ') + ':':<16}{_shown(name, value)}")
    if not build["steps"]:
        return 0
    print()
    rows = [
        (
            step["state"],
            f"{step['seconds']:.1f}s" if "seconds" in step else "",
            format_bytes(step["size"]) if "size" in step else "",
            (step["key"] or "")[:14],
            step["name"].replace("\n", " "),
        )
        for step in build["steps"]
    ]
    print_table(("STATE", "TIME", "SIZE", "KEY", "STEP"), rows)
    return 0


def _shown(name: str, value: Any) -> str:
    from stagewright.harmless import clean_name

    if name == "created":
        return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(value))
    if isinstance(value, dict):
        value = [f"{key}={item}" for key, item in value.items()]
    return clean_name(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _logs(options: argparse.Namespace, number: int | None) -> int:
    from stagewright.api import History
    from stagewright.progress.display import open_display

    events = History(options.root).events(number)
    display = open_display("rawjson" if options.format == "json" else "plain", sys.stdout)
    for event in events:
        display(event)
    display.close(None)
    return 0


def _remove(options: argparse.Namespace, numbers: list[int]) -> int:
    from stagewright.api import History

    if not numbers and not options.all:
        raise UsageError("history rm needs the number of a build, or --all")
    if numbers and options.all:
        raise UsageError("history rm takes numbers of builds or --all, not both")
    for number in History(options.root).remove(None if options.all else numbers):
        print(f"Removed: {number}")
    return 0


def _export(options: argparse.Namespace, number: int | None) -> int:
    import json

    from stagewright.api import History

    document = json.dumps(History(options.root).export(number), indent=2)
    if options.output is None or options.output == "-":
        print(document)
        return 0
    from stagewright.exporters.destination import whole_file

    with whole_file(os.fspath(options.output)) as file:
        file.write(document.encode() + b"\n")
    return 0
