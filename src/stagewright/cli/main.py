"""The `stagewright` command: finds a command's module, runs it, and turns an error into a message and a status."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

from stagewright.errors import UsageError

_OBJECTS_BETWEEN_COLLECTIONS = 100_000

COMMANDS = {
    "build": "Build an image from a Dockerfile",
    "images": "List the images in the store",
    "inspect": "Show everything about images",
    "diff": "Show how two images differ",
    "explain": "Show why the steps of a build ran",
    "history": "Show the builds that the store remembers",
    "lint": "Show what could be better in a Dockerfile",
    "tag": "Give an image another name",
    "rm": "Remove images from the store",
    "push": "Upload an image to its registry",
    "pull": "Download an image into the store",
    "save": "Write images to an archive",
    "load": "Read images from an archive",
    "prune": "Remove what no image and no build needs",
    "cache": "Show, export, import and remove cache mounts",
    "du": "Show what the store's space is used for",
    "check": "Look for damage in the store, and repair it",
    "info": "Show what this machine supports, and the settings",
    "version": "Show the version",
}


def run() -> NoReturn:
    """The console script: runs the process's own arguments and ends the process with the exit status."""
    # What a command loads and makes is in use until its end: looking for garbage early finds none.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    status = main(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or 1
    # Giving back object by object what the kernel takes back at once would take longer than many a command.
    atexit._run_exitfuncs()
    os._exit(status)


def main(argv: Sequence[str]) -> int:
    """Runs one command and gives its exit status.

    0 is success, 1 a failure or wrong usage (the message is on standard error), 130 a command that was interrupted,
    141 one whose reader went away.
    """
    debug = "-D" in argv or "--debug" in argv
    try:
        status = _dispatch(argv)
        sys.stdout.flush()
    except SystemExit as request:
        # argparse ends --help this way.
        return request.code if isinstance(request.code, int) else 1
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 141
        from stagewright.cli.failures import report

        return report(error, debug=debug)
    return status


def _dispatch(argv: Sequence[str]) -> int:
    first = argv[0] if argv else "--help"
    if first in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if first in ("--version", "-v"):
        first = "version"
    elif first.startswith("-"):
        raise UsageError(f"unknown flag {first}", hint="flags go after the command: stagewright build [flags] PATH")
    if first not in COMMANDS:
        from stagewright.cli.flags import suggest

        raise UsageError(f"unknown command {first!r}", hint=suggest(first, COMMANDS) or "see stagewright --help")
    from importlib import import_module

    module = import_module(f"stagewright.cli.{first}")
    status: int = module.run(module.make_parser().parse(argv[1:]))
    return status


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "usage: stagewright COMMAND [flags] [arguments]\n\n"
        "Builds container images from Dockerfiles, without a daemon.\n\n"
        f"commands:\n{rows}\n\nstagewright COMMAND --help shows the flags of a command."
    )


def _reader_is_gone() -> bool:
    """Whether standard output or error is a pipe that nobody reads; if so, both are led to nowhere."""
    import select

    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        gone = gone or any(events & select.POLLERR for _, events in poll.poll(0))
    if gone:
        for stream in (sys.stdout, sys.stderr):
            _discard(stream)
    return gone


def _discard(stream: TextIO) -> None:
    # The interpreter flushes both streams at its end, and would complain of the broken pipe once more.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
