"""What `push` and `pull` share: a transfer between the store and a registry with its progress shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from stagewright.cli.flags import CommandParser
from stagewright.progress.events import Sink


def add_progress_flags(parser: CommandParser) -> None:
    """Adds `--progress` and `--quiet`."""
    parser.single("--progress", metavar="MODE", help="auto, tty, plain, rawjson, quiet or none")
    parser.switch("-q", "--quiet", help="show no progress")


def run_transfer(options: argparse.Namespace, transfer: Callable[[Sink], str]) -> int:
    """Runs `transfer` with a display for its events and prints the digest that it gives."""
    from stagewright.progress.display import open_display

    mode = "quiet" if options.quiet else options.progress
    display = open_display(mode, sys.stderr, expand_warnings=options.debug)
    try:
        digest = transfer(display)
    except BaseException as error:
        display.close(error)
        raise
    display.close(None)
    print(digest)
    return 0
