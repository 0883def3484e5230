"""`stagewright prune`: frees the space of what no image needs."""

from __future__ import annotations

import argparse
import sys

from stagewright.cli.du import HELP_FILTER, print_usage
from stagewright.cli.flags import CommandParser
from stagewright.cli.values import parse_size
from stagewright.progress.text import format_bytes


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "prune",
        "Remove what no image needs, and no build that runs: without flags what the build cache does not need either,"
        " with filters or limits what they say of the build cache, too.",
    )
    parser.switch("-a", "--all", help="remove the whole build cache, not only what is unused")
    parser.repeatable("--filter", metavar="FILTER", help=HELP_FILTER)
    parser.single(
        "--reserved-space", type=parse_size, metavar="SIZE", help="the size of the cache that is kept in any case"
    )
    parser.single("--keep-storage", type=parse_size, metavar="SIZE", help="the older name of --reserved-space")
    parser.single("--max-used-space", type=parse_size, metavar="SIZE", help="remove the oldest until no more is used")
    parser.single(
        "--min-free-space", type=parse_size, metavar="SIZE", help="remove the oldest until the disk has so much left"
    )
    parser.switch("-f", "--force", help="do not ask")
    parser.switch("--verbose", help="show all that is known of what is removed")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Asks where somebody is there to answer, prunes, and prints what is gone."""
    from stagewright.api import Store

    reserved = options.reserved_space or options.keep_storage or 0
    limits = reserved or options.max_used_space or options.min_free_space
    if not options.force and sys.stdin.isatty():
        what = "the whole build cache" if options.all else "what neither an image nor the build cache needs"
        if options.filter or limits:
            what = "what the filters and limits say of the build cache"
        try:
            answer = input(f"This removes {what}. Continue? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            return 0
    report = Store(root=options.root, config=options.config).prune(
        all=options.all,
        filters=options.filter,
        reserved_space=reserved,
        max_used_space=options.max_used_space or 0,
        min_free_space=options.min_free_space or 0,
    )
    if report.rows:
        print_usage(report.rows, verbose=options.verbose)
        print()
    if report.busy:
        print("Only what dead processes left was removed: a build or a transfer is running, prune again later.")
    print(f"Total: {format_bytes(report.reclaimed)}")
    return 0
