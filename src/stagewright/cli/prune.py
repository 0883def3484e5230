"""`stagewright prune`: frees the space of what no image needs."""

from __future__ import annotations

import argparse
import sys

from stagewright.cli.flags import CommandParser
from stagewright.harmless import clean_name
from stagewright.progress.text import format_bytes


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("prune", "Remove what no image needs, and no build that runs.")
    parser.switch("-a", "--all", help="remove the whole build cache, not only what is unused")
    parser.switch("-f", "--force", help="do not ask")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Asks where somebody is there to answer, prunes, and prints what is gone."""
    from stagewright.api import Store

    if not options.force and sys.stdin.isatty():
        what = "the whole build cache" if options.all else "what neither an image nor the build cache needs"
        try:
            answer = input(f"This removes {what}. Continue? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            return 0
    report = Store(root=options.root, config=options.config).prune(all=options.all)
    for item in report.items:
        print(clean_name(item))
    print(f"Total reclaimed space: {format_bytes(report.reclaimed)}")
    return 0
