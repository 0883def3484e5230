"""`stagewright tag`: another name for an image."""

from __future__ import annotations

import argparse

from stagewright.cli.flags import CommandParser


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("tag", "Give an image another name.", arguments="IMAGE NAME[:TAG]", least=2, most=2)
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Names the image."""
    from stagewright.api import Store

    source, name = options.arguments
    Store(root=options.root, config=options.config).tag(source, name)
    return 0
