"""`stagewright push`: uploads an image to its registry."""

from __future__ import annotations

import argparse

from stagewright.cli.flags import CommandParser
from stagewright.cli.transfer import add_progress_flags, run_transfer


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("push", "Upload an image to its registry.", arguments="IMAGE", least=1, most=1)
    add_progress_flags(parser)
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Pushes and prints the digest of what the registry now has."""
    from stagewright.api import Store

    store = Store(root=options.root, config=options.config)
    return run_transfer(options, lambda sink: store.push(options.arguments[0], on_event=sink))
