"""`stagewright pull`: downloads an image into the store."""

from __future__ import annotations

import argparse

from stagewright.cli.flags import CommandParser
from stagewright.cli.transfer import add_progress_flags, run_transfer


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("pull", "Download an image into the store.", arguments="IMAGE", least=1, most=1)
    parser.single("--platform", metavar="OS/ARCH", help="which image of a multi-platform one")
    add_progress_flags(parser)
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Pulls and prints the digest of what the store now has."""
    from stagewright.api import Store

    store = Store(root=options.root, config=options.config)
    name, platform = options.arguments[0], options.platform
    return run_transfer(options, lambda sink: store.pull(name, platform=platform, on_event=sink))
