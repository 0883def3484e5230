"""`stagewright version`."""

from __future__ import annotations

import argparse

from stagewright import __version__
from stagewright.cli.flags import CommandParser


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("version", "Show the version.")
    parser.common(store=False)
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the version."""
    print(f"stagewright {__version__}")
    return 0
